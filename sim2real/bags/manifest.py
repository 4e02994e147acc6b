"""Manifest of a recorded bag: sha256, size and counts, so that silent changes are noticed.

The format's own checksums cover chunks and the index. The manifest covers the files, whatever wrote
or copied them, and what was counted when they were written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from policies.errors import InputError

MANIFEST_FILE = "manifest.json"
_FORMAT = "realign bag manifest 1"
_MAX_BYTES = 2**20
_BLOCK = 2**20


def write_manifest(bag: Path, counts: Mapping[str, int]) -> None:
    """Write the manifest of a bag that has just been closed.

    Args:
        bag: bag directory.
        counts: messages of each topic.
    """
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": digest(path)}
        for path in sorted(bag.iterdir())
        if path.is_file() and path.name != MANIFEST_FILE
    }
    content = {"format": _FORMAT, "files": files, "messages": dict(sorted(counts.items()))}
    (bag / MANIFEST_FILE).write_text(json.dumps(content, indent=1) + "\n")


def check_manifest(bag: Path, sha256: Mapping[str, str]) -> list[str]:
    """What in a bag's files is not as it was when it was closed.

    Args:
        bag: bag directory, or a data file, which has no manifest.
        sha256: name -> hash of the data files as they are now; other files are read here.

    Returns:
        A sentence for each change; none without a manifest.

    Raises:
        InputError: the manifest is no manifest.
    """
    path = bag / MANIFEST_FILE
    if not path.is_file():
        return []
    found, noted = [], _read(path)
    for name, expected in noted.items():
        now = sha256.get(name) or _digest_beside(path, name)
        if now != expected:
            state = "was altered after" if now else "is missing, which was there when"
            found.append(f"{name} {state} the bag was closed, says {MANIFEST_FILE}")
    return found + [f"{name} is not in {MANIFEST_FILE}" for name in sha256.keys() - noted.keys()]


def _digest_beside(path: Path, name: str) -> str | None:
    """Hash of a file in the folder of ``path``; None where there is none."""
    try:
        return digest(path.with_name(name))
    except (OSError, ValueError):  # ValueError: no name of a file
        return None


def digest(path: Path) -> str:
    """sha256 of a file, in blocks."""
    sha = hashlib.sha256()
    block = bytearray(_BLOCK)
    with path.open("rb", buffering=0) as stream:
        while size := stream.readinto(block):
            sha.update(memoryview(block)[:size])
    return sha.hexdigest()


def _read(path: Path) -> dict[str, str]:
    wrong = InputError(
        f"expected a manifest ({_FORMAT}), but {path} is none; move it away to read the bag "
        "without it"
    )
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise wrong
        content = json.loads(path.read_bytes())
        if content["format"] != _FORMAT:
            raise wrong
        return {str(name): str(entry["sha256"]) for name, entry in content["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise wrong from None
