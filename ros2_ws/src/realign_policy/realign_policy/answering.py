"""A policy that has been configured: complete observations in, action chunks out.

Ticks by the stamps of ``joint_states`` (see :mod:`policies.runtime.ticker`). An observation is
complete when the messages that the policy needs carry the same stamp (real drivers: one state
period of slack). The chunk of a tick carries the stamp of its observation. What happens between an
observation and an answer is :mod:`policies.runtime.engine`'s business.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node

from policies.errors import InputError
from policies.interface import Policy, RobotSpec
from policies.runtime.engine import make_engine
from policies.runtime.planning import EngineConfig
from policies.runtime.ticker import Ticker
from realign_driver.audience import announce
from realign_driver.chunks import ChunkPublisher
from realign_policy.data_loop import DataGroup
from realign_policy.instruction import Instruction
from realign_policy.sensing import Sensing, vision_of


class Answering:
    """Subscriptions and publishers of a policy, and when it is asked.

    Args:
        node: the node that listens and speaks.
        robot: the robot.
        policy: who answers.
        config: how it is run.
        instruction: what it is told to do.
        group: who serves the subscriptions.
        image_transport: how images come, see :class:`realign_policy.sensing.Vision`.
        image_max_age_s: largest age of an image, s; in lockstep each is waited for.
        on_failure: called when the policy has failed.

    Raises:
        InputError: the policy cannot be run that way, or there is no such image transport.

    Attributes:
        engine: runs the policy.
        is_active: the policy answers.
    """

    def __init__(
        self,
        node: Node,
        robot: RobotSpec,
        policy: Policy,
        config: EngineConfig,
        instruction: Instruction,
        group: DataGroup,
        *,
        image_transport: str,
        image_max_age_s: float,
        on_failure: Callable[[], None],
    ) -> None:
        self._node, self._instruction, self._on_failure = node, instruction, on_failure
        self._lockstep = config.lockstep
        self.is_active = False
        self.engine = make_engine(policy, config)
        try:
            self._sensing = Sensing(
                node,
                robot,
                policy.spec.needs,
                slack_s=0.0 if self._lockstep else 1.0 / robot.state_rate_hz,
                group=group,
                on_data=self._on_data,
                vision=vision_of(
                    policy, image_transport, 0.0 if self._lockstep else image_max_age_s
                ),
            )
        except InputError:
            self.engine.close()
            raise
        self._ticker = Ticker(policy.spec.rate_hz)
        self._needs_words = "instruction" in policy.spec.needs
        self._waiting_ns = self._asked_ns = -1
        self._chunks = ChunkPublisher(node, robot)
        self._ready = announce(node, self._sensing.subscriptions, also=lambda: self.is_active)

    @property
    def silent(self) -> bool:
        """True until the first answer since :meth:`begin`."""
        return self._chunks.silent

    def begin(self, seed: int) -> None:
        """Forget history; answer from the next complete observation on.

        Raises:
            InputError, FaultError: the policy cannot be started.
        """
        self.engine.reset(seed)
        self._ticker.reset()
        self._chunks.forget()
        self.is_active = True

    def pause(self) -> None:
        """Fall silent."""
        self.is_active = False

    def close(self) -> None:
        """Listen and speak no more, and end what works beside the node's threads."""
        self._sensing.close()
        self._chunks.close()
        self._node.destroy_publisher(self._ready)
        self.engine.close()

    def _on_data(self) -> None:
        if not self.is_active:
            return
        stamp_ns = self._sensing.stamp_ns()
        if stamp_ns is None:
            self._tell_blind()
        elif self._needs_words and self._instruction.text is None:
            text = "waiting for an instruction; publish one on ~/instruction"
            self._node.get_logger().warning(text, throttle_duration_sec=5.0)
        elif self._is_due(stamp_ns):
            self._answer(stamp_ns)

    def _tell_blind(self) -> None:
        """Say what is wrong with cameras; in lockstep their images are waited for."""
        if not self._lockstep and (blind := self._sensing.blind()):
            text = "; ".join(blind)
            self._node.get_logger().warning(text, throttle_duration_sec=5.0, skip_first=True)

    def _is_due(self, stamp_ns: int) -> bool:
        """True if the policy is to be asked; what it has answered before is said again."""
        # The driver asks again: same answer. Between two ticks it is the one that a guard which was
        # armed meanwhile has not kept.
        again = self._lockstep and stamp_ns == self._asked_ns != self._waiting_ns
        self._asked_ns = stamp_ns
        if self._chunks.repeat(stamp_ns, older=again):
            return False
        # A robot that hangs until its first command repeats one stamp: its answer may have come.
        return self._ticker.due(stamp_ns) or stamp_ns == self._waiting_ns

    def _answer(self, stamp_ns: int) -> None:
        try:
            observation = self._sensing.observation()
        except InputError as error:
            self._node.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        observation.instruction = self._instruction.text
        chunk = self.engine.tick(observation)
        self._waiting_ns = stamp_ns if chunk is None else -1
        if chunk is not None:
            self._chunks.publish(chunk)
        elif self.engine.failure is not None:
            self._on_failure()
