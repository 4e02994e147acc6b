"""The ``realign`` command.

Each subcommand is one typed function, turned into a command line by tyro. Its module is imported
when it is called and not before, so that help is quick and a machine without ROS, simulator or
torch can run everything that needs none of them.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from policies.errors import FaultError, InputError

EXIT_INPUT = 2
EXIT_FAULT = 3
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Command:
    """One subcommand.

    Attributes:
        function: ``module:name`` of the function that tyro turns into the command line.
        help: one line for the overview.
        positional: parameters that are given by place, not by ``--name``.
    """

    function: str
    help: str
    positional: tuple[str, ...] = ()

    def load(self) -> Callable[..., int | None]:
        """Import the function."""
        module, _, name = self.function.partition(":")
        loaded: Callable[..., int | None] = getattr(importlib.import_module(module), name)
        return loaded


COMMANDS: dict[tuple[str, ...], Command] = {
    ("demo",): Command(
        function="sim2real.demo:demo_command",
        help="the whole loop on the embedded virtual robot, ends in report.html",
    ),
    ("doctor",): Command(
        function="sim2real.doctor:doctor_command",
        help="what is installed, what is missing, how to get it",
    ),
    ("run",): Command(
        function="sim2real.run:run_command",
        help="bring the ROS graph up: driver, guard, policy, recorder",
    ),
    ("serve",): Command(
        function="sim2real.serve_cli:serve_command",
        help="a policy behind a websocket, for realign run and clients of openpi's protocol",
    ),
    ("bag", "info"): Command(
        function="sim2real.bags.cli:bag_info",
        help="topics, counts, rates, gaps and damage of a bag",
        positional=("bag",),
    ),
    ("bag", "salvage"): Command(
        function="sim2real.bags.cli:bag_salvage",
        help="rescue every whole chunk of a damaged bag",
        positional=("bag", "out"),
    ),
    ("episodes", "build"): Command(
        function="sim2real.episodes.cli:episodes_build",
        help="bag to episodes, aligned by header stamps",
        positional=("bag",),
    ),
    ("replay",): Command(
        function="sim2real.replay.cli:replay_command",
        help="open-loop replay of logged actions, errors per horizon and joint",
        positional=("episodes",),
    ),
    ("sysid",): Command(
        function="sim2real.baselines.sysid_cli:sysid_command",
        help="motor strength, friction, payload, delay with which the simulator fits the logs",
        positional=("episodes",),
    ),
    ("compare",): Command(
        function="sim2real.baselines.cli:compare_command",
        help="every method fitted on the same data, with bootstrap intervals",
        positional=("train", "test"),
    ),
    ("delta", "train"): Command(
        function="sim2real.delta.cli:delta_train",
        help="delta-action model from episodes",
        positional=("episodes",),
    ),
    ("finetune",): Command(
        function="sim2real.finetune.cli:finetune_command",
        help="PPO with the frozen delta-action model in the actuator",
    ),
    ("policy", "import", "asap"): Command(
        function="policies.cli:policy_import_asap",
        help="ASAP motion-tracking policy to a checkpoint",
        positional=("onnx",),
    ),
    ("policy", "import", "lerobot"): Command(
        function="policies.cli:policy_import_lerobot",
        help="LeRobot checkpoint (ACT, Diffusion, VQ-BeT, SmolVLA) to a checkpoint",
        positional=("folder",),
    ),
    ("policy", "inspect"): Command(
        function="policies.cli:policy_inspect",
        help="what a checkpoint is, needs and was made for",
        positional=("policy",),
    ),
    ("policy", "bench"): Command(
        function="policies.bench_cli:policy_bench",
        help="how long a policy takes for an answer on this machine",
        positional=("policy",),
    ),
    ("policy", "train"): Command(
        function="policies.cli:policy_train",
        help="behaviour cloning of demonstrations: diffusion, score, flow, streaming, regression",
        positional=("demonstrations",),
    ),
    ("policy", "export"): Command(
        function="policies.cli:policy_export",
        help="weights of a trained policy to ONNX, compared with torch",
        positional=("policy",),
    ),
    ("policy", "demos"): Command(
        function="sim2real.tasks.cli:policy_demos",
        help="demonstrations of a task by its scripted expert",
    ),
    ("policy", "eval"): Command(
        function="sim2real.tasks.cli:policy_eval",
        help="success, smoothness and time of a policy on a task, with delays and losses",
    ),
    ("calibrate", "target"): Command(
        function="sim2real.calibrate_cli:calibrate_target",
        help="calibration board as PDF and PNG at true scale",
        positional=("out",),
    ),
    ("calibrate", "camera"): Command(
        function="sim2real.calibrate_cli:calibrate_camera",
        help="focal lengths, centre and distortion of a camera from images, video or bag",
        positional=("source",),
    ),
    ("calibrate", "hand-eye"): Command(
        function="sim2real.calibrate_cli:calibrate_hand_eye",
        help="where a camera sits on the hand or beside the robot, from a bag",
        positional=("bag",),
    ),
    ("calibrate", "rehearse"): Command(
        function="sim2real.calibrate_rehearse:calibrate_rehearse",
        help="a virtual robot looks at a board: a bag for camera, hand-eye, joints, and the truth",
        positional=("out",),
    ),
    ("calibrate", "joints"): Command(
        function="sim2real.calibrate_joints:calibrate_joints",
        help="encoder offsets, signs and order from views of a board or from mechanical stops",
        positional=("bag",),
    ),
    ("calibrate", "excite"): Command(
        function="sim2real.calibrate_play:calibrate_excite",
        help="motion within a robot's limits from which its dynamics can be told",
    ),
    ("calibrate", "play"): Command(
        function="sim2real.calibrate_play:calibrate_play",
        help="play such a motion on the virtual robot and record it",
        positional=("motion",),
    ),
    ("calibrate", "actuators"): Command(
        function="sim2real.calibrate_actuators:calibrate_actuators",
        help="friction, strength, inertia and payload from motion and torques, as a gap",
        positional=("bag",),
    ),
    ("calibrate", "latency"): Command(
        function="sim2real.calibrate_latency:calibrate_latency",
        help="delay between command and motion of each joint, late sensors, clocks, jitter",
        positional=("bag",),
    ),
    ("report",): Command(
        function="sim2real.report:report_command",
        help="self-contained HTML page of a demo or replay folder",
        positional=("folder",),
    ),
}

_DISTRIBUTION = "realign"

# Top-level module -> the extra of this distribution that brings it.
_EXTRA_OF = {
    "rclpy": "ros",
    "mujoco": "sim",
    "torch": "train",
    "av": "video",
    "metaworld": "metaworld",
    "cv2": "calibration",
    "pinocchio": "calibration",
    "serial": "serial",
    "msgpack": "serving",
    "websockets": "serving",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None for those of the process.

    Returns:
        Exit code: 0 done, 2 bad usage or bad input, 3 a fault stopped the robot, 4 a calibration
        has drifted, 5 it cannot be told whether it has, 130 interrupted.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(args)
    except InputError as error:
        print(f"realign: {error}", file=sys.stderr)
        return EXIT_INPUT
    except ModuleNotFoundError as error:
        sentence = _missing_module(error)
        if sentence is None:
            raise
        print(f"realign: {sentence}", file=sys.stderr)
        return EXIT_INPUT
    except FaultError as error:
        print(f"realign: {error}", file=sys.stderr)
        return EXIT_FAULT
    except KeyboardInterrupt as stop:  # some say what is kept
        print("; ".join(["realign: interrupted", *map(str, stop.args)]), file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `realign ... | head`: nobody reads on, and that is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(args: list[str]) -> int:
    if args[:1] == ["--version"]:
        print(f"realign {version()}")
        return 0
    words: list[str] = []
    for arg in args:
        if tuple(words) in COMMANDS or not _below((*words, arg)):
            break
        words.append(arg)
    path, rest = tuple(words), args[len(words) :]
    if path in COMMANDS:
        return _call(path, rest)
    if rest and rest[0] not in ("-h", "--help"):
        names = ", ".join(dict.fromkeys(name[len(path)] for name in _below(path)))
        raise InputError(
            f"expected a command out of {names} after {' '.join(('realign', *path))!r}, got "
            f"{rest[0]!r}; run: {' '.join(('realign', *path))} --help"
        )
    print(overview(path))
    return 0 if rest else EXIT_INPUT


def _below(prefix: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Commands whose words start with ``prefix``."""
    return [name for name in COMMANDS if name[: len(prefix)] == prefix]


