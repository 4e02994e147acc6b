"""Lifecycle node that runs a policy: observations in, action chunks out.

Ticks by the stamps of ``joint_states`` (see :mod:`policies.runtime.ticker`). An observation is
complete when the messages that the policy needs carry the same stamp (real drivers: one state
period of slack). The chunk carries the stamp of the observation that it answers.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from policies import messages as wire
from policies.checkpoint import load_policy
from policies.errors import InputError
from policies.interface import Observation, Policy
from policies.robots import get_robot
from policies.runtime.handshake import announce_when_matched
from policies.runtime.latency import Percentiles
from policies.runtime.scheduling import prefer_realtime
from policies.runtime.ticker import Ticker
from realign_policy.data_loop import DataGroup, spin

QOS = QoSProfile(depth=100)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class PolicyNode(LifecycleNode):
    """configure loads the checkpoint, activate starts answering."""

    def __init__(self) -> None:
        super().__init__("policy")
        value = lambda name, default: self.declare_parameter(name, default).value  # noqa: E731
        self.robot = get_robot(value("robot", ""))
        self.path: str = value("policy", "")
        self.seed: int = value("seed", 0)
        self.autostart: bool = value("autostart", False)
        self.lockstep: bool = value("lockstep", False)
        self.summary_path: str = value("summary_path", "")
        self.realtime_priority: int = value("realtime_priority", 0)
        slack_s = 0.0 if self.lockstep else 1.0 / self.robot.state_rate_hz
        self._slack_ns = round(slack_s * 1e9)
        self._names = wire.NameMap(self.robot.joint_names, "joint_states")
        self.data = DataGroup()
        self._policy: Policy | None = None
        self._active = False
        self._imu: tuple[int, Imu] | None = None
        self._state: tuple[int, JointState] | None = None
        self._goal: np.ndarray | None = None
        self._answered: tuple[int, JointTrajectory] | None = None
        self.inference_ms = Percentiles()
        self.inference_total_s = 0.0

    # ---- lifecycle ----------------------------------------------------------------------------

    def on_configure(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Load and check the checkpoint; on any doubt stay unconfigured."""
        if self.count_publishers("action_chunk") > 0:
            self.get_logger().error("another policy publishes action_chunk already; stop it first")
            return TransitionCallbackReturn.FAILURE
        try:
            self._policy = load_policy(Path(self.path), self.robot)
        except InputError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        spec = self._policy.spec
        self._ticker = Ticker(spec.rate_hz)
        self._chunks = self.create_publisher(JointTrajectory, "action_chunk", QOS)
        self._listen(spec.needs)
        self.get_logger().info(
            f"{spec.name} for {spec.robot}, {spec.rate_hz:g} Hz, {spec.sha256[:12]}"
        )
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget history; answer from the next complete observation on."""
        assert self._policy is not None
        self._policy.reset(self.seed)
        self._ticker.reset()
        self._answered = None
        self._active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Fall silent; the guard holds and stops."""
        self._active = False
        return super().on_deactivate(state)

    def _listen(self, needs: tuple[str, ...]) -> None:
        """Subscribe, and announce that this policy runs."""
        inputs = [
            self.create_subscription(
                JointState, "joint_states", self._on_state, QOS, callback_group=self.data
            )
        ]
        if self.robot.floating_base:
            inputs.append(
                self.create_subscription(Imu, "imu", self._on_imu, QOS, callback_group=self.data)
            )
        if "goal" in needs:
            inputs.append(
                self.create_subscription(
                    PoseStamped, "goal", self._on_goal, LATCHED, callback_group=self.data
                )
            )
        self._inputs = inputs
        self._ready = self.create_publisher(Header, "ready", LATCHED)
        announce_when_matched(self, self._ready, Header(), inputs, also=lambda: self._active)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the checkpoint; another may be configured."""
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self.destroy_publisher(self._chunks)
        self.destroy_publisher(self._ready)
        self._policy = None
        return super().on_cleanup(state)

    # ---- data ---------------------------------------------------------------------------------

    def _on_imu(self, msg: Imu) -> None:
        self._imu = wire.stamp_to_ns(msg.header.stamp), msg
        self._tick()

    def _on_goal(self, msg: PoseStamped) -> None:
        self._goal = wire.vector(msg.pose.position)
        self._tick()

    def _on_state(self, msg: JointState) -> None:
        self._state = wire.stamp_to_ns(msg.header.stamp), msg
        self._tick()

    def _tick(self) -> None:
        if not self._active or self._policy is None or self._state is None:
            return
        stamp, state = self._state
        if self.robot.floating_base and (
            self._imu is None or abs(self._imu[0] - stamp) > self._slack_ns
        ):
            return  # the other half of the observation is still on its way
        if "goal" in self._policy.spec.needs and self._goal is None:
            return
        if self._answered is not None and self._answered[0] == stamp:
            self._chunks.publish(self._answered[1])  # the driver asks again: same answer
            return
        if not self._ticker.due(stamp):
            return
        try:
            qpos, qvel, effort = wire.joint_state_to_numpy(state, self._names)
        except InputError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        observation = Observation(
            stamp_ns=stamp, qpos_rad=qpos, qvel_rad_s=qvel, effort_nm=effort, goal=self._goal
        )
        if self._imu is not None:
            observation.base_quat_wxyz = wire.quat_wxyz(self._imu[1].orientation)
            observation.base_ang_vel_rad_s = wire.vector(self._imu[1].angular_velocity)
        self._answer(observation)

    def _answer(self, observation: Observation) -> None:
        assert self._policy is not None
        start = time.perf_counter()
        chunk = self._policy.act(observation)
        took = time.perf_counter() - start
        self.inference_total_s += took
        self.inference_ms.add(took * 1e3)
        message = wire.fill_trajectory(
            JointTrajectory(),
            JointTrajectoryPoint,
            stamp_ns=chunk.stamp_ns,
            names=self.robot.joint_names,
            dt_s=chunk.dt_s,
            positions_rad=chunk.positions_rad,
        )
        self._chunks.publish(message)
        self._answered = observation.stamp_ns, message

    def summary(self) -> dict[str, object]:
        """Everything that `realign run` reports of the policy."""
        return {
            "answers": self.inference_ms.count,
            "inference_ms": self.inference_ms.summary(),
            "inference_total_s": self.inference_total_s,
        }


def main() -> None:
    """Run the policy until it is told to stop; exit code 2 if it cannot be configured."""
    rclpy.init()
    try:
        node = PolicyNode()
    except InputError as error:
        print(f"realign: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    code = 0
    try:
        if node.autostart:
            success = TransitionCallbackReturn.SUCCESS
            if node.trigger_configure() != success or node.trigger_activate() != success:
                code = 2
        prefer_realtime(node.realtime_priority)
        if code == 0:
            spin(node, node.data)
    except KeyboardInterrupt:
        pass
    finally:
        if node.summary_path:
            Path(node.summary_path).write_text(json.dumps(node.summary()))
        node.destroy_node()
        rclpy.try_shutdown()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
