"""Machine-readable results: one way to write them, nothing replaced by accident."""

from __future__ import annotations

import json
from pathlib import Path

from policies.errors import InputError


def check_new(file: Path | None, *, overwrite: bool) -> None:
    """Refuse to replace a file or folder, before the work begins.

    Raises:
        InputError: it exists and ``overwrite`` is False.
    """
    if file is not None and file.exists() and not overwrite:
        raise InputError(
            f"expected a new path, but {file} exists; choose another or give --overwrite"
        )


def write_json(file: Path, content: object) -> None:
    """Write ``content`` as JSON; its folder is made.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"expected a place to write results, but {file} cannot be written "
            f"({error.strerror}); choose another"
        ) from None
