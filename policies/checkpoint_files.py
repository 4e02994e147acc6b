"""Files of a checkpoint: read whole and unaltered, written whole or not at all.

A checkpoint is a directory with ``config.json``, which states the sha256 of each file, its own
among them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.actor.config import Reader, read_json
from policies.errors import InputError
from policies.processors import Float32

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
UNSEALED = f"{CONFIG_FILE} has no hash of itself: a change in it may go unnoticed"
_POLICY = f"a policy checkpoint (a directory with {CONFIG_FILE} and networks)"
_NO_HASH = "0" * 64
_MAX_CONFIG_BYTES = 4_000_000
_MAX_MODEL_BYTES = 2_000_000_000


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(path: Path, limit: int) -> bytes:
    if not path.is_file():
        raise InputError(
            f"checkpoint {path.parent}: expected a file {path.name}, but there is none; "
            "copy the whole checkpoint directory"
        )
    try:
        size = path.stat().st_size
        if size > limit:
            raise InputError(f"{path}: expected at most {limit} bytes, got {size}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got {error.strerror}") from error


def read_config(path: Path, what: str = _POLICY) -> tuple[dict[str, Any], bytes]:
    """Content of config.json, parsed and raw.

    Args:
        path: checkpoint directory.
        what: what it should be, for error texts.

    Raises:
        InputError: there is no such file, or it is no JSON object.
    """
    if not path.is_dir():
        raise InputError(
            f"expected {what}, got {path}, which is {'a file' if path.exists() else 'not there'}"
        )
    config_path = path / CONFIG_FILE
    raw = _read(config_path, _MAX_CONFIG_BYTES)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{config_path}: expected UTF-8 JSON, got other bytes") from error
    return read_json(text, str(config_path)), raw


def read_networks(
    path: Path,
    data: Mapping[str, Any],
    raw: bytes,
    needed: tuple[str, ...],
    optional: tuple[str, ...] = (),
) -> dict[str, bytes]:
    """Content of the files that config.json names, after a comparison of the hashes.

    Args:
        path: checkpoint directory.
        data: content of config.json, parsed.
        raw: the same as it is in the file.
        needed: files that must be there.
        optional: files that may be.

    Raises:
        InputError: a file is missing, altered, or not known.
    """
    files = Reader(data.get("files"), f"{path / CONFIG_FILE}, 'files'")
    files.only(CONFIG_FILE, *needed, *optional)
    content = {}
    for name in (*needed, *(name for name in optional if files.has(name))):
        expected = files.text(name)
        content[name] = _read(path / name, _MAX_MODEL_BYTES)
        found = _sha256(content[name])
        if found != expected:
            raise InputError(
                f"{path / name}: expected sha256 {expected[:12]}..., which {CONFIG_FILE} states, "
                f"got {found[:12]}...; the file was altered or cut off, copy the checkpoint again"
            )
    check_seal(path / CONFIG_FILE, data, raw)
    return content


def digests(raw: bytes, content: Mapping[str, bytes]) -> tuple[dict[str, str], str]:
    """Hash of each file, and one over all of them."""
    digests = {CONFIG_FILE: _sha256(raw), **{name: _sha256(x) for name, x in content.items()}}
    whole = _sha256("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode())
    return digests, whole


def parse_weights(content: Mapping[str, bytes], what: str) -> dict[str, Float32]:
    """Name -> array of a network's weights.

    Args:
        content: file name -> content of a checkpoint.
        what: the checkpoint in error texts.

    Raises:
        InputError: it was saved without them, or the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if WEIGHTS_FILE not in content:
        raise InputError(
            f"{what}: expected a file {WEIGHTS_FILE}, but it was saved without one; train it again"
        )
    try:
        return load(content[WEIGHTS_FILE])
    except (SafetensorError, KeyError) as error:  # a KeyError names a type that NumPy has not
        raise InputError(
            f"{what}: expected safetensors of NumPy's types in {WEIGHTS_FILE}, got something else; "
            "copy the checkpoint again"
        ) from error


@dataclass(frozen=True, kw_only=True)
class TrainedFiles(ABC):
    """A trained model as read from disk: well-formed and unaltered.

    Attributes:
        content: file name -> content of the files beside config.json.
        sha256: hash over all files, 64 hex digits.
        files: file name -> its sha256.
    """

    content: dict[str, bytes]
    sha256: str
    files: dict[str, str]

    @property
    @abstractmethod
    def what(self) -> str:
        """How error texts name it."""

    def weights(self) -> dict[str, Float32]:
        """Name -> array of the network's weights.

        Raises:
            InputError: it was saved without them, or the file is damaged.
        """
        return parse_weights(self.content, self.what)


def config_text(data: Mapping[str, Any], content: Mapping[str, bytes]) -> str:
    """config.json with the hashes of the other files, sealed."""
    return seal(data, {name: _sha256(x) for name, x in content.items()})


def seal(data: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    """config.json with its own hash in it: that of its bytes with zeros in the hash's place.

    Args:
        data: what it says, all but ``files``.
        hashes: file name -> sha256 of the other files.
    """
    text = json.dumps({**data, "files": {CONFIG_FILE: _NO_HASH, **hashes}}, indent=1) + "\n"
    return text.replace(_seal_of(_NO_HASH), _seal_of(_sha256(text.encode())), 1)


def check_seal(path: Path, data: Mapping[str, Any], raw: bytes) -> None:
    """Compare config.json with its own hash; older ones have none.

    Args:
        path: of config.json, for error texts.
        data: its content, parsed.
        raw: its content as it is in the file.

    Raises:
        InputError: it was altered.
    """
    if not is_sealed(data):
        return
    stated = Reader(data["files"], f"{path}, 'files'").text(CONFIG_FILE)
    blank = raw.replace(_seal_of(stated).encode(), _seal_of(_NO_HASH).encode(), 1)
    if _sha256(blank) != stated:
        raise InputError(
            f"{path}: expected what its own sha256 in 'files' states, got something else; the file "
            "was altered or cut off, copy the checkpoint again, or remove that sha256 if you have "
            "altered it yourself"
        )


def is_sealed(data: Mapping[str, Any]) -> bool:
    """True if a config.json states its own hash: any change of it is noticed."""
    return isinstance(data.get("files"), dict) and CONFIG_FILE in data["files"]


def _seal_of(digest: str) -> str:
    return f'"{CONFIG_FILE}": "{digest}"'


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Refuse to write a checkpoint over something.

    Raises:
        InputError: ``path`` exists and must not be replaced.
    """
    if not path.exists():
        return
    if not overwrite:
        raise InputError(f"{path}: expected a new directory, but it exists; add --overwrite")
    if not (path / CONFIG_FILE).is_file():
        raise InputError(
            f"{path}: expected a checkpoint to overwrite, but it has no {CONFIG_FILE}; "
            "remove it yourself or choose another name"
        )


def write_files(path: Path, text: str, content: Mapping[str, bytes], *, overwrite: bool) -> None:
    """Write a checkpoint directory, whole or not at all.

    Args:
        path: directory to create.
        text: of config.json.
        content: file name -> content of the other files.
        overwrite: replace an existing checkpoint.

    Raises:
        InputError: ``path`` exists and must not be replaced.
    """
    check_writable(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder) / "new"
        fresh.mkdir()
        (fresh / CONFIG_FILE).write_text(text, encoding="utf-8")
        for name, data in content.items():
            (fresh / name).write_bytes(data)
        if path.exists():
            path.rename(Path(folder) / "old")  # removed with the temporary folder
        shutil.move(fresh, path)
