"""`realign run --driver unitree`: a Unitree robot over DDS, real or emulated on the loopback."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from policies.errors import InputError
from sim2real.graph import Graph

_LOOPBACK = "lo"


def check_unitree(*, network: str, lockstep: bool, engine: str, gap: str, faults: str) -> None:
    """Refuse what a Unitree robot cannot do.

    Args:
        network: interface or own address that leads to the robot; empty for an emulated one.
        lockstep: whether the robot should wait for commands.
        engine: simulator; an emulated robot lives in MuJoCo.
        gap: dynamics gap, for an emulated robot only.
        faults: faults, for an emulated robot only.

    Raises:
        InputError: no CycloneDDS, or options that do not fit.
    """
    if importlib.util.find_spec("cyclonedds") is None:
        raise InputError(
            "expected CycloneDDS for a Unitree robot, but it is not installed; "
            "run: pip install 'realign[unitree]'"
        )
    if lockstep:
        raise InputError(
            "expected a robot that waits for commands with --lockstep, but a Unitree robot does "
            "not wait; leave --lockstep out, or use --driver mujoco"
        )
    if engine != "mujoco":
        raise InputError(
            f"expected the engine mujoco for --driver unitree, got {engine!r}; use --driver mujoco "
            "for other engines"
        )
    if network and (gap != "none" or faults):
        raise InputError(
            f"expected no --gap and --faults for a real robot (--network {network}); "
            "leave --network out for an emulated one"
        )


def start_unitree(
    graph: Graph,
    *,
    robot: str,
    policy: Path,
    network: str,
    dds_domain: int,
    emulator: dict[str, Any],
    driver: dict[str, Any],
) -> None:
    """Start the driver, and before it the emulated robot where there is no real one.

    Args:
        graph: processes of the run.
        robot: robot name.
        policy: checkpoint directory.
        network: interface or own address that leads to the robot; empty for an emulated one.
        dds_domain: DDS domain of a real robot; an emulated one has one of its own.
        emulator: gap, faults and seed of an emulated robot.
        driver: parameters that every driver node has.
    """
    # Somebody must stand beside a real robot and say when: key A of the remote, or ~/start.
    waiting = {"wait_for_operator": bool(network)}
    if not network:
        network, dds_domain = _LOOPBACK, 1 + (graph.domain_id + 50) % 100
        arguments = {
            "robot": robot,
            "domain": dds_domain,
            "policy": policy.resolve(),
            "realtime-priority": driver["realtime_priority"],
            "summary": graph.folder / "emulator.json",
            **emulator,
        }
        words = [f"--{name}={value}" for name, value in arguments.items()]
        graph.start_program("emulator", "realign_unitree_driver.emulator", words)
    own = {
        "robot": robot,
        "policy": str(policy.resolve()),
        "network": network,
        "dds_domain": dds_domain,
    }
    graph.start("driver", "realign_unitree_driver.driver_node", driver | own | waiting)
