"""Lifecycle node that runs a policy: observations in, action chunks out.

A policy that fails is deactivated and says why on ``/diagnostics``: only an operator activates it
again. When it is asked is :mod:`realign_policy.answering`'s business.
"""

from __future__ import annotations

import json
from pathlib import Path

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from policies.checkpoint import load_policy
from policies.errors import FaultError, InputError
from policies.robots import get_robot
from policies.runtime.planning import EngineConfig
from policies.runtime.scheduling import prefer_realtime
from realign_driver.health import Health, HealthPublisher
from realign_driver.process import write_summary
from realign_driver.program import declaring, end_node, make_node
from realign_policy.answering import Answering
from realign_policy.data_loop import DataGroup, spin
from realign_policy.instruction import Instruction

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
            lockstep=value("lockstep", False),
        )
        self.image_transport: str = value("image_transport", "raw")
        self.image_max_age_s: float = value("image_max_age_s", 0.2)
        self.data = DataGroup()
        self.gave_up = False
        self._answering: Answering | None = None
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
            self._answering = Answering(
                self,
                self.robot,
                policy,
                self.config,
                self._instruction,
                self.data,
                image_transport=self.image_transport,
                image_max_age_s=self.image_max_age_s,
                on_failure=self._on_failure,
            )
        except InputError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        spec = policy.spec
        self.get_logger().info(
            f"{spec.name} for {spec.robot}, {spec.rate_hz:g} Hz, {spec.sha256[:12]}"
        )
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget history; answer from the next complete observation on."""
        assert self._answering is not None
        try:
            self._answering.begin(self.seed)
        except (InputError, FaultError) as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Fall silent; the guard holds and stops."""
        assert self._answering is not None
        self._answering.pause()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the checkpoint; another may be configured."""
        self.end()
        return super().on_cleanup(state)

    def end(self) -> None:
        """End what works beside this node's threads."""
        if self._answering is not None:
            self._answering.close()
            self._answering = None

    def _on_failure(self) -> None:
        """The policy answers no more."""
        answering = self._answering
        assert answering is not None
        assert answering.engine.failure is not None
        self.get_logger().error(answering.engine.failure.text)
        self.trigger_deactivate()
        # Nothing has moved yet, and whoever started us waits for the first command.
        self.gave_up = self.autostart and answering.silent
        if self.gave_up:
            self.context.try_shutdown()

    # ---- health -------------------------------------------------------------------------------

    def summary(self) -> dict[str, object]:
        """Everything that `realign run` reports of the policy."""
        return self._answering.engine.report() if self._answering is not None else {}

    def _publish_health(self) -> None:
        answering = self._answering
        failure = answering.engine.failure if answering is not None else None
        is_active = answering is not None and answering.is_active
        health = Health(
            message=failure.text if failure else "active" if is_active else "inactive",
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
