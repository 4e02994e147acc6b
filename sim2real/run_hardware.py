"""`realign run` with the driver of a robot: what all of them share, and which there are."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Literal, Protocol, cast

from policies.errors import InputError
from sim2real.graph import Graph
from sim2real.run_config import Driver, RunConfig


class Hardware(Protocol):
    """What a module ``sim2real.run_<driver>`` has."""

    def check(self, config: RunConfig) -> None:
        """Refuse what the robot cannot do.

        Raises:
            InputError: a package is missing, or options do not fit.
        """

    def start(
        self, graph: Graph, config: RunConfig, driver: dict[str, Any], **emulator: object
    ) -> None:
        """Start the driver, and before it the emulated robot where there is no real one.

        Args:
            graph: processes of the run.
            config: what to run.
            driver: parameters that every driver node has.
            emulator: further arguments of an emulated robot, e.g. ``trace``.
        """


def hardware(driver: Driver) -> Hardware:
    """How to run a robot through its driver."""
    return cast(Hardware, importlib.import_module(f"sim2real.run_{driver}"))


def start_emulator(
    graph: Graph, config: RunConfig, module: str, *words: str, **arguments: object
) -> None:
    """Start the emulated robot of a run.

    Args:
        graph: processes of the run.
        config: what to run.
        module: of the emulator.
        words: what its command line begins with.
        arguments: its own options, beside those that every emulator has.
    """
    options = {
        "robot": config.robot,
        "policy": config.policy.resolve(),
        "gap": config.gap,
        "faults": config.faults,
        "seed": config.seed,
        "summary": graph.folder / "emulator.json",
        **{name.replace("_", "-"): value for name, value in arguments.items()},
    }
    listed = [f"--{name}={value}" for name, value in options.items()]
    graph.start_program("emulator", module, [*words, *listed])


def start_driver(
    graph: Graph, config: RunConfig, module: str, driver: dict[str, Any], **own: object
) -> None:
    """Start the driver node of a run.

    Args:
        graph: processes of the run.
        config: what to run.
        module: of the node.
        driver: parameters that every driver node has.
        own: parameters of this one.
    """
    known = {
        "robot": config.robot,
        "policy": str(config.policy.resolve()),
        # Somebody must stand beside a real robot and say when: ~/start.
        "wait_for_operator": not config.emulated,
    }
    graph.start("driver", module, driver | known | own)


def check_hardware(
    config: RunConfig,
    *,
    module: str,
    package: str,
    robot: str,
    address: Literal["network", "port"],
) -> None:
    """Refuse what no robot can do.

    Args:
        config: what to run.
        module: module that the driver needs, e.g. ``cyclonedds``.
        package: what its users call it, e.g. ``CycloneDDS``.
        robot: the robot in words, e.g. ``a Unitree robot``.
        address: the option that leads to a real one.

    Raises:
        InputError: the module is missing, or options do not fit.
    """
    if importlib.util.find_spec(module) is None:
        raise InputError(
            f"expected {package} for {robot}, but it is not installed; "
            f"run: pip install 'realign[{config.driver}]'"
        )
    if config.lockstep:
        raise InputError(
            f"expected a robot that waits for commands with --lockstep, but {robot} does "
            "not wait; leave --lockstep out, or use --driver mujoco"
        )
    if config.engine != "mujoco":
        raise InputError(
            f"expected the engine mujoco for --driver {config.driver}, got {config.engine!r}; "
            "use --driver mujoco for other engines"
        )
    other = "port" if address == "network" else "network"
    if getattr(config, other):
        raise InputError(
            f"expected --{address} for {robot}, got --{other} {getattr(config, other)}; "
            f"use --{address}, or leave both out for an emulated robot"
        )
    if not config.emulated and (config.gap != "none" or config.faults):
        raise InputError(
            f"expected no --gap and --faults for a real robot "
            f"(--{address} {getattr(config, address)}); leave --{address} out for an emulated one"
        )
