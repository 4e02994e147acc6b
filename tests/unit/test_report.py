"""The HTML page: complete, escaped, well formed, never over another file."""

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import InputError
from sim2real.report import Bars, Lines, Table, Text, report_command, ticks, write_report

SECTIONS = [
    Text(heading="What & why", text="a < b"),
    Table(heading="Errors", header=("name", "mm"), rows=(("<script>", "1.0"),), note="a note"),
    Bars(
        heading="Bars",
        labels=tuple(f"joint{i}" for i in range(12)),
        series={"before": [1.0] * 12, "after": [0.5] * 11 + [math.nan]},
        unit="mm",
    ),
    Lines(
        heading="Lines",
        x=[0.0, 0.1, 0.2],
        series={"logged": [0.0, 1.0, 0.0], "open": [0.0, 0.9, math.nan], "delta": [0.0, 1.0, 0.1]},
        x_label="t, s",
        y_label="q, rad",
    ),
    Lines(heading="Flat", x=[0.0], series={"one": [2.0]}, x_label="t", y_label="q"),
]


def test_page_is_self_contained_escaped_and_its_charts_are_well_formed(tmp_path):
    page = tmp_path / "new" / "page.html"
    write_report(page, "A & B", SECTIONS)
    text = page.read_text()
    assert "<title>A &amp; B</title>" in text
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert "http" not in text
    assert "prefers-color-scheme: dark" in text
    charts = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(charts) == 3
    trees = [ET.fromstring(chart) for chart in charts]
    assert len(trees[0].findall("rect")) == 23  # the one that is not a number has no bar
    assert len(trees[1].findall("polyline")) == 3
    assert "nan" not in text.lower().replace("nance", "")


def test_page_is_not_overwritten_silently(tmp_path):
    page = tmp_path / "page.html"
    write_report(page, "one", [])
    with pytest.raises(InputError, match="expected a new file"):
        write_report(page, "two", [])
    write_report(page, "two", [], overwrite=True)
    assert "<h1>two</h1>" in page.read_text()


@pytest.mark.parametrize("content", [None, "{", "[]", '{"replay": 3}', '{"methods": {}}'])
def test_folder_without_a_result_gets_a_sentence(tmp_path, content):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(InputError):
        report_command(tmp_path)
    assert not list(tmp_path.glob("*.html"))


@given(
    st.floats(-1e6, 1e6, allow_nan=False), st.floats(0.0, 1e6, allow_nan=False), st.integers(3, 12)
)
def test_ticks_cover_the_range_with_few_even_steps(low, span, most):
    marks = ticks(low, low + span, most)
    assert 2 <= len(marks) <= most + 2
    # Nothing that a reader of the axis could see may lie outside: a step is the unit that counts.
    slack = 1e-8 * (marks[1] - marks[0]) + 1e-12 * max(abs(low), abs(low + span))
    assert marks[0] <= low + slack
    assert marks[-1] >= low + span - slack
