"""Damage for files, and what must come of it; imported by the tests of loaders.

A loader gives its result or one sentence; never a traceback, never memory that grows with what a
file claims.
"""

from __future__ import annotations

import copy
import json
import re
import resource
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.errors import InputError

MAX_GROWTH_MB = 300
MAX_SENTENCE = 2000  # characters
# What it may hold altogether: the digits are more than Python makes an integer of.
TEXTS = (
    '{"a": ' + "9" * 5000 + "}",
    "[" * 100_000,
    "{" + '"a":{' * 50_000,
    *("{}", "[]", "null", "1", '"', "\ufeff{}"),
)
# Types of arrays in safetensors; NumPy does not know all of them.
TYPES = (b'"BF16"', b'"F16"', b'"C64"', b'"I32"', b'"F8_E4M3"', b'"F64"', b'"F32"')
# What a hostile JSON file may hold in the place of a value.
HOSTILE = (
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    10**40,
    10**400,  # more than a float holds
    "",
    "x" * 300,
    "\x00",
    "\ud800",  # no text in UTF-8
    "../config.json",
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
        absent: whether the loader looks for the files itself, so that they can be missing.
    """

    name: str
    make: Callable[[Path], Path]
    load: Callable[[Path], Any]
    files: tuple[str, ...]
    json_files: tuple[str, ...] = ()
    errors: tuple[type[Exception], ...] = (InputError,)
    seldom: int = 1
    absent: bool = True


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
    for text in TEXTS:
        if rng.random() < 7.0 * share:
            yield text.encode()


def headers(data: bytes, rng: np.random.Generator, share: float) -> Iterator[bytes]:
    """A safetensors file whose header says something else of its arrays."""
    (length,) = struct.unpack_from("<Q", data)
    header, rest = data[8 : 8 + length], data[8 + length :]
    kinds = (kind for kind in TYPES if rng.random() < 7.0 * share)
    retyped = (re.sub(rb'"F(16|32|64)"', kind, header) for kind in kinds)
    for other in (*retyped, *replaced(header, rng, share)):
        yield struct.pack("<Q", len(other)) + other + rest


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
    assert len(said) < MAX_SENTENCE, f"{what}: {said}"
    said.encode()  # a message of ROS holds nothing else
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
# The parameter of :func:`damage`: every place in the long run, some of them in the quick one.
CUT_PLACES = pytest.mark.parametrize(
    "cut_places",
    [pytest.param(EVERY, marks=[pytest.mark.slow, pytest.mark.timeout(2400)], id="full"), 15],
)


def damage(subject: Subject, cut_places: int, tmp_path: Path) -> None:
    """Load it whole, then damaged in every way; at least one damage must be refused."""
    folder = tmp_path / "whole"
    folder.mkdir()
    whole = subject.make(folder)
    work = _copy(whole, tmp_path)
    assert attempt(subject, work, "whole")
    rng, tried, refused = np.random.default_rng(0), 0, 0
    with memory_limit():
        for name in subject.files:
            for what, version in _damaged(
                subject, name, (whole / name).read_bytes(), cut_places, rng
            ):
                _restore(whole, work)
                (work / name).write_bytes(version)
                tried += 1
                refused += not attempt(subject, work, f"{name}, {what}")
            if subject.absent:
                tried, refused = tried + 2, refused + _absent(subject, whole, work, name)
    assert refused > 0
    print(f"{subject.name}: {tried} damages, {refused} refused")


def _damaged(
    subject: Subject, name: str, data: bytes, cut_places: int, rng: np.random.Generator
) -> Iterator[tuple[str, bytes]]:
    """Damaged versions of a file, and what was done to it."""
    full = cut_places == EVERY
    share = (1.0 if full else 0.15) / subject.seldom
    kinds = {
        "cut": cuts(data, max(cut_places // subject.seldom, 5)),
        "flip": flips(data, (300 if full else 15) // subject.seldom, rng),
    }
    if name in subject.json_files:
        kinds["replaced"] = replaced(data, rng, share)
    if name.endswith(".safetensors"):
        kinds["header"] = headers(data, rng, share)
    for kind, versions in kinds.items():
        for k, version in enumerate(versions):
            yield f"{kind} {k}", version


def _absent(subject: Subject, whole: Path, work: Path, name: str) -> int:
    """Load it without the file, and with a folder in its place; how many of these were refused."""
    _restore(whole, work)
    (work / name).unlink()
    refused = not attempt(subject, work, f"{name}, missing")
    _restore(whole, work)
    (work / name).unlink()
    (work / name).mkdir()
    refused += not attempt(subject, work, f"{name}, a folder")
    (work / name).rmdir()
    return refused


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
