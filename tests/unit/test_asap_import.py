"""ASAP's released policies: imported, they do what a plain loop over the network does."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from policies import cli
from policies.actor.asap import asap_observation, import_asap
from policies.actor.mlp import mlp_onnx
from policies.checkpoint import load_policy
from policies.errors import InputError
from policies.interface import Observation
from policies.robots import G1
from sim2real.sim.stepper import Stepper, default_state

RELEASED = ("CR7_level1", "jump_forward_level1", "kick_level1", "side_jump_level1")
POLICY_JOINTS = tuple(name for name in G1.joint_names if "wrist" not in name)


def metadata(**changes):
    meta = {
        "joint_names": list(G1.joint_names),
        "policy_joint_names": list(POLICY_JOINTS),
        "default_joint_pos_rad": G1.default_rad.tolist(),
        "kp_Nm_per_rad": G1.kp_nm_rad.tolist(),
        "kd_Nm_s_per_rad": G1.kd_nm_s_rad.tolist(),
        "control_rate_hz": 50,
        "action_scale": 0.25,
        "policies": {"wave": {"motion_length_s": 2.5, "start_upper_body_pos_rad": [0.1] * 17}},
    }
    return meta | changes


def network(inputs=380, outputs=23):
    rng = np.random.default_rng(0)
    weight = (0.1 * rng.standard_normal((outputs, inputs))).astype(np.float32)
    return mlp_onnx([weight], [np.zeros(outputs, np.float32)])


@pytest.fixture
def files(tmp_path):
    (tmp_path / "net.onnx").write_bytes(network())
    (tmp_path / "meta.json").write_text(json.dumps(metadata()))
    return tmp_path


class PlainLoop:
    """The observation spelt out once more, without the term machinery."""

    def __init__(self, session, length_s):
        self.session, self.length_s, self.k = session, length_s, 0
        self.joints = [G1.joint_names.index(name) for name in POLICY_JOINTS]
        self.action = np.zeros(23)
        sizes = {"action": 23, "ang_vel": 3, "qpos": 23, "qvel": 23, "gravity": 3, "phase": 1}
        self.past = {key: np.zeros((4, size)) for key, size in sizes.items()}

    def target(self, x):
        w, v = x.base_quat_wxyz[0], x.base_quat_wxyz[1:]
        down = np.array([0.0, 0.0, -1.0])
        now = {
            "action": self.action,
            "ang_vel": x.base_ang_vel_rad_s * 0.25,
            "qpos": (x.qpos_rad - G1.default_rad)[self.joints],
            "qvel": x.qvel_rad_s[self.joints] * 0.05,
            "gravity": down * (2 * w * w - 1) - 2 * w * np.cross(v, down) + 2 * v * (v @ down),
            "phase": np.array([self.k * 0.02 / self.length_s]),
        }
        head = [now[key] for key in ("action", "ang_vel", "qpos", "qvel")]
        history = [self.past[key].ravel() for key in self.past]
        vector = np.concatenate([*head, *history, now["gravity"], now["phase"]])
        for key, value in now.items():
            self.past[key] = np.vstack([value[None], self.past[key][:3]])
        name = self.session.get_inputs()[0].name
        self.action = self.session.run(None, {name: vector[None].astype(np.float32)})[0][0]
        self.action = self.action.astype(np.float64)
        self.k += 1
        target = G1.default_rad.copy()
        target[self.joints] += 0.25 * np.clip(self.action, -100.0, 100.0)
        return target


def run(policy, plain, ticks):
    """Simulate; the policy's commands are carried out, the plain loop's compared."""
    stepper = Stepper(G1, rate_hz=50.0)
    stepper.reset(default_state(G1, np.array(policy.spec.start_pose_rad)))
    heights, errors = [], []
    for k in range(ticks):
        x = stepper.state
        chunk = policy.act(
            Observation(
                stamp_ns=k * 20_000_000,
                qpos_rad=x.qpos_rad,
                qvel_rad_s=x.qvel_rad_s,
                base_quat_wxyz=x.base_quat_wxyz,
                base_ang_vel_rad_s=x.base_ang_vel_rad_s,
            )
        )
        assert chunk.stamp_ns == k * 20_000_000
        assert chunk.positions_rad.shape == (1, 29)
        errors.append(np.abs(chunk.positions_rad[0] - plain.target(x)).max())
        stepper.step(chunk.positions_rad[0])
        w, v = x.base_quat_wxyz[0], x.base_quat_wxyz[1:]
        up = 1.0 - 2.0 * (v[0] ** 2 + v[1] ** 2)
        heights.append((x.base_pos_m[2], np.arccos(np.clip(up, -1.0, 1.0))))
        assert w**2 + v @ v == pytest.approx(1.0)
    return np.array(errors), np.array(heights)


@pytest.mark.parametrize("name", RELEASED)
def test_released_policy_equals_the_plain_loop_and_stays_upright(shared_data, tmp_path, name):
    folder = Path(shared_data) / "asap_g1"
    onnx = folder / "policies" / f"{name}.onnx"
    import_asap(onnx, folder / "asap_g1.json", name, tmp_path / name)
    policy = load_policy(tmp_path / name, G1)
    length_s = policy.spec.duration_s
    assert policy.spec.needs == ("base_ang_vel_rad_s", "base_quat_wxyz")
    session = ort.InferenceSession(str(onnx))
    ticks = round(length_s * 50)
    errors, base = run(policy, PlainLoop(session, length_s), ticks)
    assert errors.max() < 1e-6
    assert base[:, 0].min() > 0.4
    assert base[:, 1].max() < np.radians(45.0)
    policy.reset(1)  # a second run starts from nothing
    again, _ = run(policy, PlainLoop(session, length_s), 10)
    assert again.max() < 1e-6


def test_locomotion_policy_is_refused(shared_data, tmp_path):
    folder = Path(shared_data) / "asap_g1"
    onnx = folder / "policies" / "loco_stand_height.onnx"
    with pytest.raises(InputError, match="380 inputs and 23 outputs, got 500 and 12"):
        import_asap(onnx, folder / "asap_g1.json", RELEASED[0], tmp_path / "x")
    with pytest.raises(InputError, match="CR7_level1"):
        import_asap(onnx, folder / "asap_g1.json", "loco_stand_height", tmp_path / "x")


def test_gain_difference_is_a_note(shared_data, tmp_path):
    folder = Path(shared_data) / "asap_g1"
    onnx = folder / "policies" / f"{RELEASED[0]}.onnx"
    config = import_asap(onnx, folder / "asap_g1.json", RELEASED[0], tmp_path / "x")
    assert "left_wrist_yaw_joint is 0 in the metadata, 4 here" in config.source["note"]


def test_any_policy_of_the_layout(files, capsys):
    cli.policy_import_asap(
        files / "net.onnx", meta=files / "meta.json", name="wave", out=files / "out"
    )
    assert "wave" in capsys.readouterr().out
    policy = load_policy(files / "out", G1)
    assert policy.spec.duration_s == 2.5
    np.testing.assert_array_equal(policy.spec.start_pose_rad[12:], [0.1] * 17)
    np.testing.assert_array_equal(policy.spec.start_pose_rad[:12], G1.default_rad[:12])
    errors, _ = run(policy, PlainLoop(ort.InferenceSession(network()), 2.5), 20)
    assert errors.max() < 1e-6
    with pytest.raises(InputError, match="--overwrite"):
        import_asap(files / "net.onnx", files / "meta.json", "wave", files / "out")


def test_observation_has_380_values():
    sizes = {"base_ang_vel": 3, "projected_gravity": 3, "motion_phase": 1}
    total = 0
    for term in asap_observation(POLICY_JOINTS):
        members = term.terms or (term,)
        total += sum(sizes.get(member.term, 23) for member in members) * term.history
    assert total == 380


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"policies": {}}, "--name"),
        ({"policies": {"wave": {"motion_length_s": -1.0}}}, "above 0"),
        (
            {"policies": {"wave": {"motion_length_s": 1, "start_upper_body_pos_rad": [0.0]}}},
            "17 values",
        ),
        ({"joint_names": list(G1.joint_names[:-1])}, "right_wrist_yaw_joint"),
        ({"joint_names": [*G1.joint_names, "tail"]}, "tail"),
        ({"policy_joint_names": [*POLICY_JOINTS[:-1], "tail"]}, "tail"),
        ({"policy_joint_names": [POLICY_JOINTS[0], *POLICY_JOINTS[:-1]]}, "twice"),
        ({"default_joint_pos_rad": [0.0] * 29}, "default pose"),
        ({"default_joint_pos_rad": [0.0] * 28}, "29 numbers"),
        ({"control_rate_hz": "fast"}, "finite number"),
    ],
)
def test_bad_metadata(files, changes, text):
    (files / "meta.json").write_text(json.dumps(metadata(**changes)))
    with pytest.raises(InputError, match=text):
        import_asap(files / "net.onnx", files / "meta.json", "wave", files / "out")
    assert not (files / "out").exists()


def test_bad_files(files):
    (files / "text.onnx").write_text("not a network")
    (files / "text.json").write_text("not json")
    for onnx, meta, text in (
        ("text.onnx", "meta.json", "ONNX"),
        ("net.onnx", "text.json", "JSON"),
        ("none.onnx", "meta.json", "not a file"),
        ("net.onnx", "none.json", "not a file"),
    ):
        with pytest.raises(InputError, match=text):
            import_asap(files / onnx, files / meta, "wave", files / "out")
