"""Many variants of one robot at once: the same motion under a list of dynamics gaps.

System identification asks what each of dozens of parameters changes. A model is compiled once and
its arrays are edited in place for each variant, which takes microseconds where compiling takes
tenths of a second; the roll-outs of several variants share one threaded call.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import mujoco
import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.sim.batch import BatchStepper
from sim2real.sim.delay import ActuatorDelay
from sim2real.sim.gaps import Gap
from sim2real.sim.model import FLOOR_FRICTION, PAYLOAD_RADIUS_M, JointParameters
from sim2real.sim.stepper import Layout, SimState

_MODELS = 4  # edited side by side; a legged robot's model has tens of MB of meshes
_SIMULATIONS_PER_CALL = 2_000  # bounds memory: a G1 state is 0.6 kB per physics step
_PLACEHOLDER_KG = 1e-6


class Variants:
    """Plays the same commands from the same states in several variants of a robot.

    Args:
        robot: the robot.
        rate_hz: control rate, default ``robot.control_rate_hz``.
        payload_bodies: bodies that may carry a payload.
        threads: worker threads, default the number of cores.
    """

    def __init__(
        self,
        robot: RobotSpec,
        *,
        rate_hz: float | None = None,
        payload_bodies: Sequence[str] = (),
        threads: int | None = None,
    ) -> None:
        places = Gap(name="places", payload_kg=dict.fromkeys(payload_bodies, _PLACEHOLDER_KG))
        self.robot = robot
        self.payload_bodies = tuple(payload_bodies)
        self._stepper = BatchStepper(robot, places, rate_hz=rate_hz, threads=threads)
        self._models = [copy.copy(self._stepper.model) for _ in range(_MODELS)]
        self._scratch = mujoco.MjData(self._stepper.model)

    def __enter__(self) -> Variants:
        return self

    def __exit__(self, *_: object) -> None:
        self._stepper.close()

    @property
    def rate_hz(self) -> float:
        """Control rate, Hz."""
        return self._stepper.rate_hz

    def play(
        self, gaps: Sequence[Gap], state: SimState, targets_rad: Float, previous_rad: Float
    ) -> SimState:
        """Advance every variant from every state.

        Args:
            gaps: V variants. A delay may be any fraction of a physics step here; between two steps
                the set-point is interpolated, so that the motion is smooth in the delay.
            state: B states to start from, arrays (B, ...).
            targets_rad: set-points held over each tick, (B, ticks, n), rad.
            previous_rad: set-points of the ticks before, newest last, (B, k, n), rad; the oldest
                is held before that.

        Returns:
            The states after each tick, arrays (V, B, ticks, ...).

        Raises:
            InputError: a gap with a payload at a body that was not announced, or that names joints
                or bodies which the robot has not.
        """
        together = int(np.clip(_SIMULATIONS_PER_CALL // max(len(targets_rad), 1), 1, _MODELS))
        return _join(
            [
                self._together(gaps[first : first + together], state, targets_rad, previous_rad)
                for first in range(0, len(gaps), together)
            ]
        )

    def _together(
        self, gaps: Sequence[Gap], state: SimState, targets_rad: Float, previous_rad: Float
    ) -> SimState:
        """At most as many variants as there are models, in one call."""
        batch, many = len(targets_rad), len(gaps)
        models = [self._edit(model, gap) for model, gap in zip(self._models, gaps, strict=False)]
        at_motor = [self._delayed(gap.delay_s, targets_rad, previous_rad) for gap in gaps]
        end = self._stepper.run(
            state.map(lambda x: np.concatenate([x] * many)),
            np.concatenate(at_motor),
            [model for model in models for _ in range(batch)],
        )
        return end.map(lambda x: x.reshape(many, batch, *x.shape[1:]))

    def _delayed(self, delay_s: float, targets_rad: Float, previous_rad: Float) -> Float:
        """Set-points at the physics rate behind a delay, (B, physics steps, n)."""
        delay = delay_s / self.robot.physics_dt_s
        whole = int(np.floor(delay + 1e-9))
        share = delay - whole
        newer, older = (
            ActuatorDelay(steps=steps, decimation=self._stepper.decimation).at_physics_rate(
                targets_rad, previous_rad
            )
            for steps in (whole, whole + 1)
        )
        if share < 1e-9:
            return newer
        mixed: Float = (1.0 - share) * newer + share * older
        return mixed

    def _edit(self, model: mujoco.MjModel, gap: Gap) -> mujoco.MjModel:
        """Make ``model`` what ``build_model(robot, gap)`` would give, in place."""
        edit_model(model, self._stepper.model, self.robot, self._stepper.layout, gap)
        mujoco.mj_setConst(model, self._scratch)
        return model


def edit_model(
    model: mujoco.MjModel, nominal: mujoco.MjModel, robot: RobotSpec, layout: Layout, gap: Gap
) -> None:
    """Write a gap into the arrays of a compiled model; derived constants are not updated.

    Args:
        model: a copy of ``nominal``, whatever gap it has now.
        nominal: the robot without gap, with a place for each payload.
        robot: the robot.
        layout: where its joints lie.
        gap: the gap; its delay is not part of a model.

    Raises:
        InputError: a payload at a body without a place for it, or unknown joints or bodies.
    """
    values, at, act = JointParameters.of(robot, gap), layout.qvel, layout.ctrl
    model.dof_damping[at] = values.damping_nm_s_rad
    model.dof_armature[at] = values.armature_kg_m2
    model.dof_frictionloss[at] = values.friction_nm
    model.jnt_stiffness[nominal.dof_jntid[at]] = values.spring_nm_rad
    model.actuator_gainprm[act, 0] = values.kp_nm_rad
    model.actuator_biasprm[act, 0] = values.kp_nm_rad * values.offset_rad
    model.actuator_biasprm[act, 1] = -values.kp_nm_rad
    model.actuator_biasprm[act, 2] = -values.kd_nm_s_rad
    model.actuator_forcerange[act] = np.stack([-values.limit_nm, values.limit_nm], axis=1)
    model.body_mass[:], model.body_inertia[:] = nominal.body_mass, nominal.body_inertia
    for name, factor in gap.mass.items():
        body = _body(nominal, name, robot, gap)
        model.body_mass[body] *= factor
        model.body_inertia[body] *= factor
    places = [i for i in range(nominal.nbody) if nominal.body(i).name.endswith("_payload")]
    model.body_mass[places], model.body_inertia[places] = 0.0, 0.0
    for name, mass in gap.payload_kg.items():
        body = _body(nominal, f"{name}_payload", robot, gap)
        model.body_mass[body] = mass
        model.body_inertia[body] = 0.4 * mass * PAYLOAD_RADIUS_M**2
        model.body_ipos[body] = gap.payload_com_m.get(name, (0.0, 0.0, 0.0))
    if robot.floating_base:
        floor = nominal.geom("floor").id
        model.geom_friction[floor, 0] = gap.floor_friction or FLOOR_FRICTION
        model.geom_solref[floor] = nominal.geom_solref[floor]
        if gap.floor_softness_s is not None:
            model.geom_solref[floor] = (gap.floor_softness_s, 1.0)


def _body(model: mujoco.MjModel, name: str, robot: RobotSpec, gap: Gap) -> int:
    number = int(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name))
    if number < 0:
        raise InputError(f"gap {gap.name}: robot {robot.name} has no body {name!r}")
    return number


def _join(parts: Sequence[SimState]) -> SimState:
    """States of groups of variants as one, arrays (V, ...)."""
    names = [name for name, value in vars(parts[0]).items() if value is not None]
    return SimState(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})
