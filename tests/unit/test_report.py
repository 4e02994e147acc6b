"""The HTML page: complete, escaped, well formed, never over another file."""

import base64
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import images
from policies.errors import InputError
from policies.robots import PANDA
from sim2real.episodes.episode import Episode
from sim2real.episodes.frames import CameraFrames
from sim2real.episodes.store import save_episodes
from sim2real.replay.episode_page import STRIP_BYTES, camera_strip, episode_sections
from sim2real.report import (
    Bars,
    Lines,
    Pictures,
    Table,
    Text,
    report_command,
    ticks,
    write_report,
)

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


# ---- pictures ----------------------------------------------------------------------------------

SENT = re.compile(r'src="data:image/jpeg;base64,([^"]+)"')


def episode(size: tuple[int, int], steps: int = 30) -> Episode:
    """An arm that stands still before a camera that sees noise, brighter at each step."""
    rng = np.random.default_rng(0)
    levels = np.linspace(40, 255, steps)
    files = [
        images.encode(rng.integers(0, int(level), (*size, 3), np.uint8), "png", "")
        for level in levels
    ]
    camera = CameraFrames(
        camera="eye",
        height=size[0],
        width=size[1],
        index=np.arange(steps),
        source=lambda i: files[i],
    )
    zeros = np.zeros((steps, PANDA.n))
    return Episode(
        robot="panda",
        robot_fingerprint=PANDA.fingerprint,
        rate_hz=10.0,
        t_s=5.0 + np.arange(steps) / 10.0,
        qpos_rad=zeros,
        qvel_rad_s=zeros,
        action_rad=zeros,
        images={"eye": camera, "hand": camera},
        task="look",
        source={"bag": "b", "image.eye.max_age_s": "0.0123"},
    )


def test_pictures_are_inlined_and_escaped(tmp_path):
    file = images.encode(np.zeros((8, 8, 3), np.uint8), "jpeg", "")
    strip = Pictures(heading="Seen", rows={"<eye>": [file, file]}, captions=("0 s", "1 s"))
    write_report(tmp_path / "page.html", "A", [strip])
    text = (tmp_path / "page.html").read_text()
    assert [base64.b64decode(found) for found in SENT.findall(text)] == [file, file]
    assert "<eye>" not in text
    assert 'alt="&lt;eye&gt;, 1 s"' in text


@pytest.mark.parametrize("size", [(24, 32), (480, 640)])
def test_a_strip_of_any_camera_stays_small(size, tmp_path):
    strip = camera_strip(episode(size))
    assert strip.captions == (
        "0.0 s",
        "0.4 s",
        "0.8 s",
        "1.2 s",
        "1.7 s",
        "2.1 s",
        "2.5 s",
        "2.9 s",
    )
    files = [file for row in strip.rows.values() for file in row]
    assert len(files) == 16
    assert sum(map(len, files)) <= STRIP_BYTES
    means = [images.decode(file, "").mean() for file in strip.rows["eye"]]
    assert means == sorted(means)
    write_report(tmp_path / "page.html", "A", [strip])
    assert (tmp_path / "page.html").stat().st_size < 200_000


def test_a_folder_of_episodes_gets_a_page_with_pictures(tmp_path):
    save_episodes([episode((24, 32))] * 6, tmp_path / "e", latency_s=0.0)
    report_command(tmp_path / "e")
    text = (tmp_path / "e" / "result_report.html").read_text()
    assert len(text) < 220_000
    assert len(SENT.findall(text)) == 4 * 16
    assert "6 episodes, 18.0 s at 10 Hz" in text
    assert text.count("<td>12</td>") == 6
    bare = [replace(episode((24, 32)), images={})]
    assert camera_strip(bare[0]) is None
    assert [type(section).__name__ for section in episode_sections(bare)] == ["Text", "Table"]
