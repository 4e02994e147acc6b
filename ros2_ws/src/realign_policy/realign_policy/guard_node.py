"""ROS node around :class:`policies.runtime.guard.Guard`, in a process of its own.

Takes ``joint_states``, ``imu`` and ``action_chunk``, where they exist also ``operator_stop``,
``battery`` and ``motor_temperature``; gives ``joint_command`` and diagnostics.
In real time a thread with absolute deadlines sends commands, and a set-point goes out the moment
its chunk arrives. In lockstep there is no clock but the simulator's: one command per joint state.
"""

from __future__ import annotations

import threading
import time

import rclpy
from rclpy.node import Node
from sensor_msgs.msg import BatteryState, Imu, JointState, Temperature
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from policies import messages as wire
from policies.errors import InputError
from policies.interface import ActionChunk
from policies.robots import get_robot
from policies.runtime.fault import Reason, State, Transition
from policies.runtime.guard import Guard
from policies.runtime.guard_config import GuardConfig
from policies.runtime.lifeline import on_loss
from policies.runtime.scheduling import prefer_realtime
from realign_driver.audience import announce
from realign_driver.health import HealthPublisher
from realign_driver.process import write_summary
from realign_driver.program import declaring, end_node, make_node, until_shutdown
from realign_driver.qos import QOS
from realign_policy.data_loop import DataGroup, spin
from realign_policy.guard_commands import CommandPublisher
from realign_policy.guard_health import GuardHealth

LOCKSTEP_SILENCE_S = 10.0


