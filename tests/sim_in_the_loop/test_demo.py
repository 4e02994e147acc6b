"""The whole loop, small: graph, bags, episodes, replay, delta, report."""

import json

import pytest

from policies.errors import InputError
from sim2real.demo import demo_command

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]


def test_demo_closes_the_loop(tmp_path, capsys):
    out = tmp_path / "demo"
    demo_command(out=out, train_goals=5, test_goals=2)
    replay = json.loads((out / "result.json").read_text())["replay"]
    before, after = (replay["methods"][m] for m in ("open_loop", "delta_action"))
    # Five episodes instead of 24 already better at every horizon, and halved at 1 s.
    assert after["E_g_mpjpe_mm"][-1] < 0.5 * before["E_g_mpjpe_mm"][-1]
    assert after["E_g_mpjpe_mm"][0] < before["E_g_mpjpe_mm"][0]
    page = (out / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "E_g-mpjpe" in capsys.readouterr().out
    with pytest.raises(InputError, match="exists already"):
        demo_command(out=out)


def test_demo_never_removes_what_it_did_not_make(tmp_path):
    (tmp_path / "precious").write_text("data")
    with pytest.raises(InputError, match="not the output of a demo"):
        demo_command(out=tmp_path, overwrite=True)
    assert (tmp_path / "precious").read_text() == "data"
