"""The simulator that a policy is fine-tuned in: batched physics, frozen delta, random dynamics.

Physics is behind :class:`BatchSimulator`, so that another engine, one on a GPU for instance, can
take the place of :class:`sim2real.sim.batch.BatchStepper`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.delta.model import SavedDelta
from sim2real.replay.open_loop import History
from sim2real.sim.batch import BatchStepper
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import SimState


class BatchSimulator(Protocol):
    """Steps B copies of one robot."""

    @property
    def delay_ticks(self) -> int:
        """Set-points before the present one that can still be on their way to the motors."""

    def at_motor(self, targets_rad: Float, previous_rad: Float) -> Float:
        """Set-points (B, ticks, n), rad, as the motors see them behind the actuator delay."""

    def step(
        self,
        state: SimState,
        targets_rad: Float,
        previous_rad: Float | None = None,
        delta_rad: Float | None = None,
    ) -> SimState:
        """From B states hold the set-points (B, ticks, n), rad; states (B, ticks, ...) after each.

        ``previous_rad`` (B, k, n) are the set-points of the ticks before, newest last;
        ``delta_rad`` (B, ticks, n) is added behind the actuator delay.
        """

    def close(self) -> None:
        """Free what the engine holds."""


MakeSimulator = Callable[[RobotSpec, Gap, float], BatchSimulator]
"""A simulator of a robot with a gap at a control rate, Hz."""


def mujoco_simulator(robot: RobotSpec, gap: Gap, rate_hz: float) -> BatchSimulator:
    """MuJoCo on all cores."""
    return BatchStepper(robot, gap, rate_hz=rate_hz)


def warp_simulator(robot: RobotSpec, gap: Gap, rate_hz: float) -> BatchSimulator:
    """MuJoCo Warp on the first GPU.

    Raises:
        InputError: mujoco-warp is not installed, or there is no GPU.
    """
    from sim2real.sim.warp import WarpStepper

    return WarpStepper(robot, gap, rate_hz=rate_hz)


@dataclass(frozen=True, kw_only=True)
class Randomization:
    """Ranges that dynamics are drawn from, uniformly; the defaults are ASAP's.

    Attributes:
        draws: number of different robots that the environments are divided among.
        friction: sliding friction of the floor.
        kp: factor on the position gains, one for all joints.
        delay_s: actuator delay, s.
        push_m_s: size of a push on the base, m/s; its direction is horizontal and random.
        push_every_s: mean time between pushes, s.
    """

    draws: int = 16
    friction: tuple[float, float] = (0.2, 1.1)
    kp: tuple[float, float] = (0.925, 1.05)
    delay_s: tuple[float, float] = (0.02, 0.04)
    push_m_s: float = 0.5
    push_every_s: float = 10.0

    def gaps(self, robot: RobotSpec, base: Gap, seed: int) -> list[Gap]:
        """Random variations of ``base``, one for each draw."""
        rng = np.random.default_rng(seed)
        out = []
        for i in range(self.draws):
            kp = float(rng.uniform(*self.kp))
            friction = float(rng.uniform(*self.friction)) if robot.floating_base else None
            out.append(
                replace(
                    base,
                    name=f"{base.name}, draw {i}",
                    kp={**base.kp, "*": base.kp.get("*", 1.0) * kp},
                    floor_friction=friction,
                    delay_s=base.delay_s + float(rng.uniform(*self.delay_s)),
                )
            )
        return out


@dataclass(frozen=True, kw_only=True)
class Past:
    """What the simulator must know of the ticks before, for B robots.

    Attributes:
        history: states and set-points at the motors, for the delta-action model, (B, H, n).
        sent_rad: set-points of the policy that may still be under way, newest last, (B, k, n).
        fresh: robots that have just been reset, (B,): their past is filled at the next tick.
    """

    history: History
    sent_rad: Float
    fresh: np.typing.NDArray[np.bool_]


class Simulator:
    """B robots side by side, in groups of equal dynamics, each with the delta in its actuators.

    Args:
        robot: the robot.
        count: number of robots B.
        rate_hz: control rate, Hz.
        delta: frozen delta-action model, or None.
        base: dynamics without the delta; None for those that the delta was trained on.
        randomization: ranges of random dynamics, or None.
        make: physics engine.
        seed: of the random dynamics and pushes.
        keeps: ticks of history and of set-points under way that are kept at least, so that
            episodes can go on in another simulator that needs them.

    Raises:
        InputError: the delta is for another robot or rate.
    """

    def __init__(
        self,
        robot: RobotSpec,
        count: int,
        rate_hz: float,
        *,
        delta: SavedDelta | None = None,
        base: Gap | None = None,
        randomization: Randomization | None = None,
        make: MakeSimulator = mujoco_simulator,
        seed: int = 0,
        keeps: tuple[int, int] = (0, 0),
    ) -> None:
        if delta is not None:
            _check_delta(delta, robot, rate_hz)
            base = base or delta.simulator
        base = base or Gap()
        self.robot, self.count, self.delta = robot, count, delta
        self._randomization = randomization
        self._rng = np.random.default_rng([seed, 7])
        self.gaps = randomization.gaps(robot, base, seed) if randomization else [base]
        self.gaps = self.gaps[: max(count, 1)]
        edges = np.linspace(0, count, len(self.gaps) + 1).round().astype(int)
        self._parts = [slice(a, b) for a, b in pairwise(edges)]
        self._engines = [make(robot, gap, rate_hz) for gap in self.gaps]
        self._push_share = (
            1.0 / (rate_hz * randomization.push_every_s)
            if randomization and robot.floating_base
            else 0.0
        )
        self.history = max(delta.history if delta else 0, keeps[0])
        self.delay_ticks = max(keeps[1], *(engine.delay_ticks for engine in self._engines))

    def close(self) -> None:
        """Stop the engines."""
        for engine in self._engines:
            engine.close()

    @property
    def dynamics(self) -> Float:
        """What the critic may know of each robot's random dynamics, (B, 3), about unit scale."""
        out = np.zeros((self.count, 3))
        for part, gap in zip(self._parts, self.gaps, strict=True):
            out[part] = gap.kp.get("*", 1.0), gap.floor_friction or 1.0, 50.0 * gap.delay_s
        return out

    def past(self, state: SimState) -> Past:
        """The past of robots that have just been reset to ``state``, arrays (B, ...)."""
        batch = len(state.qpos_rad)

        def held(array: Float, ticks: int) -> Float:
            return np.repeat(array[:, None], ticks, axis=1)

        return Past(
            history=History(
                qpos_rad=held(state.qpos_rad, self.history),
                qvel_rad_s=held(state.qvel_rad_s, self.history),
                setpoint_rad=held(state.qpos_rad, self.history),
            ),
            sent_rad=held(state.qpos_rad, self.delay_ticks),
            fresh=np.ones(batch, dtype=bool),
        )

    def step(
        self, state: SimState, setpoint_rad: Float, past: Past
    ) -> tuple[SimState, Past, Float]:
        """Hold set-points for one control tick.

        Args:
            state: states, arrays (B, ...).
            setpoint_rad: as the policy sends them, (B, n), rad.
            past: the ticks before.

        Returns:
            The next states, the past of the next tick, and the deltas, (B, n), rad.
        """
        target = setpoint_rad[:, None]
        pairs = list(zip(self._engines, self._parts, strict=True))
        motor = np.concatenate([e.at_motor(target[p], past.sent_rad[p]) for e, p in pairs])[:, 0]
        history = past.history
        if self.history and past.fresh.any():  # as in a log: its first row repeats into the past
            setpoints = history.setpoint_rad.copy()
            setpoints[past.fresh] = motor[past.fresh][:, None]
            history = replace(history, setpoint_rad=setpoints)
        delta = np.zeros_like(setpoint_rad)
        if self.delta is not None:
            delta = self.delta(state, motor, history.last(self.delta.history))
        pushed = self._push(state)
        parts = [
            engine.step(
                pushed.map(lambda x, part=part: x[part]),  # type: ignore[misc]
                target[part],
                past.sent_rad[part],
                delta[part, None],
            )
            for engine, part in pairs
        ]
        after = Past(
            history=history.pushed(state, motor) if self.history else history,
            sent_rad=np.concatenate([past.sent_rad, target], axis=1)[:, 1:],
            fresh=np.zeros(self.count, dtype=bool),
        )
        return join([part.map(lambda x: x[:, 0]) for part in parts]), after, delta

    def _push(self, state: SimState) -> SimState:
        """Some of the robots, pushed."""
        if not self._push_share or self._randomization is None or state.base_lin_vel_m_s is None:
            return state
        hit = self._rng.random(self.count) < self._push_share
        angle = self._rng.uniform(0.0, 2.0 * np.pi, self.count)
        size = self._randomization.push_m_s * hit
        kick = np.stack([size * np.cos(angle), size * np.sin(angle), np.zeros(self.count)], axis=1)
        return replace(state, base_lin_vel_m_s=state.base_lin_vel_m_s + kick)


def join(states: Sequence[SimState]) -> SimState:
    """States of several groups of robots one after the other."""
    first = vars(states[0])
    return SimState(
        **{
            name: np.concatenate([vars(s)[name] for s in states])
            for name, array in first.items()
            if array is not None
        }
    )


def _check_delta(delta: SavedDelta, robot: RobotSpec, rate_hz: float) -> None:
    made_for = delta.robot
    if made_for.fingerprint != robot.fingerprint:
        raise InputError(
            f"expected a delta model of {robot.name} ({robot.fingerprint}), got one of "
            f"{made_for.name} ({made_for.fingerprint}); train one for this robot's joints and gains"
        )
    if delta.rate_hz != rate_hz:
        raise InputError(
            f"expected a delta model at {rate_hz:g} Hz, the rate of the policy, got one at "
            f"{delta.rate_hz:g} Hz; build the episodes at the policy's rate and train again"
        )
