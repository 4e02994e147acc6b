"""Open-loop replay on logs of the simulator itself, where the right answer is known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from policies.errors import InputError
from policies.robots import G1, PANDA
from sim2real.cli import main
from sim2real.episodes.build import build_episodes
from sim2real.episodes.episode import Episode
from sim2real.episodes.store import save_episodes
from sim2real.replay.log import Log
from sim2real.replay.open_loop import History, replay
from sim2real.sim.gaps import Gap, make_gap
from sim2real.sim.stepper import Stepper, default_state


def record(robot, gap, seconds, seed=0, swing=0.2):
    """An episode of slow sines about the default pose."""
    rng = np.random.default_rng(seed)
    rate = robot.control_rate_hz
    t = np.arange(round(seconds * rate)) / rate
    phase, speed = rng.uniform(0, 6.28, robot.n), rng.uniform(2.0, 5.0, robot.n)
    wave = np.sin(speed * t[:, None] + phase) - np.sin(phase)
    action = robot.default_rad + swing * wave
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
    return Episode(
        robot=robot.name,
        robot_fingerprint=robot.fingerprint,
        rate_hz=rate,
        t_s=t,
        action_rad=action,
        **arrays,
    )


@pytest.fixture(scope="module")
def weak():
    return record(PANDA, make_gap(PANDA, "arm_weak"), 1.6)


class Constant:
    """A delta that is the same for all joints."""

    history = 2
    simulator = Gap()
    rate_hz = 100.0

    def __init__(self, value):
        self.value = value

    def __call__(self, state, setpoint_rad, history):
        assert history.qpos_rad.shape == (len(setpoint_rad), self.history, PANDA.n)
        return np.full_like(setpoint_rad, self.value)


@pytest.mark.parametrize("delay_s", [0.0, 0.004, 0.01, 0.023])
def test_replay_in_the_simulator_that_made_the_log_has_no_error(delay_s):
    gap = Gap(strength={"*": 0.7}, friction_nm={"*": 1.0}, delay_s=delay_s)
    log = record(PANDA, gap, 1.2)
    same = replay([log], PANDA, gap=gap).methods["open_loop"]
    nominal = replay([log], PANDA).methods["open_loop"]
    assert same.e_g_mpjpe_mm.max() < 1e-3
    assert nominal.e_g_mpjpe_mm.min() > 0.5


def test_legged_robot_replays_its_own_log():
    log = record(G1, None, 0.8, swing=0.03)
    result = replay([log], G1, horizons_s=(0.25, 0.5)).methods["open_loop"]
    assert result.e_g_mpjpe_mm.max() < 1e-2


def test_same_input_gives_the_same_numbers_bit_by_bit(weak):
    assert replay([weak], PANDA).to_json() == replay([weak], PANDA).to_json()


def test_zero_delta_is_bit_identical_to_open_loop(weak):
    methods = replay([weak], PANDA, delta=Constant(0.0)).to_json()["methods"]
    assert methods["delta_action"] == methods["open_loop"]
    moved = replay([weak], PANDA, delta=Constant(0.01)).to_json()["methods"]
    assert moved["delta_action"]["qpos_rmse_rad"] != moved["open_loop"]["qpos_rmse_rad"]


def test_json_is_that_of_the_command_line(weak):
    content = replay([weak, weak], PANDA, horizons_s=(0.25, 0.5)).to_json()
    assert content["robot"] == "panda"
    assert content["episodes"] == 2
    assert content["horizons_s"] == [0.25, 0.5]
    errors = content["methods"]["open_loop"]
    for name in (
        "E_mpjpe_mm",
        "E_g_mpjpe_mm",
        "E_acc_mm_per_frame2",
        "E_vel_mm_per_frame",
        "qpos_rmse_rad",
    ):
        assert len(errors[name]) == 2
    assert np.shape(errors["qpos_rmse_per_joint_rad"]) == (2, PANDA.n)
    json.dumps(content, allow_nan=False)


def test_commanded_velocity_enters_as_a_setpoint(weak):
    velocity = np.gradient(weak.action_rad, 0.01, axis=0)
    moved = replace(weak, action_vel_rad_s=velocity)
    log = Log.of([moved], PANDA)
    lead = PANDA.kd_nm_s_rad / PANDA.kp_nm_rad
    assert log.setpoint_rad == pytest.approx(weak.action_rad + velocity * lead)


def test_windows_and_history_stay_inside_their_episode(weak):
    log = Log.of([weak, weak], PANDA)
    count = len(weak)
    rows = log.windows(50, 25)
    assert set(log.first[rows]) == {0, count}
    assert ((rows - log.first[rows]) % 50 == 0).all()
    assert log.left(rows).min() >= 25
    assert log.before(np.array([count + 1]), 3).tolist() == [[count, count, count]]
    assert log.ahead(np.array([count - 2]), 3).tolist() == [[count - 2, *[count - 1] * 3]]


def test_history_that_is_pushed_is_the_history_of_the_log(weak):
    log = Log.of([weak], PANDA)
    rows = np.array([7, 40])
    pushed = History.of(log, log.setpoint_rad, rows, 3).pushed(
        log.state.map(lambda x: x[rows]), log.setpoint_rad[rows]
    )
    for name, values in vars(History.of(log, log.setpoint_rad, rows + 1, 3)).items():
        assert np.array_equal(getattr(pushed, name), values)


def damaged(weak, **changes):
    arrays = {}
    for name, change in changes.items():
        arrays[name] = getattr(weak, name).copy()
        arrays[name][3] = change
    return replace(weak, **arrays)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda e: damaged(e, qvel_rad_s=np.nan), "finite values of qvel_rad_s"),
        (lambda e: replace(e, robot="g1"), "expected episodes of panda"),
        (lambda e: replace(e, robot_fingerprint="0" * 16), "expected episodes of panda"),
        (lambda e: replace(e, qpos_rad=e.qpos_rad[:, :6]), "qpos_rad of shape"),
        (lambda e: replace(e, rate_hz=90.0), "divides 1000 Hz"),
    ],
)
def test_damaged_episodes_get_a_sentence(weak, change, sentence):
    with pytest.raises(InputError, match=sentence):
        replay([change(weak)], PANDA)


def test_bad_collections_get_a_sentence(weak):
    with pytest.raises(InputError, match="at least one episode"):
        replay([], PANDA)
    with pytest.raises(InputError, match="of one rate"):
        replay([weak, replace(weak, rate_hz=50.0)], PANDA)
    with pytest.raises(InputError, match="longer than 5 s"):
        replay([weak], PANDA, horizons_s=(0.25, 5.0))
    with pytest.raises(InputError, match="the rate of the delta model"):
        replay([replace(weak, rate_hz=50.0)], PANDA, delta=Constant(0.0))


def test_legged_log_without_base_gets_a_sentence():
    log = record(G1, None, 0.1, swing=0.0)
    with pytest.raises(InputError, match="expected base_pos_m"):
        replay([replace(log, base_pos_m=None)], G1)


def test_command_prints_writes_and_never_overwrites(weak, tmp_path, capsys):
    save_episodes([weak, weak], tmp_path / "episodes")
    out, page = tmp_path / "replay.json", tmp_path / "replay.html"
    args = ["replay", str(tmp_path / "episodes"), "--robot", "panda"]
    files = ["--json", str(out), "--report", str(page)]
    assert main([*args, *files]) == 0
    printed = capsys.readouterr().out
    assert "E_g-mpjpe" in printed
    assert "panda_joint7" in printed
    assert json.loads(out.read_text())["methods"].keys() == {"open_loop"}
    assert "<svg" in page.read_text()
    before = out.read_bytes()
    assert main([*args, *files]) == 2
    assert out.read_bytes() == before
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "result_report.html").is_file()


@pytest.mark.parametrize(
    "args",
    [
        ["--robot", "g1"],
        ["--robot", "panda", "--gap", "nonsense"],
        ["--robot", "panda", "--delta", "nowhere"],
        ["--robot", "panda", "--horizons-s", "0.001"],
    ],
)
def test_bad_usage_exits_with_2_and_one_sentence(weak, tmp_path, capsys, args):
    save_episodes([weak], tmp_path / "episodes")
    assert main(["replay", str(tmp_path / "episodes"), *args]) == 2
    error = capsys.readouterr().err
    assert "expected" in error
    assert "Traceback" not in error


def test_real_arm_is_explained_by_the_delay_of_its_commands(shared_data):
    """A real Panda follows late: a delay must at least halve the error of the nominal model."""
    log = build_episodes(shared_data / "panda_real" / "exciting_0_14s", PANDA)
    errors = {
        delay_s: replay(log, PANDA, gap=Gap(delay_s=delay_s)).methods["open_loop"].qpos_rmse_rad
        for delay_s in (0.0, 0.01)
    }
    assert errors[0.0].max() < 0.01
    assert (errors[0.01] < 0.5 * errors[0.0]).all()
