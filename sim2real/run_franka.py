"""`realign run --driver franka`: a Franka arm over FCI, real or emulated on the loopback."""

from __future__ import annotations

from typing import Any

from policies.errors import InputError
from sim2real.graph import Graph
from sim2real.run_config import RunConfig
from sim2real.run_hardware import check_hardware, start_driver, start_emulator

ROBOTS = ("panda", "fr3")


def check(config: RunConfig) -> None:
    """Refuse what a Franka arm cannot do, see :class:`sim2real.run_hardware.Hardware`."""
    check_hardware(
        config,
        module="pylibfranka",
        package="pylibfranka",
        robot="a Franka arm",
        address="network",
    )
    if config.robot not in ROBOTS:
        raise InputError(
            f"expected --robot {' or '.join(ROBOTS)} for --driver franka, got {config.robot}; "
            "use its own driver"
        )
    if not config.emulated and config.robot != "fr3":
        raise InputError(
            "expected --robot fr3 for a real arm: this client drives the FR3, whose joint ranges "
            f"differ from those of a {config.robot}; train for fr3, or drive a Panda (FER) through "
            "ros2_control (docs/robots/panda.md)"
        )


def start(graph: Graph, config: RunConfig, driver: dict[str, Any], **emulator: object) -> None:
    """Start driver and robot, see :class:`sim2real.run_hardware.Hardware`."""
    network = config.network
    if not network:
        network = f"127.1.{graph.domain_id}.1"  # the ports are fixed: an address for each run
        priority = driver["realtime_priority"] and driver["realtime_priority"] + 3
        emulator |= {"address": network, "realtime_priority": priority}
        start_emulator(graph, config, "realign_franka_driver.emulator", **emulator)
    start_driver(graph, config, "realign_franka_driver.driver_node", driver, network=network)
