"""Checkpoints: what is saved is loaded again, what is wrong is refused in one sentence."""

import contextlib
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from policies import cli
from policies.actor.config import ActionConfig, ActorConfig, dump_config, parse_config
from policies.actor.mlp import mlp_onnx
from policies.checkpoint import inspect, load_policy, save_checkpoint
from policies.checkpoint_files import is_sealed, read_config
from policies.errors import InputError
from policies.interface import Policy
from policies.processors import TermConfig
from policies.robots import G1, PANDA

NAMES = PANDA.joint_names


def network(inputs=17, outputs=7, value=0.01):
    return mlp_onnx(
        [np.full((8, inputs), value, np.float32), np.full((outputs, 8), 0.1, np.float32)],
        [np.zeros(8, np.float32), np.zeros(outputs, np.float32)],
    )


def config(**changes):
    base = ActorConfig(
        name="test",
        robot="panda",
        robot_fingerprint=PANDA.fingerprint,
        rate_hz=50.0,
        action=ActionConfig(type="position_offset_from_default", joints=NAMES, scale=0.25),
        hold_pose_rad={},
        observation=(
            TermConfig(term="joint_pos"),
            TermConfig(term="last_action", scale=0.5),
            TermConfig(term="goal_position"),
        ),
        duration_s=None,
        start_pose_rad=dict(zip(NAMES, PANDA.default_rad.tolist(), strict=True)),
        source={"origin": "a test"},
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture
def saved(tmp_path):
    save_checkpoint(tmp_path / "ckpt", config(), network())
    return tmp_path / "ckpt"


def edit(path, change):
    """Change config.json as somebody who takes its own hash out of it."""
    data = json.loads((path / "config.json").read_text())
    del data["files"]["config.json"]
    change(data)
    (path / "config.json").write_text(json.dumps(data))


def test_round_trip(saved):
    policy = load_policy(saved, PANDA)
    assert isinstance(policy, Policy)
    spec = policy.spec
    assert (spec.name, spec.robot, spec.rate_hz, spec.horizon) == ("test", "panda", 50.0, 1)
    assert spec.needs == ("goal",)
    np.testing.assert_array_equal(spec.start_pose_rad, PANDA.default_rad)
    assert len(spec.sha256) == 64
    assert inspect(saved)["topics"] == ["goal", "joint_states"]


def test_config_survives_json():
    past = TermConfig(term="history", history=3, terms=(TermConfig(term="joint_vel", scale=0.1),))
    tested = config(observation=(TermConfig(term="joint_pos", history=2), past), duration_s=1.5)
    assert parse_config(json.loads(json.dumps(dump_config(tested))), "x") == tested


def test_same_content_same_hash_other_content_other_hash(tmp_path):
    for name, model in (("a", network()), ("b", network()), ("c", network(value=0.02))):
        save_checkpoint(tmp_path / name, config(), model)
    save_checkpoint(tmp_path / "d", config(rate_hz=25.0), network())
    a, b, c, d = (load_policy(tmp_path / name, PANDA).spec.sha256 for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_nothing_is_overwritten_silently(saved, tmp_path):
    with pytest.raises(InputError, match="--overwrite"):
        save_checkpoint(saved, config(), network())
    save_checkpoint(saved, config(name="second"), network(), overwrite=True)
    assert load_policy(saved, PANDA).spec.name == "second"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("text")
    with pytest.raises(InputError, match=r"no config\.json"):
        save_checkpoint(tmp_path / "mine", config(), network(), overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ckpt", "mine"]


def test_what_cannot_be_loaded_is_not_saved(tmp_path):
    with pytest.raises(InputError, match="18"):
        save_checkpoint(tmp_path / "x", config(), network(inputs=18))
    assert not list(tmp_path.iterdir())


def test_wrong_robot(saved):
    with pytest.raises(InputError, match=r"expected the robot panda.*got g1"):
        load_policy(saved, G1)
    other = dataclasses.replace(PANDA, command="setpoint")
    with pytest.raises(InputError, match="fingerprint"):
        load_policy(saved, other)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.pop("rate_hz"), "'rate_hz', but it is missing"),
        (lambda d: d.update(rate_hz=0), "above 0"),
        (lambda d: d.update(rate_hz="50"), "finite number"),
        (lambda d: d.update(rate_hz=True), "finite number"),
        (lambda d: d.update(rate_hz=float("nan")), "got NaN"),
        (lambda d: d.update(schema=2), "schema 1, got 2"),
        (lambda d: d.update(kind="pickle"), "onnx_actor"),
        (lambda d: d.update(rates=1), "rates"),
        (lambda d: d.update(files={}), "policy.onnx"),
        (lambda d: d.update(files={"policy.onnx": "0" * 64}), "altered"),
        (lambda d: d.update(observation=[]), "list of terms"),
        (lambda d: d["observation"].pop(), "17"),
        (lambda d: d["observation"][0].update(term="qpos"), "expected a term out of"),
        (lambda d: d["observation"][0].update(history=0), "integer from 1"),
        (lambda d: d["observation"][0].update(joints=[NAMES[0]] * 7), "appears twice"),
        (lambda d: d["observation"].append({"term": "history", "history": 2}), "'terms'"),
        (lambda d: d["action"].update(joints=NAMES[:6]), "panda_joint7"),
        (lambda d: d["action"].update(joints=[*NAMES[:6], NAMES[0]]), "each commanded joint once"),
        (lambda d: d["action"].update(joints=[*NAMES[:6], "elbow"]), "elbow"),
        (lambda d: d["action"].update(type="torque"), "command_velocity"),
        (lambda d: d["action"].update(horizon=2), "input of 24 values"),
        (lambda d: d["action"].update(type="command_velocity"), "integer from 2"),
        (lambda d: d["action"].update(replan_every=2), "integer from 1 to 1"),
        (lambda d: d["hold_pose_rad"].update(panda_joint1=0.0), "either commanded or held"),
        (lambda d: d["start_pose_rad"].pop("panda_joint3"), "panda_joint3"),
        (lambda d: d["start_pose_rad"].update(panda_joint4=-135.0), "unit is rad"),
    ],
)
def test_malformed_config(saved, change, text):
    edit(saved, change)
    with pytest.raises(InputError, match=text) as error:
        load_policy(saved, PANDA)
    assert "\n" not in str(error.value)


