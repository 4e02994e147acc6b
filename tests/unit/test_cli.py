"""The ``realign`` command: dispatch, exit codes, one sentence for bad input, quick start-up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from policies.errors import FaultError, InputError
from sim2real import cli


@pytest.fixture
def command(monkeypatch):
    """Replace what ``realign doctor`` does."""

    def replace(function):
        monkeypatch.setattr(cli.Command, "load", lambda self: function)

    return replace


def test_overview_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for path, entry in cli.COMMANDS.items():
        assert f"  {' '.join(path)} " in out
        assert entry.help in out


@pytest.mark.parametrize("path", list(cli.COMMANDS), ids=" ".join)
def test_every_command_exists_and_explains_itself(path, capsys):
    function = cli.COMMANDS[path].load()
    assert function.__doc__
    assert cli.main([*path, "--help"]) == 0
    usage = capsys.readouterr().out
    assert usage.startswith(f"usage: realign {' '.join(path)}")
    for name in cli.COMMANDS[path].positional:
        assert name.upper() in usage.splitlines()[0]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["nope"], "got 'nope'"),
        (["bag", "nope"], "expected a command out of info, salvage after 'realign bag'"),
        (["policy", "import", "rsl"], "expected a command out of asap"),
        (["--nope"], "got '--nope'"),
    ],
)
def test_unknown_command_is_one_sentence(argv, expected, capsys):
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("realign: expected a command out of")
    assert captured.err.count("\n") == 1
    assert expected in captured.err


@pytest.mark.parametrize("argv", [[], ["bag"], ["policy", "import"]])
def test_half_a_command_shows_what_there_is(argv, capsys):
    assert cli.main(argv) == 2
    assert " ".join(["usage: realign", *argv, "COMMAND"]) in capsys.readouterr().out


def test_positional_and_named_arguments_arrive(command):
    seen = {}

    def function(bag: Path, *, horizons_s: tuple[float, ...] = (1.0,), json: Path | None = None):
        """Take arguments.

        Args:
            bag: a bag.
            horizons_s: horizons, s.
            json: a file.
        """
        seen.update(bag=bag, horizons_s=horizons_s, json=json)

    command(function)
    assert cli.main(["bag", "info", "b", "--horizons-s", "0.25", "0.5", "--json", "j"]) == 0
    assert seen == {"bag": Path("b"), "horizons_s": (0.25, 0.5), "json": Path("j")}
    assert cli.main(["bag", "info", "b"]) == 0
    assert seen["json"] is None


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("expected a, got b; do c"), 2, "realign: expected a, got b; do c\n"),
        (FaultError("the guard stopped the robot"), 3, "realign: the guard stopped the robot\n"),
        (KeyboardInterrupt(), 130, "realign: interrupted\n"),
        (KeyboardInterrupt("step 3 is kept"), 130, "realign: interrupted; step 3 is kept\n"),
    ],
)
def test_errors_become_exit_codes(error, code, sentence, command, capsys):
    def function() -> None:
        """Fail."""
        raise error

    command(function)
    assert cli.main(["doctor"]) == code
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize(
    ("module", "extra"),
    [("rclpy", "ros"), ("mujoco", "sim"), ("torch", "train"), ("torch.nn", "train")],
)
def test_missing_extra_says_what_to_install(module, extra, command, capsys):
    def function() -> None:
        """Fail."""
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    command(function)
    assert cli.main(["doctor"]) == 2
    assert f'pip install "realign[{extra}]"' in capsys.readouterr().err


def test_a_missing_module_of_our_own_is_not_hidden(command):
    def function() -> None:
        """Fail."""
        raise ModuleNotFoundError("No module named 'policies.nope'", name="policies.nope")

    command(function)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["doctor"])


def test_exit_code_of_the_function_is_kept(command):
    def function() -> int:
        """Return a code."""
        return 2

    command(function)
    assert cli.main(["doctor"]) == 2


def test_usage_error_exits_with_2(capsys):
    assert cli.main(["bag", "info"]) == 2
    assert "BAG" in capsys.readouterr().err


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("realign ")


def test_help_imports_nothing_heavy(repo):
    code = (
        "import sys; from sim2real import cli; cli.main(['--help']); "
        "heavy = {'numpy', 'torch', 'mujoco', 'rclpy', 'onnxruntime', 'tyro', 'pyarrow'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_closed_pipe_is_no_traceback(repo):
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m sim2real.cli doctor --help | true"],
        cwd=repo,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
