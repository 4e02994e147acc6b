"""`realign compare`: every method on the same data, with intervals; delta dynamics."""

import json
from dataclasses import replace

import numpy as np
import pytest

from policies.errors import InputError
from policies.robots import PANDA
from sim2real.baselines.compare import METHODS, compare, randomized
from sim2real.baselines.delta_dynamics import train_delta_dynamics
from sim2real.cli import main
from sim2real.delta.train import DeltaConfig
from sim2real.episodes.store import save_episodes
from sim2real.replay.open_loop import Method, measure
from sim2real.sim.gaps import Gap

GAP = Gap(strength={"*": 0.7}, friction_nm={"*": 1.0})
FAST = DeltaConfig(hidden=(32,), epochs=60, batch=128, ensemble=2)


@pytest.fixture(scope="module")
def episodes(swinging_arm):
    return [swinging_arm(seed, GAP, 1.5) for seed in range(5)]


def test_delta_dynamics_corrects_the_next_state(swinging_arm):
    logs = [swinging_arm(seed, GAP, 4.0) for seed in range(7)]
    residual = train_delta_dynamics(logs[:6], PANDA, config=FAST)
    methods = [Method(name="open_loop"), Method(name="delta_dynamics", residual=residual)]
    result = measure(logs[6:], PANDA, methods, horizons_s=(0.05, 0.25))
    before, after = (result.methods[m.name].qpos_rmse_rad for m in methods)
    assert (after < 0.7 * before).all()
    assert result.methods["delta_dynamics"].e_ee_mm is not None


def test_randomized_simulators_are_drawn_within_the_ranges():
    drawn = randomized(PANDA, 50, seed=1)
    gains = np.array([gap.kp["*"] for gap in drawn])
    delays = np.array([gap.delay_s for gap in drawn])
    assert 0.925 <= gains.min() < 0.96
    assert 1.02 < gains.max() <= 1.05
    assert 0.02 <= delays.min() < delays.max() <= 0.04
    assert drawn == randomized(PANDA, 50, seed=1)
    assert drawn != randomized(PANDA, 50, seed=2)


def test_compare_measures_all_methods_in_the_same_windows(episodes, tmp_path, capsys):
    save_episodes(episodes[:3], tmp_path / "train")
    save_episodes(episodes[3:], tmp_path / "test")
    names = [m for m in METHODS if "sysid" not in m]
    out, page = tmp_path / "c.json", tmp_path / "c.html"
    args = ["compare", str(tmp_path / "train"), str(tmp_path / "test"), "--robot", "panda"]
    args += ["--methods", *names, "--bootstrap", "200", "--horizons-s", "0.1", "0.25"]
    assert main([*args, "--json", str(out), "--report", str(page)]) == 0
    printed = capsys.readouterr().out
    content = json.loads(out.read_text())
    assert set(content["methods"]) == set(names)
    for name, errors in content["methods"].items():
        assert name.replace("_", " ") in printed
        for key in ("E_g_mpjpe_mm", "E_mpjpe_mm", "qpos_rmse_rad", "E_ee_mm"):
            for value, (low, high) in zip(errors[key], errors[f"{key}_ci95"], strict=True):
                assert low <= value <= high
    delta = content["methods"]["delta_action"]
    assert delta["qpos_rmse_rad_ratio"][-1] < 0.5
    assert 0.0 <= delta["trust"]["network"] <= 1.0
    assert content["methods"]["open_loop"]["E_g_mpjpe_mm_ratio"] == [1.0, 1.0]
    assert "<svg" in page.read_text()
    assert main([*args, "--json", str(out)]) == 2
    assert "exists" in capsys.readouterr().err


def test_bad_input_gets_a_sentence(episodes):
    with pytest.raises(InputError, match="expected methods out of"):
        compare(episodes[:2], episodes[2:], PANDA, methods=("magic",))
    other = [replace(e, robot="g1") for e in episodes[2:]]
    with pytest.raises(InputError, match="expected episodes of panda"):
        compare(episodes[:2], other, PANDA, methods=("open_loop",))
    with pytest.raises(InputError, match="longer than 3 s"):
        compare(episodes[:2], episodes[2:], PANDA, methods=("open_loop",), horizons_s=(3.0,))
