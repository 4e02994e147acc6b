"""Open-loop replay: reset the simulator to logged states, play the logged commands, compare.

All windows of all episodes run in lock-step, one control tick per batched call, with and without a
delta-action model alike: a model that answers zero gives the very same numbers as no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.episodes.episode import Episode
from sim2real.replay.log import Log, Rows
from sim2real.replay.metrics import Metrics, WindowErrors, evaluate, horizon_frames
from sim2real.sim.batch import BatchStepper
from sim2real.sim.body_positions import BodyPositions
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import SimState, stack

HORIZONS_S = (0.25, 0.5, 1.0)

Progress = Callable[[float], None]
"""Called with the share of the work that is done, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class History:
    """The last H control ticks before the present one, oldest first.

    Attributes:
        qpos_rad, qvel_rad_s: joint states, (B, H, n).
        setpoint_rad: set-points at the motors, without delta, (B, H, n), rad.
    """

    qpos_rad: Float
    qvel_rad_s: Float
    setpoint_rad: Float

    @classmethod
    def of(cls, log: Log, motor_rad: Float, rows: Rows, ticks: int) -> History:
        """What came before each of ``rows`` in the log, with :func:`at_motor` of its rows."""
        before = log.before(rows, ticks)
        return cls(
            qpos_rad=log.state.qpos_rad[before],
            qvel_rad_s=log.state.qvel_rad_s[before],
            setpoint_rad=motor_rad[before],
        )

    def last(self, ticks: int) -> History:
        """The last ``ticks`` ticks of it."""
        skip = self.setpoint_rad.shape[1] - ticks
        return History(
            qpos_rad=self.qpos_rad[:, skip:],
            qvel_rad_s=self.qvel_rad_s[:, skip:],
            setpoint_rad=self.setpoint_rad[:, skip:],
        )

    def pushed(self, state: SimState, setpoint_rad: Float) -> History:
        """The history one tick later: ``state`` and ``setpoint_rad`` join, the oldest leave."""

        def shift(past: Float, new: Float) -> Float:
            return np.concatenate([past, new[:, None]], axis=1)[:, 1:]

        return History(
            qpos_rad=shift(self.qpos_rad, state.qpos_rad),
            qvel_rad_s=shift(self.qvel_rad_s, state.qvel_rad_s),
            setpoint_rad=shift(self.setpoint_rad, setpoint_rad),
        )


class DeltaAction(Protocol):
    """A correction of the set-point at the motors from state, set-point and history.

    It acts behind the simulator's actuator delay, and sees the set-points as they arrive there.
    """

    @property
    def rate_hz(self) -> float:
        """Control rate that it was trained at, Hz."""

    @property
    def history(self) -> int:
        """Ticks of history that it needs."""

    @property
    def simulator(self) -> Gap:
        """How the simulator that it corrects differs from the nominal one."""

    def __call__(self, state: SimState, setpoint_rad: Float, history: History) -> Float:
        """Delta on the set-point, (B, n), rad."""


class Residual(Protocol):
    """A correction of the simulator's next state from state, set-point and history."""

    @property
    def rate_hz(self) -> float:
        """Control rate that it was trained at, Hz."""

    @property
    def history(self) -> int:
        """Ticks of history that it needs."""

    @property
    def simulator(self) -> Gap:
        """How the simulator that it corrects differs from the nominal one."""

    def __call__(
        self, state: SimState, setpoint_rad: Float, history: History, following: SimState
    ) -> SimState:
        """The corrected next state, where the simulator says ``following``, arrays (B, ...)."""


def at_motor(stepper: BatchStepper, log: Log) -> Float:
    """Set-points of every row of a log as the motors see them, mean over the tick, (N, n), rad."""
    rows = np.arange(len(log.first))
    sent = log.setpoint_rad[log.before(rows, stepper.delay_ticks)]
    return stepper.at_motor(log.setpoint_rad[:, None], sent)[:, 0]


