"""`realign run --driver franka`: a Franka arm over FCI, real or emulated on the loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policies.errors import InputError
from sim2real.graph import Graph
from sim2real.run_config import RunConfig
from sim2real.run_hardware import check_hardware

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


def start(graph: Graph, config: RunConfig, driver: dict[str, Any]) -> None:
    """Start the driver, and the emulated control box where there is no real one."""
    from policies.checkpoint import load_policy
    from policies.robots import get_robot

    needs = load_policy(config.policy, get_robot(config.robot)).spec.needs
    task = {
        "goals": config.goals if "goal" in needs else 0,
        "goal_period_s": float(config.goal_period_s),
        "seed": config.seed,
    }
    start_franka(
        graph,
        robot=config.robot,
        policy=config.policy,
        network=config.network,
        emulator={"gap": config.gap, "faults": config.faults, "seed": config.seed},
        driver=driver | task,
    )


def start_franka(
    graph: Graph,
    *,
    robot: str,
    policy: Path,
    network: str,
    emulator: dict[str, Any],
    driver: dict[str, Any],
) -> None:
    """Start the driver, and before it the emulated control box where there is no real one.

    Args:
        graph: processes of the run.
        robot: robot name.
        policy: checkpoint directory.
        network: address of the control box; empty for an emulated one.
        emulator: gap, faults and seed of an emulated robot.
        driver: parameters that every driver node has, and the task.
    """
    # Somebody must stand beside a real robot and say when: ~/start.
    waiting = {"wait_for_operator": bool(network)}
    if not network:
        network = f"127.1.{graph.domain_id}.1"  # the ports are fixed: an address for each run
        arguments = {
            "robot": robot,
            "address": network,
            "policy": policy.resolve(),
            "realtime-priority": driver["realtime_priority"] and driver["realtime_priority"] + 3,
            "summary": graph.folder / "emulator.json",
            **emulator,
        }
        words = [f"--{name}={value}" for name, value in arguments.items()]
        graph.start_program("emulator", "realign_franka_driver.emulator", words)
    own = {"robot": robot, "policy": str(policy.resolve()), "network": network}
    graph.start("driver", "realign_franka_driver.driver_node", driver | own | waiting)
