"""`realign run --driver serial`: an arm of bus servos on a serial port, real or emulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim2real.graph import Graph
from sim2real.run_config import RunConfig
from sim2real.run_hardware import check_hardware

_PORT_WAIT_S = 30.0


def check(config: RunConfig) -> None:
    """Refuse what an arm cannot do, see :class:`sim2real.run_hardware.Hardware`."""
    check_hardware(
        config,
        module="serial",
        package="pyserial",
        robot="an arm of bus servos",
        address="port",
    )


def start(graph: Graph, config: RunConfig, driver: dict[str, Any]) -> None:
    """Start the driver, and the emulated arm where there is no real one."""
    from policies.checkpoint import load_policy
    from policies.robots import get_robot

    needs = load_policy(config.policy, get_robot(config.robot)).spec.needs
    tasks = {
        "goals": config.goals if "goal" in needs else 0,
        "goal_period_s": float(config.goal_period_s),
        "seed": config.seed,
    }
    start_serial(
        graph,
        robot=config.robot,
        policy=config.policy,
        port=config.port,
        emulator={"gap": config.gap, "faults": config.faults, "seed": config.seed},
        driver=driver | tasks,
    )


def start_serial(
    graph: Graph,
    *,
    robot: str,
    policy: Path,
    port: str,
    emulator: dict[str, Any],
    driver: dict[str, Any],
) -> None:
    """Start the driver, and before it the emulated arm where there is no real one.

    Args:
        graph: processes of the run.
        robot: robot name.
        policy: checkpoint directory.
        port: serial port that leads to the arm; empty for an emulated one.
        emulator: gap, faults and seed of an emulated arm.
        driver: parameters that every driver node has, and the task.
    """
    own = {"robot": robot, "policy": str(policy.resolve()), "port": port}
    if not port:
        link, calibration = graph.folder / "port", graph.folder / f"{robot}_calibration.json"
        arguments = {
            "link": link,
            "robot": robot,
            "calibration": calibration,
            "policy": policy.resolve(),
            "realtime-priority": driver["realtime_priority"],
            "summary": graph.folder / "emulator.json",
            **emulator,
        }
        words = ["arm", *(f"--{name}={value}" for name, value in arguments.items())]
        graph.start_program("emulator", "realign_serial_driver.emulator", words)
        own |= {"port": str(link), "calibration": str(calibration)}
    waiting = {"port_wait_s": 0.0 if port else _PORT_WAIT_S}
    graph.start("driver", "realign_serial_driver.driver_node", driver | own | waiting)
