"""Self-contained HTML pages with tables and inline SVG charts, in light and dark.

A page is a list of sections (:class:`Text`, :class:`Table`, :class:`Bars`, :class:`Lines`,
:class:`Pictures`); nothing is fetched when it is opened, and each chart carries its values as
tooltips.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from policies.actor.config import read_json
from policies.errors import InputError

_WIDTH, _HEIGHT = 720.0, 240.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 12.0, 10.0, 40.0
_SLANTED = 74.0  # room below for long names of many groups
_MOST_COLOURS = 6

REFERENCE = "logged"
"""Name of the series that the others are compared with; drawn in a neutral colour."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph, with a heading if there is one."""

    text: str
    heading: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the first column is text, the others are aligned as numbers."""

    heading: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Grouped bars: one group for each label, one bar for each series.

    Attributes:
        heading: what is shown.
        labels: names of the groups.
        series: name -> one value for each label.
        unit: unit of the values.
        note: what the reader should know.
    """

    heading: str
    labels: tuple[str, ...]
    series: Mapping[str, Sequence[float]]
    unit: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Curves over a common axis.

    Attributes:
        heading: what is shown.
        x: common abscissa.
        series: name -> one value for each x.
        x_label, y_label: axes with units.
        note: what the reader should know.
    """

    heading: str
    x: Sequence[float]
    series: Mapping[str, Sequence[float]]
    x_label: str
    y_label: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Rows of small pictures, in order.

    Attributes:
        heading: what is shown.
        rows: name of a row -> JPEG files.
        captions: below each column.
        note: what the reader should know.
    """

    heading: str
    rows: Mapping[str, Sequence[bytes]]
    captions: tuple[str, ...]
    note: str = ""


Section = Text | Table | Bars | Lines | Pictures

_STYLE = """
:root { color-scheme: light dark; --bg: #ffffff; --card: #f6f7f9; --fg: #1b1f24; --soft: #667080;
  --grid: #dfe3e8; --s0: #8a94a3; --s1: #d9772b; --s2: #2f6fde; --s3: #2a9d6f; --s4: #a2509e;
  --s5: #b8a12a; --s6: #5b6b7a; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --card: #1c2127; --fg: #e6e9ed;
  --soft: #9aa5b3; --grid: #313944; --s0: #98a3b3; --s1: #f0975a; --s2: #6ea2ff; --s3: #58c598;
  --s4: #d08acb; --s5: #d9c45a; --s6: #a3b5c7; } }
body { margin: 0 auto; max-width: 780px; padding: 32px 20px 64px; background: var(--bg);
  color: var(--fg); font: 15px/1.55 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 8px; } h2 { font-size: 17px; margin: 36px 0 8px; }
p { margin: 6px 0; } .note { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 500; font-size: 13px; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.strip th, .strip td { border: 0; padding: 2px; text-align: center; font-size: 12px; }
.strip img { display: block; width: 100%; min-width: 64px; border-radius: 4px; }
figure { margin: 8px 0; padding: 12px; background: var(--card); border-radius: 10px; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 11px; }
.grid { stroke: var(--grid); } .axis { stroke: var(--soft); }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; margin: 0 0 6px 4px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  margin-right: 6px; vertical-align: -1px; }
"""


def write_report(
    out: Path, title: str, sections: Sequence[Section], *, overwrite: bool = False
) -> None:
    """Write a page.

    Args:
        out: file to write; its folder is made.
        title: heading of the page.
        sections: what it shows, in order.
        overwrite: replace an existing file.

    Raises:
        InputError: ``out`` exists and ``overwrite`` is False, or cannot be written.
    """
    if out.exists() and not overwrite:
        raise InputError(f"expected a new file for the report, {out} exists; choose another name")
    body = "\n".join(_section(section) for section in sections)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"expected a place to write the report, but {out} cannot be written "
            f"({error.strerror}); choose another"
        ) from None


def _section(section: Section) -> str:
    heading = f"<h2>{escape(section.heading)}</h2>" if section.heading else ""
    if isinstance(section, Text):
        return f"{heading}<p>{escape(section.text)}</p>"
    note = f'<p class="note">{escape(section.note)}</p>' if section.note else ""
    if isinstance(section, Table):
        return f"{heading}{_table(section)}{note}"
    if isinstance(section, Pictures):
        return f"{heading}{_pictures(section)}{note}"
    chart = _bars(section) if isinstance(section, Bars) else _lines(section)
    return f"{heading}<figure>{_legend(tuple(section.series))}{chart}</figure>{note}"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def _pictures(pictures: Pictures) -> str:
    rows = []
    for name, files in pictures.rows.items():
        cells = "".join(
            f'<td><img src="data:image/jpeg;base64,{base64.b64encode(file).decode()}" '
            f'alt="{escape(name)}, {escape(caption)}"></td>'
            for file, caption in zip(files, pictures.captions, strict=True)
        )
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    below = "".join(f"<td>{escape(caption)}</td>" for caption in pictures.captions)
    return (
        f'<div class="scroll"><table class="strip">{"".join(rows)}'
        f"<tr><th></th>{below}</tr></table></div>"
    )


def _legend(names: Sequence[str]) -> str:
    items = (
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in zip(names, _colours(names), strict=True)
    )
    return f'<div class="legend">{"".join(items)}</div>'


