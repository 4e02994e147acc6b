"""System identification on logs of robots whose parameters are known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from policies.errors import InputError
from policies.robots import G1, PANDA
from sim2real.baselines.parameter_fit import SysIdConfig
from sim2real.baselines.parameters import KINDS, joint_groups, list_parameters, to_gap
from sim2real.baselines.sysid import identify
from sim2real.cli import main
from sim2real.episodes.episode import Episode
from sim2real.episodes.store import save_episodes
from sim2real.sim.gaps import Gap, make_gap
from sim2real.sim.stepper import Stepper, default_state

ARM = Gap(
    name="arm",
    strength={"panda_joint2": 0.7, "panda_joint4": 1.3},
    friction_nm={"panda_joint1": 2.0, "panda_joint6": 0.4},
    payload_kg={"panda_hand": 1.0},
    payload_com_m={"panda_hand": (0.0, 0.0, 0.1)},
    delay_s=0.007,
)
LEGGED = Gap(
    name="legged",
    strength={"*_ankle_*": 0.7, "*_knee_*": 0.85},
    payload_kg={"torso_link": 2.0},
    payload_com_m={"torso_link": (0.0, 0.0, 0.15)},
    floor_softness_s=0.04,
)
KINDS_OF_ARM = ("strength", "friction", "payload", "delay")


def record(robot, gap, seed, seconds, swing, still=(), noise=0.0):
    """An episode of sines about the default pose; ``still`` joints keep it."""
    rng = np.random.default_rng(seed)
    rate = robot.control_rate_hz
    t = np.arange(round(seconds * rate)) / rate
    speed, phase = rng.uniform(2.0, 9.0, robot.n), rng.uniform(0.0, 6.28, robot.n)
    wave = swing * (np.sin(speed * t[:, None] + phase) - np.sin(phase))
    wave[:, list(still)] = 0.0
    action = robot.default_rad + wave
    stepper = Stepper(robot, gap)
    stepper.reset(default_state(robot, action[0]))
    states = []
    for target in action:
        states.append(stepper.state)
        stepper.step(target)
    arrays = {
        k: np.array([getattr(s, k) for s in states])
        for k, v in vars(states[0]).items()
        if v is not None
    }
    arrays["qvel_rad_s"] = arrays["qvel_rad_s"] + noise * rng.normal(size=wave.shape)
    return Episode(
        robot=robot.name,
        robot_fingerprint=robot.fingerprint,
        rate_hz=rate,
        t_s=t,
        action_rad=action,
        **arrays,
    )


@pytest.fixture(scope="module")
def arm():
    return [record(PANDA, ARM, seed, 2.0, 0.2, noise=0.002) for seed in range(4)]


@pytest.fixture(scope="module")
def found(arm):
    config = SysIdConfig(parameters=KINDS_OF_ARM, windows=20)
    return identify(arm, PANDA, config=config)


def test_parameters_of_an_arm_come_back(found):
    gap, report = found
    assert gap.delay_s == pytest.approx(ARM.delay_s, abs=1e-9)
    names = PANDA.joint_names
    have = gap.per_joint(PANDA, gap.strength, factor=True)
    for i, want in enumerate(ARM.per_joint(PANDA, ARM.strength, factor=True)):
        assert have[i] == pytest.approx(want, rel=0.05), names[i]
    friction = gap.per_joint(PANDA, gap.friction_nm, factor=False)
    wanted = ARM.per_joint(PANDA, ARM.friction_nm, factor=False)
    assert friction == pytest.approx(wanted, abs=0.25)
    assert gap.payload_kg["panda_hand"] == pytest.approx(1.0, abs=0.1)
    assert gap.payload_com_m["panda_hand"][2] == pytest.approx(0.1, abs=0.03)
    identified = {e.name for e in report.estimates if e.state == "identified"}
    assert {"delay", "payload panda_hand", "strength panda_joint2"} <= identified


def test_held_out_replay_gets_far_better(found):
    _, report = found
    methods = report.held_out.methods
    before, after = methods["open_loop"], methods["sysid"]
    assert (after.qpos_rmse_rad < 0.2 * before.qpos_rmse_rad).all()
    assert report.windows == 20


def test_the_same_input_gives_the_same_result(arm):
    config = SysIdConfig(parameters=("delay",), windows=12, iterations=1)
    assert identify(arm, PANDA, config=config)[0] == identify(arm, PANDA, config=config)[0]


def test_parameters_of_a_legged_robot_come_back():
    # It stands on its feet, rocks and stumbles: contacts open and close all the time.
    logs = [record(G1, LEGGED, seed, 1.0, 0.05) for seed in range(3)]
    config = SysIdConfig(parameters=("strength", "payload", "floor"), detail="group", windows=16)
    gap, report = identify(logs, G1, config=config)
    strength = dict(zip(G1.joint_names, gap.per_joint(G1, gap.strength, factor=True), strict=True))
    assert strength["left_ankle_pitch_joint"] == pytest.approx(0.7, rel=0.05)
    assert strength["right_knee_joint"] == pytest.approx(0.85, rel=0.05)
    assert strength["left_hip_pitch_joint"] == pytest.approx(1.0, rel=0.05)
    assert 0.8 < gap.payload_kg["torso_link"] < 3.0  # its height makes up for its mass
    assert gap.floor_softness_s == pytest.approx(0.04, rel=0.1)
    methods = report.held_out.methods
    assert methods["sysid"].e_g_mpjpe_mm[0] < 0.3 * methods["open_loop"].e_g_mpjpe_mm[0]


def test_what_the_data_do_not_tell_stays_nominal_and_is_named():
    logs = [record(PANDA, Gap(), seed, 2.0, 0.2, still=(6,), noise=0.002) for seed in range(3)]
    config = SysIdConfig(parameters=("friction", "kd", "damping", "payload"), windows=16)
    gap, report = identify(logs, PANDA, config=config)
    assert {"kd panda_joint7", "damping panda_joint7"} <= set(report.unidentified)
    assert "payload panda_hand x" in report.unidentified  # nothing tells where no payload is
    for estimate in report.estimates:
        if estimate.state == "prior":
            assert estimate.value == estimate.prior
            assert estimate.std == pytest.approx(estimate.prior_std)
            assert not any(
                "panda_joint7" in getattr(gap, table) for table in ("kd", "damping_nm_s_rad")
            )


def test_joints_are_grouped_by_name():
    groups = joint_groups(G1, "group")
    assert len(groups["hip"]) == 6
    assert joint_groups(G1, "side")["left_ankle"] == (
        "left_ankle_pitch_joint",
        "left_ankle_roll_joint",
    )
    assert sorted(j for g in groups.values() for j in g) == sorted(G1.joint_names)
    assert len(joint_groups(G1, "joint")) == G1.n
    assert joint_groups(PANDA, "group") == joint_groups(PANDA, "joint")
    assert joint_groups(G1, "robot") == {}
    whole = {p.kind for p in list_parameters(G1, KINDS, "robot")}
    assert whole == {"payload", "floor", "delay"}


def test_detail_without_any_parameter_gets_a_sentence():
    logs = [record(G1, Gap(), 0, 0.3, 0.02)]
    with pytest.raises(InputError, match="add payload, floor or delay"):
        identify(logs, G1, config=SysIdConfig(parameters=("strength",), detail="robot"))


@pytest.mark.parametrize("robot", [G1, PANDA], ids=lambda r: r.name)
def test_priors_are_the_nominal_robot_and_lie_within_the_bounds(robot):
    parameters = list_parameters(robot, KINDS, "joint")
    nominal = to_gap(robot, parameters, np.array([p.prior for p in parameters]))
    assert nominal == replace(Gap(), name="sysid")
    for p in parameters:
        assert p.lower <= p.prior <= p.upper
        for value in (p.lower, p.prior, p.prior + 0.5 * p.scale):
            assert p.value(p.standard(value)) == pytest.approx(value)
    tables = {
        "friction": "friction_nm",
        "damping": "damping_nm_s_rad",
        "armature": "armature_kg_m2",
    }
    for kind, attribute in tables.items():
        lowest = [p.lower for p in parameters if p.kind == kind]
        assert (robot.array(attribute) + lowest >= 0.0).all()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (SysIdConfig(parameters=("colour",)), "expected parameters out of"),
        (SysIdConfig(parameters=("delay", "delay")), "each once"),
        (SysIdConfig(windows=0), "windows"),
        (SysIdConfig(validation=1.5), "validation"),
        (SysIdConfig(window_s=float("nan")), "window_s"),
    ],
)
def test_bad_settings_get_a_sentence(arm, config, sentence):
    with pytest.raises(InputError, match=sentence):
        identify(arm, PANDA, config=config)


def test_bad_data_get_a_sentence(arm):
    with pytest.raises(InputError, match="at least one episode"):
        identify([], PANDA)
    with pytest.raises(InputError, match="expected episodes of g1"):
        identify(arm, G1)
    broken = replace(arm[0], qvel_rad_s=np.full((len(arm[0]), PANDA.n), np.nan))
    with pytest.raises(InputError, match="finite values of qvel_rad_s"):
        identify([arm[1], broken], PANDA)
    short = record(PANDA, ARM, 0, 0.6, 0.1)
    with pytest.raises(InputError, match=r"at least [\d.]+ s of motion .* record more"):
        identify([short], PANDA)


def test_command_writes_a_gap_that_other_commands_take(arm, tmp_path, capsys):
    save_episodes(arm, tmp_path / "logs")
    out, result = tmp_path / "gap.json", tmp_path / "sysid.json"
    args = ["sysid", str(tmp_path / "logs"), "--robot", "panda", "--out", str(out)]
    few = ["--parameters", "strength", "delay", "--windows", "12", "--iterations", "1"]
    assert main([*args, *few, "--json", str(result)]) == 0
    printed = capsys.readouterr().out
    assert "strength panda_joint2" in printed
    assert "held-out" in printed
    content = json.loads(result.read_text())
    assert content["held_out"]["methods"].keys() == {"open_loop", "sysid"}
    assert {"name", "value", "std", "state", "prior"} <= content["parameters"][0].keys()
    assert make_gap(PANDA, str(out)).delay_s == pytest.approx(ARM.delay_s, abs=0.002)
    replayed = ["replay", str(tmp_path / "logs"), "--robot", "panda", "--gap", str(out)]
    assert main([*replayed, "--json", str(tmp_path / "r.json")]) == 0
    assert main([*args, *few]) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*args, "--overwrite", "--parameters", "colour"]) == 2
    assert "expected parameters out of" in capsys.readouterr().err
