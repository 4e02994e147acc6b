"""The robot's side of Unitree's low-level interface, around the virtual robot.

LowState at 500 Hz, LowCmd with its checksum, motor limits, wireless remote, motion switcher:

    python -m realign_unitree_driver.emulator --robot g1 --domain 42

It serves any DDS peer on the loopback, ours or another.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from policies.robots import get_robot
from policies.runtime.latency import Percentiles
from realign_driver.emulation import Pace, add_robot_options, play, start_pose_rad
from realign_unitree_driver.bench import RATE_HZ, Bench, parse_faults
from realign_unitree_driver.dds import (
    LOOPBACK,
    LOW_CMD,
    LOW_STATE,
    Participant,
    RawReader,
    RawWriter,
)
from realign_unitree_driver.switcher import SwitcherServer

PERIOD_NS = 1_000_000_000 // RATE_HZ
_PATIENCE = 5
# What the motors were told in a tick, for the trace.
NOTHING, FOLLOW, DAMPING = range(3)
_TRACE = np.dtype(
    [("t_ns", "<i8"), ("kind", "<i8"), ("moved_rad", "<f8"), ("base_height_m", "<f8")]
)


class Emulator:
    """A :class:`Bench` on DDS, stepped on an absolute grid.

    Args:
        bench: the robot.
        network: interface name or own address.
        domain: DDS domain.
        stock_controller: controller that holds the motors until the motion switcher releases it;
            empty for none.
        keep_trace: remember what each tick brought.
    """

    def __init__(
        self,
        bench: Bench,
        *,
        network: str = LOOPBACK,
        domain: int = 0,
        stock_controller: str = "ai",
        keep_trace: bool = False,
    ) -> None:
        self.bench = bench
        participant = Participant(network, domain)
        self.writer = RawWriter(participant, LOW_STATE, bench.wiring.low_state)
        self.reader = RawReader(participant, LOW_CMD, bench.wiring.low_cmd)
        self.switcher = SwitcherServer(participant, stock_controller)
        self.commands = 0
        self.commands_too_early = 0
        self.gap_ms = Percentiles(65536)
        self.longest_gap_ms = 0.0
        self.physics_s = 0.0
        self._pace = Pace(PERIOD_NS, _PATIENCE)
        self.running = True
        self.trace: list[tuple[int, int, float, float]] | None = [] if keep_trace else None
        self._last_command_ns: int | None = None
        self._last_target = bench.target_rad

    def stop(self, *_: Any) -> None:
        """End the loop; also a signal handler."""
        self.running = False

    def run(self) -> None:
        """Step until told to stop."""
        self._pace.start()
        while self.running:
            now = time.monotonic_ns()
            fresh = self._read(now)
            start = time.perf_counter()
            self.bench.step()
            self.physics_s += time.perf_counter() - start
            if self.trace is not None:
                self._remember(now, fresh)
            state = self.bench.read()
            if state is not None:
                self.writer.write(state)
            if self.bench.ticks % 10 == 0:
                self.switcher.serve()
            self._pace.wait(now)

    def _read(self, now: int) -> bool:
        fresh = False
        for message in self.reader.take():
            if self.switcher.active:
                self.commands_too_early += 1
                continue
            self.commands += 1
            fresh = self.bench.on_command(message) or fresh
        if fresh:
            if self._last_command_ns is not None and self.bench.is_following:
                gap_ms = (now - self._last_command_ns) / 1e6
                self.gap_ms.add(gap_ms)
                self.longest_gap_ms = max(self.longest_gap_ms, gap_ms)
            self._last_command_ns = now
        return fresh

    def _remember(self, now: int, fresh: bool) -> None:
        assert self.trace is not None
        kind = NOTHING
        if fresh:
            kind = FOLLOW if self.bench.is_following else DAMPING
        target = self.bench.target_rad
        moved = float(np.abs(target - self._last_target).max())
        self._last_target = target
        self.trace.append((now, kind, moved, float(self.bench.stepper.data.qpos[2])))

    def summary(self) -> dict[str, Any]:
        """What the robot saw."""
        bench = self.bench
        return {
            "ticks": bench.ticks,
            "moved_s": bench.moved_s,
            "fell": bench.fell,
            "min_base_height_m": bench.min_base_height_m,
            "max_tilt_rad": bench.max_tilt_rad,
            "commands": self.commands,
            "commands_too_early": self.commands_too_early,
            "damaged": self.reader.damaged,
            "refused": bench.refused,
            "command_gap_ms": {**self.gap_ms.summary(), "max": self.longest_gap_ms},
            "mujoco_s": self.physics_s,
            "lost_s": self._pace.lost_s,
        }

    def columns(self) -> dict[str, Any]:
        """What each tick brought."""
        rows = np.array(self.trace or [(0, NOTHING, 0.0, 0.0)], dtype=_TRACE)
        return {name: rows[name] for name in rows.dtype.names}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="emulator", description=__doc__)
    add = parser.add_argument
    add("--robot", required=True, help="g1 or go2")
    add("--network", default=LOOPBACK, help="interface or own address")
    add("--domain", type=int, default=0, help="DDS domain")
    add("--mode-machine", type=int, default=None, help="robot type to report")
    add("--motor-timeout-s", type=float, default=None, help="silence after which motors damp")
    add("--stock-controller", default="ai", help="controller that holds the motors; '' for none")
    add_robot_options(parser, faults="silent@2:0.05,keys=L2+B@3")
    return parser.parse_args()


def _emulator(given: argparse.Namespace) -> Emulator:
    robot = get_robot(given.robot)
    bench = Bench(
        robot,
        gap=given.gap,
        seed=given.seed,
        start_pose_rad=start_pose_rad(given.policy, robot),
        mode_machine=given.mode_machine,
        motor_timeout_s=given.motor_timeout_s,
        faults=parse_faults(given.faults),
    )
    return Emulator(
        bench,
        network=given.network,
        domain=given.domain,
        stock_controller=given.stock_controller,
        keep_trace=given.trace is not None,
    )


def main() -> None:
    """Play the robot until SIGINT or SIGTERM."""
    given = _arguments()
    play(lambda: _emulator(given), given)


if __name__ == "__main__":
    main()
