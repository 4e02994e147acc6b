"""Files of results, motions and boards: read and written with a sentence where that fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from calibration.errors import CalibrationError

_MAX_DIGITS = 300  # more is no float


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Object in a JSON file.

    Raises:
        CalibrationError: there is no such file, or it holds no JSON object.
    """

    def integer(digits: str) -> int:
        if len(digits) > _MAX_DIGITS:
            raise ValueError
        return int(digits)

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_int=integer)
        json.dumps(content, ensure_ascii=False).encode()  # not of half a pair of surrogates
    except OSError as error:
        raise CalibrationError(
            f"expected {what}, but {path} cannot be read ({error.strerror}); check the path"
        ) from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CalibrationError(
            f"expected {what}, but {path} holds no JSON object, or numbers or text that nothing "
            "else can read; check the path"
        ) from None
    return content


def write_text(path: Path, text: str, what: str) -> None:
    """Write a file; its folder is made.

    Args:
        path: the file.
        text: its content.
        what: what that is, for the sentence.

    Raises:
        CalibrationError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CalibrationError(
            f"expected a place to write {what}, but {path} cannot be written "
            f"({error.strerror}); choose another"
        ) from None