def play(
    stepper: BatchStepper,
    log: Log,
    rows: Rows,
    ticks: int,
    *,
    delta: DeltaAction | Float | None = None,
    residual: Residual | None = None,
    progress: Progress | None = None,
) -> SimState:
    """Play ``ticks`` logged set-points from each of ``rows``.

    Args:
        stepper: simulator at the log's rate.
        log: episodes.
        rows: rows where to start, (B,).
        ticks: control ticks.
        delta: a model that adds to each set-point, or one delta for each row of the log (N, n).
        residual: a model that corrects each next state; not together with a delta model.
        progress: called after each tick.

    Returns:
        Simulated states, arrays (B, ticks + 1, ...); frame 0 is the logged state.
    """
    ahead = log.ahead(rows, ticks)
    state = log.state.map(lambda x: x[rows])
    model = None if isinstance(delta, np.ndarray) else delta
    ticks_before = (model or residual).history if model or residual else 0  # type: ignore[union-attr]
    motor = at_motor(stepper, log)
    history = History.of(log, motor, rows, ticks_before)
    sent = log.setpoint_rad[log.before(rows, stepper.delay_ticks)]
    frames = [state]
    for k in range(ticks):
        now = ahead[:, k]
        target, change = log.setpoint_rad[now][:, None], None
        if model is not None:
            change = model(state, motor[now], history)[:, None]
        elif isinstance(delta, np.ndarray):
            change = delta[now][:, None]
        following = stepper.step(state, target, sent, change).map(lambda x: x[:, 0])
        if residual is not None:
            following = residual(state, motor[now], history, following)
        if ticks_before:
            history = history.pushed(state, motor[now])
        state = following
        sent = np.concatenate([sent, target], axis=1)[:, 1:]
        frames.append(state)
        if progress:
            progress((k + 1) / ticks)
    return stack(frames)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to predict what the robot does, to be measured on a log.

    Attributes:
        name: how it is called in tables and files.
        simulators: how the simulator differs from the nominal one; the errors in several are
            averaged.
        delta: delta-action model on top.
        residual: delta-dynamics model on top.
    """

    name: str
    simulators: tuple[Gap, ...] = (Gap(),)
    delta: DeltaAction | None = None
    residual: Residual | None = None

    @classmethod
    def with_delta(cls, delta: DeltaAction, name: str = "delta_action") -> Method:
        """A delta-action model in the simulator that it was trained on."""
        return cls(name=name, simulators=(delta.simulator,), delta=delta)

    @property
    def rate_hz(self) -> float | None:
        """Control rate that it is bound to, Hz."""
        model = self.delta or self.residual
        return None if model is None else model.rate_hz


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One window, for plots: joint positions, each (K + 1, n), rad.

    Attributes:
        logged: as recorded.
        methods: method name -> as simulated.
    """

    logged: Float
    methods: dict[str, Float]


@dataclass(frozen=True, kw_only=True)
class ReplayResult:
    """Errors of replay.

    Attributes:
        robot: robot name.
        joint_names: joints in the order of per-joint errors.
        episodes: number of episodes.
        rate_hz: control rate, Hz.
        horizons_s: horizons, s.
        window_every_s: time between resets, s.
        errors: errors of each method in the same B windows.
        episode: number of the episode that each window belongs to, (B,).
        trajectories: some windows, spread over the log.
    """

    robot: str
    joint_names: tuple[str, ...]
    episodes: int
    rate_hz: float
    horizons_s: tuple[float, ...]
    window_every_s: float
    errors: dict[str, WindowErrors] = field(repr=False)
    episode: Rows = field(repr=False)
    trajectories: tuple[Trajectory, ...] = field(default=(), repr=False)

    @property
    def windows(self) -> int:
        """Number of windows."""
        return len(self.episode)

    @cached_property
    def methods(self) -> dict[str, Metrics]:
        """Mean errors of each method."""
        return {name: errors.mean() for name, errors in self.errors.items()}

    def to_json(self) -> dict[str, Any]:
        """The JSON of ``realign replay``, with errors of each joint beside it."""
        return {
            "robot": self.robot,
            "episodes": self.episodes,
            "windows": self.windows,
            "rate_hz": self.rate_hz,
            "horizons_s": list(self.horizons_s),
            "joint_names": list(self.joint_names),
            "methods": {name: metrics.to_json() for name, metrics in self.methods.items()},
        }


