"""Files of a rosbag2 bag: which there are, in which order, and what their metadata says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from policies.errors import InputError
from sim2real.bags.mcap_stream import McapStream
from sim2real.bags.sqlite_file import SqliteFile

_MAX_METADATA_BYTES = 2**20
_SUFFIXES = {".mcap": "mcap", ".db3": "sqlite3"}


@dataclass(kw_only=True)
class BagFiles:
    """Data files of a bag, and what its metadata says of them.

    Attributes:
        storage: ``mcap`` or ``sqlite3``.
        paths: data files in the order of the recording.
        provenance: custom data of ``metadata.yaml``.
        compressed_messages: each message of a ``.db3`` file is compressed by itself.
        expected_count: number of messages by ``metadata.yaml``, None without one.
        notes: what is odd.
    """

    storage: str
    paths: list[Path]
    provenance: dict[str, str] = field(default_factory=dict)
    compressed_messages: bool = False
    expected_count: int | None = None
    notes: list[str] = field(default_factory=list)

    def open(self, path: Path, *, check: bool = True) -> McapStream | SqliteFile:
        """One of the files, ready to be read.

        Args:
            path: of ``paths``.
            check: compare checksums, where the storage has any.
        """
        if self.storage == "mcap":
            return McapStream(path=path, check=check)
        return SqliteFile(path=path, compressed=self.compressed_messages)

    def states(self) -> tuple[tuple[int, int, int], ...]:
        """Inode, size and time of change of each file: another tuple means other bytes.

        Raises:
            InputError: a file is not there.
        """
        try:
            found = [path.stat() for path in self.paths]
        except OSError as error:
            raise unreadable(Path(str(error.filename)), error) from None
        return tuple((s.st_ino, s.st_size, s.st_mtime_ns) for s in found)


def find_files(path: Path) -> BagFiles:
    """Look for the data files of a bag.

    Args:
        path: rosbag2 directory, or one ``.mcap`` or ``.db3`` file.

    Raises:
        InputError: there is no bag, or not all of it, or it has a form that is not read.
    """
    if not path.exists():
        raise InputError(f"expected a bag, but there is no {path}; check the path")
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise InputError(
                f"expected a rosbag2 directory or a .mcap or .db3 file, got {path}; "
                "name the directory that holds metadata.yaml"
            )
        return BagFiles(storage=_SUFFIXES[path.suffix], paths=[path])
    if (path / "metadata.yaml").exists():
        return _from_metadata(path)
    for suffix, storage in _SUFFIXES.items():
        paths = sorted(path.glob(f"*{suffix}"), key=natural_key)
        if paths:
            return BagFiles(storage=storage, paths=paths, notes=["metadata.yaml is missing"])
    raise InputError(
        f"expected a rosbag2 bag, but {path} has neither metadata.yaml nor .mcap or .db3 files; "
        "check the path"
    )


def natural_key(path: Path) -> tuple[list[str | int], str]:
    """Sort key under which part 10 of a split bag comes after part 9."""
    return [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", path.name)], path.name


def _from_metadata(path: Path) -> BagFiles:
    meta = _load_yaml(path / "metadata.yaml")
    try:
        storage = meta["storage_identifier"]
        # only the file name counts: a bag refers to nothing outside its own directory
        paths = [path / Path(str(name)).name for name in meta["relative_file_paths"]]
        mode = str(meta.get("compression_mode") or "").lower()
        custom = meta.get("custom_data") or {}
        files = BagFiles(
            storage=storage,
            paths=paths,
            provenance={str(key): str(value) for key, value in dict(custom).items()},
            compressed_messages=mode == "message",
            expected_count=int(meta["message_count"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"expected rosbag2 metadata, but {path / 'metadata.yaml'} lacks or breaks a field "
            f"({error}); move it away to read the data files without it"
        ) from None
    if storage not in _SUFFIXES.values():
        raise InputError(
            f"expected storage mcap or sqlite3, got {storage!r} in {path}; convert it with "
            "`ros2 bag convert`"
        )
    if mode == "file" or (mode == "message" and storage == "mcap"):
        raise InputError(
            f"expected a bag without rosbag2's own {mode} compression, got {path}; convert it with "
            "`ros2 bag convert` (MCAP compresses its chunks by itself)"
        )
    missing = [file.name for file in paths if not file.is_file()]
    if missing or not paths:
        raise InputError(
            f"expected the data files that metadata.yaml names, but {path} lacks "
            f"{missing or 'all of them'}; copy the whole directory"
        )
    return files


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_METADATA_BYTES:
            raise InputError(
                f"expected at most {_MAX_METADATA_BYTES} bytes of metadata, got "
                f"{path.stat().st_size} in {path}; this is no rosbag2 bag"
            )
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"expected YAML, but {path} cannot be parsed ({reason}); move it away to read the data "
            "files without it"
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None
    inner = document.get("rosbag2_bagfile_information") if isinstance(document, dict) else None
    if not isinstance(inner, dict):
        raise InputError(
            f"expected rosbag2_bagfile_information in {path}, but it is not there; move it away to "
            "read the data files without it"
        )
    return inner


def unreadable(path: Path, error: OSError) -> InputError:
    """The error to raise where the operating system refuses a file."""
    return InputError(f"expected a readable file, but {path} is not ({error.strerror}); check it")