def _call(path: tuple[str, ...], rest: list[str]) -> int:
    """Parse first, run then: what the function raises is not taken for a usage error."""
    import tyro

    command = COMMANDS[path]
    function = command.load()
    try:
        bound = tyro.cli(
            _parser(function, command.positional),
            args=rest,
            prog=" ".join(("realign", *path)),
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as stop:  # --help, or a usage error that tyro has explained
        return int(stop.code or 0)
    return bound() or 0


def _parser(
    function: Callable[..., int | None], positional: tuple[str, ...]
) -> Callable[..., Callable[[], int | None]]:
    """A function of the same parameters and help that only binds its arguments."""
    hints = typing.get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(
            annotation=_marked(hints[name], name.upper() if name in positional else None)
        )
        for name, parameter in signature.parameters.items()
    ]

    def bind(*args: Any, **kwargs: Any) -> Callable[[], int | None]:
        return functools.partial(function, *args, **kwargs)

    bind.__name__, bind.__doc__ = function.__name__, function.__doc__
    bind.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    bind.__annotations__ = {p.name: p.annotation for p in parameters}
    return bind


def _marked(hint: Any, place: str | None) -> Any:
    """A type hint with its marks for tyro: a place's name, and ``PATH`` for ``{None}|PATH``."""
    from tyro.conf import Positional, arg

    if place is not None:
        return typing.Annotated[hint, Positional, arg(metavar=place)]
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        if len(kinds) == 1 and isinstance(kinds[0], type):
            hint = typing.Annotated[hint, arg(metavar=kinds[0].__name__.upper())]
    return hint


def overview(prefix: tuple[str, ...] = ()) -> str:
    """Help text: the commands that start with ``prefix``, one a line."""
    rows = [(" ".join(name), COMMANDS[name].help) for name in _below(prefix)]
    width = max(len(name) for name, _ in rows)
    title = " ".join(("realign", *prefix))
    lines = [f"usage: {title} COMMAND [OPTIONS]   ({title} COMMAND --help for the options)", ""]
    return "\n".join(lines + [f"  {name:<{width}}  {text}" for name, text in rows])


def version() -> str:
    """Version of the installed distribution."""
    from importlib import metadata

    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _missing_module(error: ModuleNotFoundError) -> str | None:
    """Sentence for the module of an extra; None where the missing module is a fault of ours."""
    module = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF.get(module)
    if extra is None:
        return None
    how = f'pip install "{_DISTRIBUTION}[{extra}]"'
    if extra == "ros":
        how += ", or source an apt ROS 2 (source /opt/ros/$ROS_DISTRO/setup.bash)"
    return f"expected the Python module {module}, which is not installed; run: {how}"


if __name__ == "__main__":
    sys.exit(main())