def _colours(names: Sequence[str]) -> list[str]:
    """One colour for each series: neutral for ``logged``, then warm, cool, ... in order."""
    methods = [name for name in names if name != REFERENCE]
    numbers = [0 if n == REFERENCE else 1 + methods.index(n) % _MOST_COLOURS for n in names]
    return [f"var(--s{number})" for number in numbers]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that cover ``low`` to ``high`` (steps of 1, 2 or 5 times a power of ten)."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):  # a flat curve
        pad = max(0.5, 1e-3 * abs(low))
        low, high = low - pad, high + pad
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / (most - 1)))
    step = next(m * power for m in (1, 2, 5, 10, 20) if span / (m * power) <= most - 1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _frame(marks: Sequence[float], y: Callable[[float], float], label: str) -> str:
    parts = []
    for mark in marks:
        at = y(mark)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{mark:.4g}</text>'
        )
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2.0
    parts.append(
        f'<text transform="translate(12 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(label)}</text>"
    )
    return "".join(parts)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _svg(content: str, label: str, below: float = 0.0) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT + below:.0f}" role="img" '
        f'aria-label="{escape(label)}">'
        f"{content}</svg>"
    )


def _bars(chart: Bars) -> str:
    finite = [v for values in chart.series.values() for v in values if math.isfinite(v)]
    marks = ticks(min(0.0, *finite, 0.0), max(0.0, *finite, 0.0))
    y = _scale(marks[0], marks[-1], _HEIGHT - _BOTTOM, _TOP)
    group = (_WIDTH - _LEFT - _RIGHT) / max(len(chart.labels), 1)
    width = 0.76 * group / max(len(chart.series), 1)
    parts = [_frame(marks, y, chart.unit)]
    slant, colours = len(chart.labels) > 10, _colours([*chart.series])
    for g, label in enumerate(chart.labels):
        left = _LEFT + g * group
        for s, (name, values) in enumerate(chart.series.items()):
            if not math.isfinite(values[g]):
                continue
            top, bottom = sorted((y(values[g]), y(0.0)))
            parts.append(
                f'<rect x="{left + 0.12 * group + s * width:.1f}" y="{top:.1f}" rx="1.5" '
                f'width="{0.92 * width:.1f}" height="{bottom - top:.1f}" '
                f'fill="{colours[s]}"><title>{escape(label)}, {escape(name)}: '
                f"{values[g]:.4g} {escape(chart.unit)}</title></rect>"
            )
        x, base = left + group / 2.0, _HEIGHT - _BOTTOM + 14.0
        turn = f' transform="rotate(-60 {x:.1f} {base:.1f})" text-anchor="end"' if slant else ""
        anchor = turn or ' text-anchor="middle"'
        parts.append(f'<text x="{x:.1f}" y="{base:.1f}"{anchor}>{escape(label)}</text>')
    return _svg("".join(parts), chart.heading, below=_SLANTED if slant else 0.0)


def _lines(chart: Lines) -> str:
    finite = [v for values in chart.series.values() for v in values if math.isfinite(v)] or [0.0]
    marks = ticks(min(finite), max(finite))
    across = ticks(min(chart.x, default=0.0), max(chart.x, default=1.0), 8)
    x = _scale(across[0], across[-1], _LEFT, _WIDTH - _RIGHT)
    y = _scale(marks[0], marks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(marks, y, chart.y_label)]
    for mark in across:
        parts.append(
            f'<text x="{x(mark):.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">'
            f"{mark:.4g}</text>"
        )
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f"{escape(chart.x_label)}</text>"
    )
    for (name, values), colour in zip(chart.series.items(), _colours([*chart.series]), strict=True):
        points = " ".join(
            f"{x(a):.1f},{y(b):.1f}"
            for a, b in zip(chart.x, values, strict=True)
            if math.isfinite(b)
        )
        parts.append(
            f'<polyline class="line" stroke="{colour}" points="{points}">'
            f"<title>{escape(name)}</title></polyline>"
        )
    return _svg("".join(parts), chart.heading)


def report_command(folder: Path, out: Path | None = None, overwrite: bool = False) -> None:
    """Self-contained HTML page of a demo or replay folder, or of episodes.

    Args:
        folder: folder with the result.json of a demo, or with the JSON of a replay, or episodes.
        out: page to write, default result_report.html in that folder.
        overwrite: replace the page if it exists.

    Raises:
        InputError: no result in the folder, or it is damaged; the page exists.
    """
    from sim2real.episodes.store import MANIFEST, load_episodes
    from sim2real.replay.episode_page import episode_sections
    from sim2real.replay.report import result_sections

    page = out or folder / "result_report.html"
    title = f"realign: {folder.resolve().name}"
    if (folder / MANIFEST).is_file():
        write_report(page, title, episode_sections(load_episodes(folder)), overwrite=overwrite)
        print(page)
        return
    names = ("result.json", "replay.json")
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise InputError(
            f"expected a folder with {' or '.join(names)}, or of episodes, got {folder}; make one "
            "with `realign demo`, `realign replay ... --json FOLDER/replay.json` or `realign "
            "episodes build`"
        )
    try:
        content = read_json(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: expected JSON, got {error}; run the command again") from None
    sections = result_sections(content.get("replay", content))
    write_report(page, title, sections, overwrite=overwrite)
    print(page)
