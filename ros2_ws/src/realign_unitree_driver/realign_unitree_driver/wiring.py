"""Which motor of a Unitree robot is which joint, and how its low-level interface wants to be used.

Motor tables are by joint name; nothing else in this package knows an index.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.interface import RobotSpec, reorder_index
from realign_unitree_driver.layout import (
    GO_LOW_CMD,
    GO_LOW_STATE,
    HG_LOW_CMD,
    HG_LOW_STATE,
    Message,
    MessageType,
)

Ankles = Literal["pr", "ab"]
ENABLED = 1  # motor mode of a motor that follows its set-point
POS_STOP_RAD = 2.146e9  # Go2 family: "no position", "no speed" of a motor that is not used
VEL_STOP_RAD_S = 16000.0


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """The low-level interface of one robot.

    Attributes:
        robot: robot name.
        low_cmd, low_state: message types.
        motors: joint name of each motor, in the order of the SDK.
        parallel: names of those motors that belong to a parallel mechanism, as they are called
            when they are commanded one by one (``mode_pr`` 1) instead of as pitch and roll.
        mode_machine: robot type that LowState must report, None where there is no such field.
        mode_machines: what the known values of ``mode_machine`` mean.
        case_limit_c, winding_limit_c: temperatures above which the robot is stopped, Celsius.
    """

    robot: str
    low_cmd: MessageType
    low_state: MessageType
    motors: tuple[str, ...]
    parallel: dict[int, str] = field(default_factory=dict)
    mode_machine: int | None = None
    mode_machines: dict[int, str] = field(default_factory=dict)
    case_limit_c: float = 85.0
    winding_limit_c: float = 120.0

    def names(self, ankles: Ankles) -> tuple[str, ...]:
        """Joint name of each motor in an ankle mode.

        Raises:
            InputError: the robot has no parallel mechanism, or there is no such mode.
        """
        if ankles == "pr":
            return self.motors
        if ankles != "ab" or not self.parallel:
            raise InputError(
                f"expected ankle mode pr{' or ab' * bool(self.parallel)} for {self.robot}, "
                f"got {ankles!r}; use pr unless the policy commands single motors of the ankles"
            )
        return tuple(self.parallel.get(i, name) for i, name in enumerate(self.motors))

    def index(self, robot: RobotSpec, ankles: Ankles) -> NDArray[np.intp]:
        """Motor of each joint of ``robot``, (n,).

        Raises:
            InputError: a joint has no motor in this ankle mode.
        """
        return reorder_index(self.names(ankles), robot.joint_names, f"{self.robot} motors")

    def check_type(self, state: Any, expected: int | None) -> None:
        """Refuse a LowState record of a robot of another type.

        Args:
            state: LowState record.
            expected: value of ``mode_machine`` to accept; None for the default of the robot.

        Raises:
            InputError: another type, or motors that this robot should (not) have.
        """
        wanted = self.mode_machine if expected is None else expected
        if wanted is not None and self.mode_machine is not None:
            got = int(state["mode_machine"])
            if got != wanted:
                raise InputError(
                    f"expected mode_machine {wanted} ({self._meaning(wanted)}), but the robot "
                    f"reports {got} ({self._meaning(got)}); use a policy and robot of that type"
                )
        answers = np.any([state["motor_state"][f] != 0 for f in ("q", "dq", "tau_est")], axis=0)
        count = len(self.motors)
        if not answers[:count].all():
            dead = [self.motors[i] for i in np.flatnonzero(~answers[:count])]
            raise InputError(
                f"expected {count} motors of a {self.robot}, but {dead} report nothing; "
                "use the robot type that has these joints, or see to the motors"
            )
        if answers[count:].any():
            raise InputError(
                f"expected {count} motors of a {self.robot}, but {int(answers.sum())} answer: "
                "this is another robot; use its name with --robot"
            )

    def _meaning(self, mode_machine: int) -> str:
        return self.mode_machines.get(mode_machine, "unknown to this driver")

    def new_command(self, ankles: Ankles, mode_machine: int) -> Message:
        """LowCmd with everything set that does not change while the driver runs."""
        message = self.low_cmd.new()
        data, count = message.data, len(self.motors)
        data["motor_cmd"]["mode"][:count] = ENABLED
        if self.low_cmd is HG_LOW_CMD:
            data["mode_pr"] = int(ankles == "ab")
            data["mode_machine"] = mode_machine
        else:
            data["head"] = (0xFE, 0xEF)
            data["level_flag"] = 0xFF
            data["motor_cmd"]["q"][count:] = POS_STOP_RAD
            data["motor_cmd"]["dq"][count:] = VEL_STOP_RAD_S
        return message

    def hottest_c(self, state: Any) -> tuple[float, float]:
        """Highest case and winding temperature in a LowState record, Celsius."""
        temperature = state["motor_state"]["temperature"][: len(self.motors)]
        if temperature.ndim == 1:  # one sensor a motor
            return float(temperature.max()), 0.0
        case, winding = temperature.max(axis=0)
        return float(case), float(winding)


def _both(*joints: str) -> tuple[str, ...]:
    return tuple(f"{side}_{joint}_joint" for side in ("left", "right") for joint in joints)


_LEG = ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")
_WAIST = ("waist_yaw_joint", "waist_roll_joint", "waist_pitch_joint")
_ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow")
_WRIST = ("wrist_roll", "wrist_pitch", "wrist_yaw")

G1 = Wiring(
    robot="g1",
    low_cmd=HG_LOW_CMD,
    low_state=HG_LOW_STATE,
    motors=(*_both(*_LEG), *_WAIST, *_both(*_ARM, *_WRIST)),
    parallel={
        4: "left_ankle_b_joint",
        5: "left_ankle_a_joint",
        10: "right_ankle_b_joint",
        11: "right_ankle_a_joint",
        13: "waist_a_joint",
        14: "waist_b_joint",
    },
    mode_machine=5,
    mode_machines={
        1: "G1, 23 joints, beta",
        2: "G1, 29 joints, beta",
        3: "G1, 29 joints, waist locked, beta",
        4: "G1, 23 joints, revision 1.0",
        5: "G1, 29 joints, revision 1.0",
        6: "G1, 29 joints, waist locked, revision 1.0",
        10: "G1, 23 joints, hip gears 22.5",
        11: "G1, 29 joints, hip gears 22.5, wrist motors 4010",
        12: "G1, 29 joints, waist locked, hip gears 22.5, wrist motors 4010",
        13: "G1, 29 joints, hip gears 14.3 and 22.5, wrist motors 5010",
        14: "G1, 29 joints, waist locked, hip gears 14.3 and 22.5, wrist motors 5010",
        15: "G1, 29 joints, hip gears 22.5, wrist motors 5010",
        16: "G1, 29 joints, waist locked, hip gears 22.5, wrist motors 5010",
    },
)

GO2 = Wiring(
    robot="go2",
    low_cmd=GO_LOW_CMD,
    low_state=GO_LOW_STATE,
    motors=tuple(
        f"{leg}_{joint}_joint"
        for leg in ("FR", "FL", "RR", "RL")
        for joint in ("hip", "thigh", "calf")
    ),
)

WIRINGS = {wiring.robot: wiring for wiring in (G1, GO2)}


def get_wiring(robot: RobotSpec) -> Wiring:
    """Low-level interface of ``robot``.

    Raises:
        InputError: no Unitree robot.
    """
    if robot.name not in WIRINGS:
        raise InputError(
            f"expected a Unitree robot out of {sorted(WIRINGS)}, got {robot.name!r}; "
            "use another driver"
        )
    return WIRINGS[robot.name]
