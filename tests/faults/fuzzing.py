"""Damage for files, and what must come of it; loaded by the tests of loaders.

A loader gives its result or one sentence; never a traceback, never memory that grows with what a
file claims.
"""

from __future__ import annotations

import copy
import json
import resource
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policies.errors import InputError

MAX_GROWTH_MB = 300
# What a hostile JSON file may hold in the place of a value.
HOSTILE = (
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    10**40,
    "",
    "x" * 300,
    [],
    {},
    [[[]]],
    [None] * 3,
)


@dataclass(frozen=True)
class Subject:
    """Something that is loaded.

    Attributes:
        name: what it is called.
        make: makes a small one in a folder; gives its path.
        load: loads it.
        files: its files, from its path.
        json_files: those of them whose values are replaced too.
        errors: what a loader may raise.
        seldom: how many times fewer damages it gets, because loading takes long.
    """

    name: str
    make: Callable[[Path], Path]
    load: Callable[[Path], Any]
    files: tuple[str, ...]
    json_files: tuple[str, ...] = ()
    errors: tuple[type[Exception], ...] = (InputError,)
    seldom: int = 1


def cuts(data: bytes, count: int) -> Iterator[bytes]:
    """The data cut at every byte, or at ``count`` places of a larger file."""
    for end in range(0, len(data), max(1, len(data) // count)):
        yield data[:end]


def flips(data: bytes, count: int, rng: np.random.Generator) -> Iterator[bytes]:
    for place in rng.integers(0, len(data), count):
        broken = bytearray(data)
        broken[place] ^= int(rng.integers(1, 256))
        yield bytes(broken)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to the values of a JSON document, inner ones too."""
    keys = content if isinstance(content, dict) else range(min(len(content), 2))
    for key in keys:
        yield (*path, key)
        if isinstance(content[key], (dict, list)):
            yield from places(content[key], (*path, key))


def replaced(data: bytes, rng: np.random.Generator, share: float) -> Iterator[bytes]:
    """The JSON document with a value replaced by something hostile, or taken out."""
    content = json.loads(data)
    for path in places(content):
        for value in (*HOSTILE, KeyError):
            if rng.random() > share:
                continue
            other = copy.deepcopy(content)
            inner = other
            for key in path[:-1]:
                inner = inner[key]
            if value is KeyError:
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
            yield json.dumps(other).encode()
    for text in ("[" * 100_000, "{}", "[]", "null", "1", '"', "\ufeff{}", "{" + '"a":{' * 50_000):
        yield text.encode()


def attempt(subject: Subject, path: Path, what: str) -> bool:
    """Load it; True if that worked. Any error but one sentence fails the test."""
    said = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that overflow on their way to a refusal
            subject.load(path)
    except subject.errors as error:
        said = str(error).strip()
    except Exception as error:
        raise AssertionError(f"{subject.name}, {what}: {type(error).__name__}: {error}") from error
    assert "\n" not in said, f"{what}: {said}"
    return not said


@contextmanager
def memory_limit() -> Iterator[None]:
    """Fails where the peak of resident memory grows too much; 20 times that is not to be had."""
    clear = Path("/proc/self/clear_refs")
    clear.write_text("5")  # the peak is now what is resident
    start = _status_mb("VmHWM")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int((_status_mb("VmSize") + 20 * MAX_GROWTH_MB) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    grown = _status_mb("VmHWM") - start
    assert grown < MAX_GROWTH_MB, f"{grown:.0f} MB more"


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":"))


EVERY = 4096  # bytes up to which a file is cut at every one of them


def damage(subject: Subject, cut_places: int, tmp_path: Path) -> None:
    """Load it whole, then damaged in every way; at least one damage must be refused."""
    folder = tmp_path / "whole"
    folder.mkdir()
    whole = subject.make(folder)
    assert attempt(subject, _copy(whole, tmp_path), "whole")
    rng, refused, full = np.random.default_rng(0), 0, cut_places == EVERY
    work = _copy(whole, tmp_path)
    with memory_limit():
        for name in subject.files:
            data = (whole / name).read_bytes()
            kinds = [
                ("cut", cuts(data, max(cut_places // subject.seldom, 5))),
                ("flip", flips(data, (300 if full else 15) // subject.seldom, rng)),
            ]
            if name in subject.json_files:
                share = (1.0 if full else 0.15) / subject.seldom
                kinds.append(("replaced", replaced(data, rng, share)))
            for kind, versions in kinds:
                for k, version in enumerate(versions):
                    _restore(whole, work)
                    (work / name).write_bytes(version)
                    refused += not attempt(subject, work, f"{name}, {kind} {k}")
    assert refused > 0


def _copy(whole: Path, tmp_path: Path) -> Path:
    work = tmp_path / "work" / whole.name
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(whole, work)
    return work


def _restore(whole: Path, work: Path) -> None:
    for path in whole.rglob("*"):
        if path.is_file():
            target = work / path.relative_to(whole)
            target.write_bytes(path.read_bytes())
