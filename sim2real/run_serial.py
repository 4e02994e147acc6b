"""`realign run --driver serial`: an arm of bus servos on a serial port, real or emulated."""

from __future__ import annotations

from typing import Any

from sim2real.graph import Graph
from sim2real.run_config import RunConfig
from sim2real.run_hardware import check_hardware, start_driver, start_emulator

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


def start(graph: Graph, config: RunConfig, driver: dict[str, Any], **emulator: object) -> None:
    """Start driver and arm, see :class:`sim2real.run_hardware.Hardware`."""
    own: dict[str, Any] = {"port": config.port, "port_wait_s": 0.0}
    if not config.port:
        port, calibration = graph.folder / "port", graph.folder / f"{config.robot}_calibration.json"
        emulator |= {
            "link": port,
            "calibration": calibration,
            "realtime_priority": driver["realtime_priority"],
        }
        start_emulator(graph, config, "realign_serial_driver.emulator", "arm", **emulator)
        own = {"port": str(port), "port_wait_s": _PORT_WAIT_S, "calibration": str(calibration)}
    start_driver(graph, config, "realign_serial_driver.driver_node", driver, **own)
