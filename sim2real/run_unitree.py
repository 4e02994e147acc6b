"""`realign run --driver unitree`: a Unitree robot over DDS, real or emulated on the loopback."""

from __future__ import annotations

from typing import Any

from sim2real.graph import Graph
from sim2real.run_config import RunConfig
from sim2real.run_hardware import check_hardware, start_driver, start_emulator

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


def emulated_domain(ros_domain: int) -> int:
    """DDS domain, 1 to 100, of the emulated robot that belongs to a graph on a ROS domain."""
    return 1 + (ros_domain + 50) % 100


def start(graph: Graph, config: RunConfig, driver: dict[str, Any], **emulator: object) -> None:
    """Start driver and robot, see :class:`sim2real.run_hardware.Hardware`."""
    own = {"network": config.network, "dds_domain": config.dds_domain}
    if not config.network:
        own = {"network": _LOOPBACK, "dds_domain": emulated_domain(graph.domain_id)}
        priority = driver["realtime_priority"]
        emulator |= {"domain": own["dds_domain"], "realtime_priority": priority}
        start_emulator(graph, config, "realign_unitree_driver.emulator", **emulator)
    start_driver(graph, config, "realign_unitree_driver.driver_node", driver, **own)
