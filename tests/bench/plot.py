"""Curves as SVG for the pages of docs: axes with ticks, bands, a legend; light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from sim2real.report import ticks

_STYLE = """<style>
text { fill: #1f2328; } .soft { fill: #57606a; }
.grid { stroke: #d0d7de; } .box { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .soft { fill: #8b949e; }
  .grid { stroke: #30363d; } .box { fill: #0d1117; }
}
</style>"""


@dataclass(kw_only=True)
class Axes:
    """One panel.

    Attributes:
        left, top, width, height: where it is, px.
        x_range, y_range: what it spans, in units of the data.
    """

    left: float
    top: float
    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        """Abscissa of a value, px."""
        low, high = self.x_range
        return round(self.left + self.width * (value - low) / (high - low), 1)

    def y(self, value: float) -> float:
        """Ordinate of a value, px."""
        low, high = self.y_range
        return round(self.top + self.height * (high - value) / (high - low), 1)

    def grid(self, x_label: str, y_label: str, x_ticks: Sequence[float] = ()) -> None:
        """Lines at round values, numbers and labels."""
        bottom, right = self.top + self.height, self.left + self.width
        for value in _within(ticks(*self.y_range), self.y_range):
            y = self.y(value)
            self.parts.append(
                f'<line class="grid" x1="{self.left}" y1="{y}" x2="{right}" y2="{y}"/>'
            )
            self.text(self.left - 8, y + 4, f"{value:g}", anchor="end")
        for value in x_ticks or _within(ticks(*self.x_range, 12), self.x_range):
            self.text(self.x(value), bottom + 18, f"{value:g}")
        self.text((self.left + right) / 2, bottom + 38, x_label)
        self.text(self.left - 44, self.top - 12, y_label, anchor="start")

    def text(
        self, x: float, y: float, words: str, *, anchor: str = "middle", soft: bool = True
    ) -> None:
        """Words at a place, px."""
        kind = ' class="soft"' if soft else ""
        self.parts.append(
            f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def band(self, first: float, last: float, colour: str, words: str) -> None:
        """A coloured span of the abscissa with its name above."""
        x, end = self.x(max(first, self.x_range[0])), self.x(min(last, self.x_range[1]))
        self.parts.append(
            f'<rect x="{x}" y="{self.top}" width="{end - x:.1f}" height="{self.height}" '
            f'fill="{colour}" fill-opacity="0.16"/>'
        )
        self.text((x + end) / 2, self.top + 16, words, soft=False)

    def curve(
        self, xs: Sequence[float], ys: Sequence[float], colour: str, *, dashed: bool = False
    ) -> None:
        """A line through points; what lies beyond the abscissa is left out."""
        low, high = self.x_range
        points = " ".join(
            f"{self.x(x)},{self.y(y)}" for x, y in zip(xs, ys, strict=True) if low <= x <= high
        )
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        )

    def bars(self, series: Sequence[tuple[Sequence[float], str]]) -> None:
        """Bars at 1, 2, 3, ... on the abscissa, those of each series beside each other."""
        width = 0.6 / len(series)
        for place, (values, colour) in enumerate(series):
            for at, value in enumerate(values, start=1):
                x, y = self.x(at - 0.3 + width * place), self.y(value)
                self.parts.append(
                    f'<rect x="{x}" y="{y}" width="{self.x(at + width) - self.x(at):.1f}" '
                    f'height="{self.y(0.0) - y:.1f}" fill="{colour}"/>'
                )

    def legend(self, entries: Sequence[tuple[str, str, bool]], y: float) -> None:
        """Names of curves in a row: (name, colour, dashed)."""
        x = self.left
        for name, colour, dashed in entries:
            dash = ' stroke-dasharray="6 4"' if dashed else ""
            self.parts.append(
                f'<line x1="{x:.0f}" y1="{y - 4}" x2="{x + 26:.0f}" y2="{y - 4}" '
                f'stroke="{colour}" stroke-width="2"{dash}/>'
            )
            self.text(x + 32, y, name, anchor="start", soft=False)
            x += 54 + 6.6 * len(name)


def _within(values: Sequence[float], span: tuple[float, float]) -> list[float]:
    return [value for value in values if span[0] <= value <= span[1]]


def page(width: int, height: int, title: str, panels: Sequence[Axes]) -> str:
    """The whole picture; ``title`` is what a screen reader says."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'font-family="sans-serif" font-size="13" role="img">',
            f"<title>{escape(title)}</title>",
            _STYLE,
            f'<rect class="box" width="{width}" height="{height}"/>',
            *(part for panel in panels for part in panel.parts),
            "</svg>\n",
        ]
    )
