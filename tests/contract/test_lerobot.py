"""LeRobot's own policies in their own interpreter: the same answers as its ``select_action``.

``REALIGN_LEROBOT_PYTHON`` names an interpreter that has LeRobot, see docs/tutorials/
run_a_lerobot_policy.md; without it everything here skips. ``lerobot_reference.py`` writes small
random checkpoints there, and records what LeRobot's own loop does with them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from policies.checkpoint import load_policy
from policies.interface import Observation
from policies.messages import NS
from policies.robots import SO101
from policies.runtime.engine import make_engine
from policies.runtime.failure import Failure, PolicyFailureError
from policies.runtime.planning import EngineConfig
from policies.serving.client import RemoteConfig, open_session
from policies.vla.lerobot.checkpoint import import_lerobot, load_lerobot_model
from policies.vla.lerobot.mapping import to_lerobot, to_si
from policies.vla.lerobot.model import RunConfig
from policies.vla.lerobot.process import PYTHON_VARIABLE
from sim2real.serve_cli import local_policy

REFERENCE = Path(__file__).parent / "lerobot_reference.py"
KINDS = ("act", "diffusion", "vqbet", "smolvla")
TOLERANCE = 1e-5  # in the checkpoint's own units, here degrees and parts of a range
SEED, TICKS, RATE_HZ = 7, 24, 25.0
LIMIT_S = 300.0

pytestmark = [
    pytest.mark.slow,  # LeRobot takes some seconds to import, and does so often
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        PYTHON_VARIABLE not in os.environ,
        reason=f"needs LeRobot: set {PYTHON_VARIABLE} to an interpreter that has it",
    ),
]


def reference(*arguments: object) -> None:
    """Run LeRobot by itself."""
    python = os.environ[PYTHON_VARIABLE]
    skip = ("PYTHONPATH", "LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
    environment = {key: value for key, value in os.environ.items() if key not in skip}
    done = subprocess.run(
        [python, str(REFERENCE), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def entries(quantity: str) -> list[dict]:
    """All joints of an SO-101 in LeRobot's units, one of them reversed and shifted."""
    out = [{"is": f"{quantity}/{joint}", "unit": "degrees"} for joint in SO101.joint_names]
    out[2] |= {"sign": -1, "zero_rad": 0.1}
    out[3] |= {"unit": "-100..100", "range_rad": "limits"}
    out[5] |= {"unit": "0..100", "range_rad": [-0.17, 1.74]}
    return out


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory):
    """Kind, imported checkpoint, what was seen and what LeRobot did."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    reference("write", kind, folder / "theirs")
    config = json.loads((folder / "theirs/config.json").read_text())
    rng = np.random.default_rng(0)
    seen = {"state": rng.normal(20.0, 30.0, (TICKS, SO101.n)).astype(np.float32)}
    cameras = {}
    for name, feature in config["input_features"].items():
        if feature["type"] == "VISUAL":
            cameras[name] = name.rpartition(".")[2]
            size = (TICKS, *feature["shape"][1:], 3)
            seen[name] = rng.integers(0, 256, size, dtype=np.uint8)
    np.savez(folder / "seen.npz", seed=SEED, task="pick up the red cube", **seen)
    reference("answer", folder / "theirs", folder / "seen.npz", folder / "actions.npz")
    with np.load(folder / "actions.npz", allow_pickle=False) as data:
        actions = data["actions"]
    (folder / "map.json").write_text(
        json.dumps(
            {
                "rate_hz": RATE_HZ,
                "state": entries("qpos"),
                "action": entries("position"),
                "cameras": cameras,
                "instruction": "pick up the red cube",
            }
        )
    )
    import_lerobot(folder / "theirs", SO101, folder / "map.json", folder / "ours")
    images = {camera: seen[name] for name, camera in cameras.items()}
    return folder / "ours", seen["state"], images, actions


def observations(model, state, images):
    """The ticks as a robot reports them."""
    qpos = to_si(state.astype(np.float64), model.config.inputs)
    for tick in range(TICKS):
        yield Observation(
            stamp_ns=round(tick * NS / RATE_HZ),
            qpos_rad=qpos[tick],
            qvel_rad_s=np.zeros(SO101.n),
            images={camera: stream[tick] for camera, stream in images.items()},
        )


def test_policy_and_engine_do_what_select_action_does(case):
    path, state, images, wanted = case
    policy = load_policy(path, SO101)
    seen = list(observations(policy.model, state, images))
    policy.reset(SEED)
    alone = [policy.act(one).positions_rad[0] for one in seen]
    engine = make_engine(policy, EngineConfig(lockstep=True))
    engine.reset(SEED)
    chunks = [engine.tick(one) for one in seen]
    assert engine.failure is None
    engine.close()
    assert policy.model.pid is None
    assert np.ptp(wanted, axis=0).min() > 10 * TOLERANCE, "the reference does something"
    for got in (alone, [chunk.positions_rad[0] for chunk in chunks]):
        theirs = to_lerobot(np.array(got), policy.model.config.action)
        np.testing.assert_allclose(theirs, wanted, rtol=0.0, atol=TOLERANCE)


@pytest.mark.parametrize("case", ["diffusion"], indirect=True)
def test_served_to_another_machine_it_answers_the_same(case):
    path, state, images, _ = case
    words = [sys.executable, "-m", "sim2real.cli", "serve", "--policy", str(path), "--port", "0"]
    words += ["--backend", "lerobot", "--python", os.environ[PYTHON_VARIABLE]]
    local, server = load_policy(path, SO101), subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        url = server.stdout.readline().decode().split()[-1]
        with local_policy(url, token_file=None, reply_s=60.0) as folder:
            remote = load_policy(folder, SO101)
            chunks = []
            for policy in (local, remote):
                policy.reset(SEED)
                seen = observations(local.model, state, images)
                chunks.append([policy.act(next(seen)).positions_rad for _ in range(9)])
                policy.model.close()
    finally:
        server.terminate()
        assert server.wait(LIMIT_S) == 0
    for here, there in zip(*chunks, strict=True):
        np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize("case", ["act", "smolvla"], indirect=True)
def test_a_folder_is_served_as_lerobot_wrote_it(case):
    path, state, images, wanted = case
    words = [sys.executable, "-m", "sim2real.cli", "serve", "--backend", "lerobot", "--port", "0"]
    words += ["--policy", str(path.parent / "theirs"), "--python", os.environ[PYTHON_VARIABLE]]
    server = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        url = server.stdout.readline().decode().split()[-1]
        session = open_session(RemoteConfig(url=url, reply_s=60.0))
        assert session.greeting["robot"] is None
        session.ask({"reset": SEED})
        cameras = {spec["name"] for spec in session.greeting["spec"]["cameras"]}
        question = {
            "state": state[0],
            "images": {name: images[name.rpartition(".")[2]][0] for name in cameras},
            "prompt": "pick up the red cube",
        }
        actions = session.ask(question)["actions"]
        session.close()
    finally:
        server.terminate()
        assert server.wait(LIMIT_S) == 0
    # LeRobot's loop carries the first actions of the same plan out one by one.
    np.testing.assert_allclose(actions[0], wanted[0], rtol=0.0, atol=TOLERANCE)
    np.testing.assert_allclose(actions[1], wanted[1], rtol=0.0, atol=TOLERANCE)


@pytest.mark.parametrize("case", ["diffusion"], indirect=True)
def test_damaged_weights_are_refused(case):
    path, *_ = case
    model = load_lerobot_model(path, RunConfig(device="cpu"))
    weights = path / "lerobot/model.safetensors"
    data = weights.read_bytes()
    try:
        weights.write_bytes(data[: len(data) // 2])
        with pytest.raises(PolicyFailureError, match="settings, weights and processors") as caught:
            model.reset(0)
    finally:
        weights.write_bytes(data)
        model.close()
    assert caught.value.kind is Failure.SERVER_REFUSED