def test_any_byte_that_changes_in_a_config_is_noticed(saved):
    path = saved / "config.json"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(len(whole)):
        digit = b"7" if whole[place : place + 1] == b"3" else b"3"
        for other in (bytes([whole[place] ^ 1 << rng.integers(8)]), digit if place % 2 else b" "):
            if other == whole[place : place + 1]:
                continue
            path.write_bytes(whole[:place] + other + whole[place + 1 :])
            with pytest.raises(InputError) as error:
                load_policy(saved, PANDA)
            assert "\n" not in str(error.value), (place, other)
    path.write_bytes(whole)
    assert load_policy(saved, PANDA).spec.name == "test"


def test_config_of_an_earlier_version_has_no_hash_of_itself(saved, capsys):
    cli.policy_inspect(saved)
    assert "note" not in capsys.readouterr().out
    edit(saved, lambda data: data["source"].update(origin="elsewhere"))
    assert load_policy(saved, PANDA).spec.name == "test"
    cli.policy_inspect(saved)
    assert "no hash of itself" in capsys.readouterr().out
    assert is_sealed(read_config(Path(cli.__file__).parent / "checkpoints/panda_reach")[0])


def test_altered_config_is_told_apart_from_a_wrong_one(saved):
    path = saved / "config.json"
    path.write_text(path.read_text().replace('"origin": "a test"', '"origin": "a tast"'))
    with pytest.raises(InputError, match="own sha256 in 'files'"):
        load_policy(saved, PANDA)


@pytest.mark.parametrize(
    ("value", "text"),
    [("9" * 301, "at most 300 digits, got one of 301"), (r'"\ud800 "', "whole characters")],
)
def test_json_that_python_reads_and_others_cannot(saved, value, text):
    path = saved / "config.json"
    path.write_text(path.read_text().replace('"a test"', value))
    with pytest.raises(InputError, match=text):
        load_policy(saved, PANDA)