class GuardNode(Node):
    """Parameters to config, messages to NumPy, the rest is in the core."""

    def __init__(self) -> None:
        super().__init__("guard")
        value = declaring(self)
        self.robot = get_robot(value("robot", ""))
        self.lockstep: bool = value("lockstep", False)
        self.auto_arm: bool = value("auto_arm", False)
        self.rate_hz: float = value("rate_hz", 0.0) or self.robot.state_rate_hz
        self.summary_path: str = value("summary_path", "")
        self.realtime_priority: int = value("realtime_priority", 0)
        config = GuardConfig(
            policy_period_s=1.0 / value("policy_rate_hz", 50.0),
            ramp_s=value("ramp_s", 1.5),
            silence_periods=value("silence_periods", 2.0),
            state_max_age_s=value("state_max_age_s", 0.05),
            imu_max_age_s=value("imu_max_age_s", 0.05),
            operator_timeout_s=value("operator_timeout_s", 0.0),
            tick_period_s=0.0 if self.lockstep else 1.0 / self.rate_hz,
        )
        self.guard = Guard(self.robot, config, on_transition=self._log_transition)
        self.health = GuardHealth(self.guard)
        self._lock = threading.Lock()
        self._sent_ns = 0
        self._early: ActionChunk | None = None
        self._heard_ns = time.monotonic_ns()
        self._state_names = wire.NameMap(self.robot.joint_names, "joint_states")
        self._chunk_names = wire.NameMap(self.robot.joint_names, "action_chunk")
        self._commands = CommandPublisher(self, self.robot, self.health.latency_ms)
        self._diagnostics = HealthPublisher(self, "realign guard", self.robot.name)
        self.data = DataGroup()
        self._listen()
        self.create_service(Trigger, "~/arm", self._arm)
        self.create_service(Trigger, "~/estop", self._estop)
        self.create_service(Trigger, "~/reset", self._reset)
        self.create_timer(0.5, self._housekeeping)

    def _listen(self) -> None:
        """Subscribe; announce the guard when everything that it needs has a publisher."""
        needed = [
            (JointTrajectory, "action_chunk", self._on_chunk),
            (JointState, "joint_states", self._on_state),
        ]
        if self.robot.floating_base:
            needed.append((Imu, "imu", self._on_imu))
        inputs = [
            self.create_subscription(kind, topic, callback, QOS, callback_group=self.data)
            for kind, topic, callback in needed
        ]
        announce(self, inputs)
        self.create_subscription(Bool, "operator_stop", self._on_operator, 10)
        self.create_subscription(BatteryState, "battery", self._on_battery, 10)
        self.create_subscription(Temperature, "motor_temperature", self._on_temperature, 10)

    # ---- callbacks ----------------------------------------------------------------------------

    def _now_ns(self) -> int:
        return self.guard.newest_stamp_ns if self.lockstep else time.monotonic_ns()

    def _on_state(self, msg: JointState) -> None:
        received = self._heard_ns = time.monotonic_ns()
        stamp = wire.stamp_to_ns(msg.header.stamp)
        try:
            qpos, qvel, _ = wire.joint_state_to_numpy(msg, self._state_names)
        except InputError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        with self._lock:
            self._commands.on_state(stamp, received)
            if stamp == self._sent_ns:  # the driver asks again: its answer was lost
                self._commands.repeat()
            self.guard.on_state(stamp, stamp if self.lockstep else received, qpos, qvel)
            self._advance()

    def _on_imu(self, msg: Imu) -> None:
        with self._lock:
            now = wire.stamp_to_ns(msg.header.stamp) if self.lockstep else time.monotonic_ns()
            felt = msg.linear_acceleration_covariance[0] >= 0.0  # -1 by convention: not measured
            self.guard.on_base(
                now,
                wire.quat_wxyz(msg.orientation),
                wire.vector(msg.angular_velocity),
                wire.vector(msg.linear_acceleration) if felt else None,
            )
            self._advance()

    def _on_operator(self, msg: Bool) -> None:
        with self._lock:
            self.guard.on_operator(self._now_ns(), pressed=msg.data)
            if msg.data:
                self._tick(self._now_ns())

    def _on_battery(self, msg: BatteryState) -> None:
        with self._lock:
            self.guard.on_health(self._now_ns(), charge=msg.percentage)

    def _on_temperature(self, msg: Temperature) -> None:
        with self._lock:
            self.guard.on_health(self._now_ns(), case_c=msg.temperature)

    def _on_chunk(self, msg: JointTrajectory) -> None:
        with self._lock:
            try:
                chunk = wire.trajectory_to_chunk(msg, self._chunk_names)
            except InputError as error:
                self.guard.refuse(Reason.BAD_SHAPE, self._now_ns())
                self.get_logger().error(str(error), throttle_duration_sec=1.0)
                return
            if self.lockstep:  # it may overtake the joint state that it answers
                self._early = chunk
                self._advance()
            elif self._take(chunk) and self.robot.command == "setpoint":
                self._tick(time.monotonic_ns())

    def _take(self, chunk: ActionChunk) -> bool:
        reason = self.guard.on_chunk(chunk, self._now_ns())
        if reason not in (None, Reason.NOT_ARMED):
            self.get_logger().warning(f"chunk refused: {reason.value}", throttle_duration_sec=1.0)
        return reason is None

    def _advance(self) -> None:
        """Whatever the order of arrival: arm, take the chunk, and (lockstep) answer the state."""
        guard = self.guard
        if self.auto_arm and guard.state is State.INACTIVE and self._try_arm() is None:
            self.auto_arm = False  # after a stop only an operator arms again
        if not self.lockstep:
            return
        now = guard.newest_stamp_ns
        early = self._early
        waiting = guard.state in (State.UNCONFIGURED, State.INACTIVE)
        if early is not None and early.stamp_ns <= now and not waiting:
            self._early = None
            self._take(early)
        period_ns = int(guard.config.policy_period_s * 1e9)
        answers = guard.answered_ns
        covered = answers is not None and answers <= now < answers + period_ns - 1000
        if now != self._sent_ns and (covered or guard.state in (State.HOLD, State.DAMP)):
            self._sent_ns = now
            self._tick(now)

    def _tick(self, now_ns: int) -> None:
        self._commands.publish(self.guard.tick(now_ns))

    # ---- the operator -------------------------------------------------------------------------

    def _try_arm(self) -> str | None:
        if not self._commands.alone:
            return Reason.SECOND_COMMANDER.value
        reason = self.guard.arm(self._now_ns())
        return reason.value if reason else None

    def _arm(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            reason = self._try_arm()
        response.success, response.message = reason is None, reason or "armed"
        return response

    def stop(self, reason: Reason) -> None:
        """Stop the robot now, from any thread."""
        with self._lock:
            self.guard.stop(reason, self._now_ns())
            self._tick(self._now_ns())

    def _estop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.stop(Reason.ESTOP)
        response.success, response.message = True, "stopped; call reset, then arm, to go on"
        return response

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self.guard.reset(self._now_ns())
        response.success, response.message = True, "inactive; call arm to go on"
        return response

    # ---- time ---------------------------------------------------------------------------------

    def run_loop(self, running: threading.Event) -> None:
        """Send a command at every deadline of an absolute grid (real time only)."""
        period = round(1e9 / self.rate_hz)
        deadline = time.monotonic_ns() + period
        while running.is_set() and rclpy.ok():
            delay = deadline - time.monotonic_ns()
            if delay > 0:
                time.sleep(delay / 1e9)
            self.health.late_ms.add((time.monotonic_ns() - deadline) / 1e6)
            with self._lock, until_shutdown():
                self._tick(time.monotonic_ns())
            deadline = max(deadline + period, time.monotonic_ns() - period)

    def _housekeeping(self) -> None:
        with self._lock:
            active = self.guard.state in (State.ACTIVE, State.HOLD)
            if active and not self._commands.alone:
                self.guard.stop(Reason.SECOND_COMMANDER, self._now_ns())
            silent = (time.monotonic_ns() - self._heard_ns) / 1e9 > LOCKSTEP_SILENCE_S
            if self.lockstep and active and silent:
                self.guard.stop(Reason.POLICY_SILENT, self._now_ns())
                self._tick(self._now_ns())
            status = self.health.status()
        self._diagnostics.publish(status)

    def _log_transition(self, edge: Transition) -> None:
        text = f"{edge.old.value} -> {edge.new.value}: {edge.reason.value}"
        bad = edge.new in (State.HOLD, State.DAMP)
        self.get_logger().warning(text) if bad else self.get_logger().info(text)


def main() -> None:
    """Run the guard until it is told to stop."""
    node = make_node(GuardNode)
    node.get_logger().info(f"scheduling: {prefer_realtime(node.realtime_priority)}")
    on_loss(lambda: node.stop(Reason.LAUNCHER_LOST))
    running = threading.Event()
    running.set()
    loop = threading.Thread(target=node.run_loop, args=(running,))
    if not node.lockstep:
        loop.start()
    try:
        spin(node, node.data)
    except KeyboardInterrupt:
        pass
    finally:
        running.clear()
        if loop.is_alive():
            loop.join()
        write_summary(node.summary_path, node.health.summary)
        end_node(node)


if __name__ == "__main__":
    main()