def replay(
    episodes: Sequence[Episode],
    robot: RobotSpec,
    *,
    delta: DeltaAction | None = None,
    horizons_s: Sequence[float] = HORIZONS_S,
    window_every_s: float = 0.5,
    gap: Gap | None = None,
    progress: Progress | None = None,
) -> ReplayResult:
    """Replay logged commands open loop and measure how far the simulator drifts.

    Args:
        episodes: logs of ``robot``, all at one rate.
        robot: the robot.
        delta: delta-action model; its errors come as ``delta_action`` beside ``open_loop``.
        horizons_s: lengths of replay from a reset, s.
        window_every_s: time between resets, s.
        gap: dynamics gap of the simulator, None for the nominal robot; a delta-action model plays
            in the simulator that it was trained on.
        progress: called with the share of the work that is done.

    Returns:
        Errors of each method per horizon; the same input gives the same numbers, bit by bit.

    Raises:
        InputError: episodes of another robot or rate, damaged, or too short for a horizon; or a
            model of another rate.
    """
    methods = [Method(name="open_loop", simulators=(gap or Gap(),))]
    if delta is not None:
        methods.append(Method.with_delta(delta))
    return measure(
        episodes,
        robot,
        methods,
        horizons_s=horizons_s,
        window_every_s=window_every_s,
        progress=progress,
    )


def measure(
    episodes: Sequence[Episode],
    robot: RobotSpec,
    methods: Sequence[Method],
    *,
    horizons_s: Sequence[float] = HORIZONS_S,
    window_every_s: float = 0.5,
    progress: Progress | None = None,
) -> ReplayResult:
    """Errors of several methods from the same resets to the logged state.

    Errors are measured on the bodies of the nominal robot; for arguments, result and errors see
    :func:`replay`.
    """
    log = Log.of(episodes, robot)
    frames = horizon_frames(horizons_s, log.rate_hz)
    _check(methods, log, max(frames), max(horizons_s))
    rows = log.windows(max(round(window_every_s * log.rate_hz), 1), min(frames))
    bodies = BodyPositions(robot)
    ahead = log.ahead(rows, max(frames))
    logged_pos, logged_qpos = bodies(log.state)[ahead], log.state.qpos_rad[ahead]
    runs = [(method, gap) for method in methods for gap in method.simulators]
    samples: dict[str, list[WindowErrors]] = {method.name: [] for method in methods}
    qpos: dict[str, Float] = {}
    for i, (method, gap) in enumerate(runs):

        def part(share: float, done: int = i) -> None:
            if progress:
                progress((done + share) / len(runs))

        with BatchStepper(robot, gap, rate_hz=log.rate_hz) as stepper:
            states = play(
                stepper,
                log,
                rows,
                max(frames),
                delta=method.delta,
                residual=method.residual,
                progress=part,
            )
        qpos.setdefault(method.name, states.qpos_rad)
        samples[method.name].append(
            evaluate(
                bodies(states),
                logged_pos,
                states.qpos_rad,
                logged_qpos,
                root=bodies.root,
                ticks=log.left(rows),
                frames=frames,
                ee=bodies.names.index(robot.ee_body) if robot.ee_body else None,
            )
        )
    whole = np.flatnonzero(log.left(rows) >= max(frames))
    shown = whole[np.linspace(0, len(whole) - 1, min(len(whole), 3)).round().astype(int)]
    return ReplayResult(
        robot=robot.name,
        joint_names=robot.joint_names,
        episodes=len(episodes),
        rate_hz=log.rate_hz,
        horizons_s=tuple(horizons_s),
        window_every_s=window_every_s,
        errors={name: WindowErrors.average(each) for name, each in samples.items()},
        episode=np.unique(log.first[rows], return_inverse=True)[1],
        trajectories=tuple(
            Trajectory(logged=logged_qpos[w], methods={k: v[w] for k, v in qpos.items()})
            for w in shown
        ),
    )


def _check(methods: Sequence[Method], log: Log, frames: int, horizon_s: float) -> None:
    for method in methods:
        if method.rate_hz is not None and method.rate_hz != log.rate_hz:
            raise InputError(
                f"expected episodes at {method.rate_hz:g} Hz, the rate of the delta model, got "
                f"{log.rate_hz:g} Hz; build them at that rate or train a model at this one"
            )
    longest = int((log.last - log.first).max())
    if longest < frames:
        raise InputError(
            f"expected an episode longer than {horizon_s:g} s, the longest horizon, got "
            f"{longest / log.rate_hz:g} s at most; record longer or give shorter horizons"
        )
