"""A real control box, or an emulated one, through libfranka; its exceptions as sentences.

libfranka keeps the interpreter to itself while it waits for a state: use it only in a process that
has nothing else to do. A model of libfranka must live as long as its process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pylibfranka

from policies.errors import InputError
from policies.interface import Float


class MotionEnded(Exception):
    """The robot has ended a motion, or has refused to begin one; the text says why."""


class Silent(Exception):
    """No state came within libfranka's time limit, or the connection is gone."""


def connect(address: str, *, enforce_realtime: bool = False) -> pylibfranka.Robot:
    """Connect to the control box at ``address``.

    Args:
        address: IP address or host name.
        enforce_realtime: let libfranka insist on a kernel with PREEMPT_RT.

    Raises:
        InputError: nobody there, FCI not active, another protocol, or no real-time kernel.
    """
    realtime = pylibfranka.RealtimeConfig
    config = realtime.kEnforce if enforce_realtime else realtime.kIgnore
    try:
        return pylibfranka.Robot(address, config)
    except (pylibfranka.FrankaException, RuntimeError) as error:
        raise InputError(_sentence(address, str(error))) from None


def _sentence(address: str, text: str) -> str:
    text = text.removeprefix("libfranka: ").strip()
    if "refused" in text:
        return (
            f"expected the Franka Control Interface at {address}, but the connection was refused; "
            "unlock the joints and activate FCI in Desk, or correct --network"
        )
    if "ncompatible" in text:
        return (
            f"expected an FR3 with system 5.9 or newer at {address}, but its control box speaks "
            f"another protocol ({text.partition('. ')[0]}); update its system, or drive a Panda "
            "(FER) through ros2_control with libfranka 0.9"
        )
    if "realtime" in text:
        return (
            f"expected a kernel with PREEMPT_RT, but libfranka says: {text.rstrip('.')}; boot one, "
            "or leave the parameter enforce_realtime out"
        )
    return (
        f"expected a Franka control box at {address}, but none answers ({text}); check that it is "
        f"on, its cable, `ping {address}`, and this computer's address in its network"
    )


class FrankaRobot:
    """One arm: states, one torque motion at a time, recovery.

    Args:
        address: IP address or host name of the control box.
        enforce_realtime: see :func:`connect`.

    Attributes:
        reflex: errors that it was found in, empty for none; only a recovery ends them.

    Raises:
        InputError: see :func:`connect`, or the robot is in a mode that is none of ours.
    """

    def __init__(self, address: str, *, enforce_realtime: bool = False) -> None:
        self.robot = connect(address, enforce_realtime=enforce_realtime)
        self.model = self.robot.load_model()
        self._control: Any = None
        state = self.read()
        mode, modes = state.robot_mode, pylibfranka.RobotMode
        self.reflex = str(state.current_errors) if mode == modes.Reflex else ""
        if mode not in (modes.Idle, modes.Reflex, modes.UserStopped):
            raise InputError(
                f"expected a robot at {address} that is ready, but its mode is {mode.name}; "
                "set it to Execution in Desk and activate FCI"
            )

    def read(self) -> Any:
        """The next state, within or without a motion.

        Raises:
            MotionEnded: the robot has ended the motion.
            Silent: nothing comes.
        """
        try:
            if self._control is None:
                return self.robot.read_once()
            state, _ = self._control.readOnce()
            return state
        except pylibfranka.ControlException as error:
            raise self._lost(error) from None
        except pylibfranka.NetworkException as error:
            raise Silent(str(error)) from None

    def begin(self) -> None:
        """Begin a torque motion.

        Raises:
            MotionEnded: the robot refuses.
            Silent: nothing comes.
        """
        try:
            self._control = self.robot.start_torque_control()
        except (pylibfranka.CommandException, pylibfranka.ControlException) as error:
            raise self._lost(error) from None
        except pylibfranka.NetworkException as error:
            raise Silent(str(error)) from None

    def write(self, torque_nm: Float, *, finish: bool = False) -> None:
        """Torques for the state that was read last, (7,), Nm; ``finish`` ends the motion.

        Raises:
            MotionEnded: the robot has ended the motion.
            Silent: nothing comes.
            ValueError: a torque is not finite; the motion is cancelled.
        """
        command = pylibfranka.Torques(torque_nm)
        command.motion_finished = finish
        try:
            self._control.writeOnce(command)
        except ValueError:
            self._control = None  # libfranka cancels the motion with it
            raise
        except pylibfranka.ControlException as error:
            raise self._lost(error) from None
        except pylibfranka.NetworkException as error:
            raise Silent(str(error)) from None
        if finish:
            self._control = None

    def recover(self) -> None:
        """Automatic error recovery, which only a person may ask for.

        Raises:
            MotionEnded: the robot refuses.
        """
        try:
            self.robot.automatic_error_recovery()
        except (pylibfranka.CommandException, pylibfranka.ControlException) as error:
            raise self._lost(error) from None

    def coriolis_nm(self, state: Any) -> Float:
        """Coriolis torques at a state, (7,), Nm."""
        return np.asarray(self.model.coriolis(state))

    @staticmethod
    def is_user_stopped(state: Any) -> bool:
        """True while the user stop is pressed."""
        return bool(state.robot_mode == pylibfranka.RobotMode.UserStopped)

    def _lost(self, error: Exception) -> MotionEnded:
        self._control = None
        text = str(error).removeprefix("libfranka: ")
        return MotionEnded(text.replace("\n", " ").strip())
