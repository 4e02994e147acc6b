"""`realign run --driver unitree`: a Unitree robot over DDS, real or emulated on the loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim2real.graph import Graph
from sim2real.run_config import RunConfig
from sim2real.run_hardware import check_hardware

_LOOPBACK = "lo"


def check(config: RunConfig) -> None:
    """Refuse what a Unitree robot cannot do, see :class:`sim2real.run_hardware.Hardware`."""
    check_hardware(
        config,
        module="cyclonedds",
        package="CycloneDDS",
        robot="a Unitree robot",
        address="network",
    )


def start(graph: Graph, config: RunConfig, driver: dict[str, Any]) -> None:
    """Start the driver, and the emulated robot where there is no real one."""
    start_unitree(
        graph,
        robot=config.robot,
        policy=config.policy,
        network=config.network,
        dds_domain=config.dds_domain,
        emulator={"gap": config.gap, "faults": config.faults, "seed": config.seed},
        driver=driver,
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
