"""``realign policy bench``: an answer is timed whatever answers; nothing is written by accident."""

from __future__ import annotations

import json

import pytest

from policies.bench_cli import policy_bench
from policies.errors import InputError
from policies.robots import get_robot
from sim2real.demo import panda_checkpoint
from sim2real.tasks.swing import save_swing


@pytest.mark.parametrize(("kind", "every_ms"), [("chunk model", 80.0), ("actor", 20.0)])
def test_times_of_answers(kind, every_ms, tmp_path, capsys):
    policy = panda_checkpoint()
    if kind == "actor":
        policy = tmp_path / "swing"
        save_swing(policy, get_robot("so101"))
    out = tmp_path / "results" / "bench.json"
    policy_bench(policy, answers=20, json=out)
    content = json.loads(out.read_text())
    times = content["time_per_answer_ms"]
    assert 0.0 < times["p50"] <= times["p95"] <= times["p99"]
    assert content["answers"] == 20
    assert content["asked_every_ms"] == pytest.approx(every_ms)
    printed = capsys.readouterr().out
    assert printed.startswith(f"{content['policy']}: an answer in p50 ")
    assert printed.count("\n") == 1


def test_results_are_not_replaced(tmp_path):
    out = tmp_path / "bench.json"
    out.write_text("mine")
    with pytest.raises(InputError, match="--overwrite"):
        policy_bench(panda_checkpoint(), answers=1, json=out)
    assert out.read_text() == "mine"
    policy_bench(panda_checkpoint(), answers=1, json=out, overwrite=True)
    assert json.loads(out.read_text())["answers"] == 1


def test_nothing_to_time_is_refused():
    with pytest.raises(InputError, match="at least 1 answer"):
        policy_bench(panda_checkpoint(), answers=0)
