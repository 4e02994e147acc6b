"""Lifecycle node that runs a policy: observations in, action chunks out.

Ticks by the stamps of ``joint_states`` (see :mod:`policies.runtime.ticker`). An observation is
complete when the messages that the policy needs carry the same stamp (real drivers: one state
period of slack). The chunk of a tick carries the stamp of its observation. What happens between an
observation and an answer is :mod:`policies.runtime.engine`'s business; a policy that fails is
deactivated and says why on ``/diagnostics``: only an operator activates it again.
"""

from __future__ import annotations

import json
from pathlib import Path

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from policies.checkpoint import load_policy
from policies.errors import FaultError, InputError
from policies.robots import get_robot
from policies.runtime.engine import Engine, make_engine
from policies.runtime.planning import EngineConfig
from policies.runtime.scheduling import prefer_realtime
from policies.runtime.ticker import Ticker
from realign_driver.audience import announce
from realign_driver.chunks import ChunkPublisher
from realign_driver.health import Health, HealthPublisher
from realign_driver.process import write_summary
from realign_driver.program import declaring, end_node, make_node
from realign_policy.data_loop import DataGroup, spin
from realign_policy.instruction import Instruction
from realign_policy.sensing import Sensing, vision_of

HEALTH_S = 0.5


class PolicyNode(LifecycleNode):
    """configure loads the checkpoint, activate starts answering."""

    def __init__(self) -> None:
        super().__init__("policy")
        value = declaring(self)
        self.robot = get_robot(value("robot", ""))
        self.path: str = value("policy", "")
        self.seed: int = value("seed", 0)
        self._instruction = Instruction(self, value("instruction", ""))
        self.autostart: bool = value("autostart", False)
        self.lockstep: bool = value("lockstep", False)
        self.summary_path: str = value("summary_path", "")
        self.realtime_priority: int = value("realtime_priority", 0)
        fade: int = value("fade", -1)  # a parameter cannot be none
        self.config = EngineConfig(
            executor=value("executor", EngineConfig.executor),
            action_horizon=value("action_horizon", 0) or None,
            inference_delay_steps=value("inference_delay_steps", 0),
            in_flight=value("in_flight", EngineConfig.in_flight),
            fade=None if fade < 0 else fade,
            deadline_s=value("deadline_s", EngineConfig.deadline_s),
            lockstep=self.lockstep,
        )
        self.image_transport: str = value("image_transport", "raw")
        self.image_max_age_s: float = value("image_max_age_s", 0.2)
        self.data = DataGroup()
        self._engine: Engine | None = None
        self._active = self.gave_up = False
        self._waiting_ns = self._asked_ns = -1
        self._health = HealthPublisher(self, "realign policy", self.robot.name)
        self.create_timer(HEALTH_S, self._publish_health)

    # ---- lifecycle ----------------------------------------------------------------------------

    def on_configure(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Load and check the checkpoint; on any doubt stay unconfigured."""
        if self.count_publishers(self.resolve_topic_name("action_chunk")) > 0:
            self.get_logger().error("another policy publishes action_chunk already; stop it first")
            return TransitionCallbackReturn.FAILURE
        try:
            policy = load_policy(Path(self.path), self.robot)
            self._engine = make_engine(policy, self.config)
            self._sensing = Sensing(
                self,
                self.robot,
                policy.spec.needs,
                slack_s=0.0 if self.lockstep else 1.0 / self.robot.state_rate_hz,
                group=self.data,
                on_data=self._tick,
                vision=vision_of(
                    policy, self.image_transport, 0.0 if self.lockstep else self.image_max_age_s
                ),
            )
        except InputError as error:
            self.get_logger().error(str(error))
            self.end()
            return TransitionCallbackReturn.FAILURE
        spec = policy.spec
        self._ticker = Ticker(spec.rate_hz)
        self._needs_words = "instruction" in spec.needs
        self._chunks = ChunkPublisher(self, self.robot)
        self._ready = announce(self, self._sensing.subscriptions, also=lambda: self._active)
        self.get_logger().info(
            f"{spec.name} for {spec.robot}, {spec.rate_hz:g} Hz, {spec.sha256[:12]}"
        )
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget history; answer from the next complete observation on."""
        assert self._engine is not None
        try:
            self._engine.reset(self.seed)
        except (InputError, FaultError) as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        self._ticker.reset()
        self._chunks.forget()
        self._active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Fall silent; the guard holds and stops."""
        self._active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the checkpoint; another may be configured."""
        self._sensing.close()
        self._chunks.close()
        self.destroy_publisher(self._ready)
        self.end()
        return super().on_cleanup(state)

    def end(self) -> None:
        """End what works beside this node's threads."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    # ---- data ---------------------------------------------------------------------------------

    def _tick(self) -> None:
        if not self._active:
            return
        stamp = self._sensing.stamp_ns()
        if stamp is None:
            if not self.lockstep and (blind := self._sensing.blind()):
                text = "; ".join(blind)
                self.get_logger().warning(text, throttle_duration_sec=5.0, skip_first=True)
            return
        if self._needs_words and self._instruction.text is None:
            text = "waiting for an instruction; publish one on ~/instruction"
            self.get_logger().warning(text, throttle_duration_sec=5.0)
            return
        # The driver asks again: same answer. Between two ticks it is the one that a guard which was
        # armed meanwhile has not kept.
        again = self.lockstep and stamp == self._asked_ns != self._waiting_ns
        self._asked_ns = stamp
        if self._chunks.repeat(stamp, older=again):
            return
        # A robot that hangs until its first command repeats one stamp: its answer may have come.
        if not self._ticker.due(stamp) and stamp != self._waiting_ns:
            return
        try:
            observation = self._sensing.observation()
        except InputError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        assert self._engine is not None
        observation.instruction = self._instruction.text
        chunk = self._engine.tick(observation)
        self._waiting_ns = stamp if chunk is None else -1
        if chunk is not None:
            self._chunks.publish(chunk)
        elif self._engine.failure is not None:
            self.get_logger().error(self._engine.failure.text)
            self.trigger_deactivate()
            # Nothing has moved yet, and whoever started us waits for the first command.
            self.gave_up = self.autostart and self._chunks.silent
            if self.gave_up:
                self.context.try_shutdown()

    # ---- health -------------------------------------------------------------------------------

    def summary(self) -> dict[str, object]:
        """Everything that `realign run` reports of the policy."""
        return self._engine.report() if self._engine is not None else {}

    def _publish_health(self) -> None:
        failure = self._engine.failure if self._engine is not None else None
        health = Health(
            message=failure.text if failure else "active" if self._active else "inactive",
            values={key: json.dumps(value) for key, value in self.summary().items()},
            is_error=failure is not None,
        )
        self._health.publish(health)


def main() -> None:
    """Run the policy until it is told to stop.

    Exit code 2 if it cannot be configured, 3 if it failed before its first answer.
    """
    node = make_node(PolicyNode)
    code = 0
    try:
        if node.autostart:
            success = TransitionCallbackReturn.SUCCESS
            if node.trigger_configure() != success or node.trigger_activate() != success:
                code = 2
        prefer_realtime(node.realtime_priority)
        if code == 0:
            spin(node, node.data)
            code = 3 if node.gave_up else 0
    except KeyboardInterrupt:
        pass
    finally:
        write_summary(node.summary_path, node.summary)
        node.end()
        end_node(node)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