def test_duplicate_key(saved):
    path = saved / "config.json"
    path.write_text(path.read_text().replace('"panda_joint2": ', '"panda_joint1": ', 1))
    with pytest.raises(InputError, match="'panda_joint1' twice"):
        load_policy(saved, PANDA)


def test_missing_files(saved, tmp_path):
    with pytest.raises(InputError, match="not there"):
        load_policy(tmp_path / "nothing", PANDA)
    with pytest.raises(InputError, match="a file"):
        load_policy(saved / "config.json", PANDA)
    (saved / "policy.onnx").unlink()
    with pytest.raises(InputError, match=r"expected a file policy\.onnx"):
        load_policy(saved, PANDA)


def test_truncated_network(saved):
    data = (saved / "policy.onnx").read_bytes()
    (saved / "policy.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="altered or cut off"):
        load_policy(saved, PANDA)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, 10_000))
def test_damaged_config_never_raises_anything_else(saved, junk, where):
    path = saved / "config.json"
    good = path.read_bytes()
    try:
        cut = where % len(good)
        path.write_bytes(good[:cut] + junk + good[cut + len(junk) :])
        with contextlib.suppress(InputError):
            load_policy(saved, PANDA)
    finally:
        path.write_bytes(good)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=20))
def test_damaged_network_never_raises_anything_else(tmp_path_factory, where, junk):
    good = network()
    cut = where % len(good)
    damaged = good[:cut] + junk + good[cut + 20 :]
    with contextlib.suppress(InputError):
        save_checkpoint(tmp_path_factory.mktemp("x") / "ckpt", config(), damaged)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(tmp_path, value):
    with pytest.raises(InputError, match="expected finite weights"):
        save_checkpoint(tmp_path / "x", config(), network(value=value))


def _rewrap(change):
    model = onnx.load_model_from_string(network())
    change(model)
    return model.SerializeToString()


def test_networks_that_do_not_fit(tmp_path):
    def external(model):
        tensor = model.graph.initializer[0]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../../etc/passwd")

    def second_input(model):
        model.graph.input.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 4]))

    def overflow(model):
        model.graph.initializer[3].CopyFrom(
            numpy_helper.from_array(np.full(7, 3e38, np.float32), "bias_1")
        )
        node = helper.make_node("Add", ["linear_out", "linear_out"], ["action"])
        model.graph.node[-1].output[0] = "linear_out"
        model.graph.node.append(node)

    for change, text in (
        (external, "external data"),
        (second_input, "one input"),
        (overflow, "finite outputs"),
        (lambda m: m.opset_import[0].__setattr__("version", 99), "ONNX Runtime"),
        (lambda m: m.graph.Clear(), "without a graph"),
    ):
        with pytest.raises(InputError, match=text):
            save_checkpoint(tmp_path / "x", config(), _rewrap(change))


def test_loading_needs_no_torch_and_no_simulator(saved):
    code = (
        "import sys; from pathlib import Path; from policies.checkpoint import load_policy;"
        "from policies.robots import PANDA; load_policy(Path(sys.argv[1]), PANDA);"
        "assert not {'torch', 'mujoco', 'rclpy', 'pyarrow'} & set(sys.modules);"
        "assert not {name for name in sys.modules if name.startswith('policies.vla')}"
    )
    subprocess.run([sys.executable, "-c", code, str(saved)], check=True)


def test_inspect_command(saved, tmp_path, capsys):
    cli.policy_inspect(saved, json=tmp_path / "out.json")
    text = capsys.readouterr().out
    for word in ("panda", "50 Hz", "goal, joint_states", "endless", "17 values"):
        assert word in text
    info = json.loads((tmp_path / "out.json").read_text())
    assert info["sha256"] == load_policy(saved, PANDA).spec.sha256
    with pytest.raises(InputError, match="exists"):
        cli.policy_inspect(saved, json=tmp_path / "out.json")
