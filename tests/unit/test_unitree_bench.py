"""The emulated Unitree robot without its network: motors, sensors, faults."""

import numpy as np
import pytest
from realign_unitree_driver.bench import Bench, parse_faults

from policies.errors import InputError
from policies.robots import get_robot

G1, GO2 = get_robot("g1"), get_robot("go2")


def command_to(bench, q, **fields):
    message = bench.wiring.new_command("pr", bench.mode_machine)
    motors = message.data["motor_cmd"]
    motors["q"][bench.index] = q
    motors["kp"][bench.index] = bench.robot.kp_nm_rad
    motors["kd"][bench.index] = bench.robot.kd_nm_s_rad
    for name, value in fields.items():
        message.data[name] = value
    return message


def test_robot_hangs_until_its_motors_are_to_move():
    bench = Bench(G1)
    height = bench.stepper.data.qpos[2]
    damping = command_to(bench, 0.0)
    damping.data["motor_cmd"]["kp"] = 0.0
    assert bench.on_command(damping)
    for _ in range(100):
        bench.step()
    assert bench.hanging
    assert bench.stepper.data.qpos[2] == height
    assert bench.on_command(command_to(bench, G1.default_rad))
    for _ in range(100):
        bench.step()
    assert not bench.hanging
    assert bench.stepper.data.qpos[2] < height


def test_motors_stay_within_their_torque():
    bench = Bench(GO2)
    assert bench.on_command(command_to(bench, GO2.default_rad + 2.0))
    for _ in range(20):
        bench.step()
        state = bench.read()
        torque = np.abs(state.data["motor_state"]["tau_est"][bench.index])
        assert (torque <= GO2.effort_limit_nm * 1.000001).all()
    assert (torque > 0.9 * GO2.effort_limit_nm).any()


def test_motor_follows_the_gains_of_its_command():
    bench = Bench(GO2)
    soft = command_to(bench, GO2.default_rad)
    soft.data["motor_cmd"]["mode"][bench.index[3:]] = 0  # all but the front right leg
    bench.on_command(soft)
    for _ in range(5):
        bench.step()
    torque = bench.read().data["motor_state"]["tau_est"][bench.index]
    assert np.abs(torque[:3]).min() > 0.0
    assert (torque[3:] == 0.0).all()


@pytest.mark.parametrize(
    ("fields", "why"), [({"mode_machine": 4}, "mode_machine"), ({"mode_pr": 1}, "single ankle")]
)
def test_g1_motors_refuse_commands_for_another_robot(fields, why):
    bench = Bench(G1)
    assert not bench.on_command(command_to(bench, G1.default_rad, **fields))
    (reason,) = bench.refused
    assert reason.startswith(why)


def test_faults_are_read_strictly():
    faults = parse_faults("silent@2:0.05, keys=L2+B@3")
    assert [(f.kind, f.start_s, f.keys) for f in faults] == [
        ("silent", 2.0, ()),
        ("keys", 3.0, ("L2", "B")),
    ]
    for bad in ("storm@1", "silent@x", "keys=Z@1"):
        with pytest.raises(InputError):
            parse_faults(bad)
