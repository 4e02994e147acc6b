"""Instructions as a network reads them, and their vectors as a checkpoint carries them.

A checkpoint holds the vectors of every instruction that it was trained on, so that these need no
text encoder where the policy runs. Any other sentence is encoded when it first comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from policies.errors import InputError
from policies.processors import Float32
from policies.vla.text import TEXT_ROWS, TOKENS, open_text_encoder

INSTRUCTIONS_FILE = "instructions.safetensors"

Encode = Callable[[str], Float32]
"""Text to one vector a word piece, (L, size)."""

_SAME = 0.02  # largest difference of two encodings of one sentence, of entries of size 1
_MOST_KEPT = 1000


def encode(text: str) -> Float32:
    """Vectors of a text by the installed encoder, see :class:`policies.vla.text.TextEncoder`."""
    return open_text_encoder()(text)


def padded(vectors: Float32) -> Float32:
    """Rows for the network: mean of the vectors, the vectors, zeros, (TEXT_ROWS, size)."""
    out = np.zeros((TEXT_ROWS, vectors.shape[1]), dtype=np.float32)
    out[0] = vectors.mean(axis=0)
    out[1 : 1 + len(vectors)] = vectors
    return out


class Instructions:
    """Instruction -> rows for the network.

    Args:
        known: instruction -> its vectors, (L, size).
        encoder: encodes the others; None for :func:`encode`.

    Attributes:
        size: entries of a vector.
    """

    def __init__(self, known: dict[str, Float32], encoder: Encode | None = None) -> None:
        self.known = known
        self.size = next(iter(known.values())).shape[1]
        self._encoder = encode if encoder is None else encoder
        self._checked = False
        self._rows: dict[str, Float32] = {}

    @classmethod
    def of(cls, texts: Sequence[str], encoder: Encode | None = None) -> Instructions:
        """Encode each of these texts."""
        encoder = encode if encoder is None else encoder
        return cls({text: encoder(text) for text in dict.fromkeys(texts)}, encoder)

    def including(self, texts: Sequence[str]) -> Instructions:
        """What is known, and these texts; without a new one among them no encoder is needed.

        Raises:
            InputError: as :meth:`rows`.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            self._check_encoder()
        return Instructions(
            {**self.known, **{text: self._encoder(text) for text in new}}, self._encoder
        )

    def rows(self, texts: Sequence[str]) -> Float32:
        """Rows of each text, (B, TEXT_ROWS, size).

        Raises:
            InputError: a text is unknown and there is no encoder, or another one than in training.
        """
        return np.stack([self._of(text) for text in texts])

    def _of(self, text: str) -> Float32:
        if text not in self._rows:
            vectors = self.known.get(text)
            if vectors is None:
                self._check_encoder()
                vectors = self._encoder(text)
            if len(self._rows) >= _MOST_KEPT:
                self._rows.clear()
            self._rows[text] = padded(vectors)
        return self._rows[text]

    def _check_encoder(self) -> None:
        """Another encoder speaks another language: what is known tells."""
        if self._checked:
            return
        text, expected = next(iter(self.known.items()))
        got = self._encoder(text)
        if got.shape != expected.shape or float(np.abs(got - expected).max()) > _SAME:
            raise InputError(
                "instruction: expected the text encoder that the policy was trained with, got one "
                f"that answers {text!r} otherwise; install the version that its checkpoint names"
            )
        self._checked = True

    def dump(self) -> bytes:
        """Content of :data:`INSTRUCTIONS_FILE`; the texts themselves are in config.json."""
        vectors = list(self.known.values())
        return save(
            {
                "vectors": np.concatenate(vectors).astype(np.float16),
                "lengths": np.array([len(rows) for rows in vectors], dtype=np.int64),
            }
        )


def load_instructions(
    content: bytes, texts: Sequence[str], size: int, what: str, encoder: Encode | None = None
) -> Instructions:
    """Read what :meth:`Instructions.dump` wrote.

    Args:
        content: of the file.
        texts: the instructions, in order.
        size: entries of a vector.
        what: name of the file in error texts.
        encoder: encodes other instructions; None for :func:`encode`.

    Raises:
        InputError: the file is damaged or does not fit.
    """
    try:
        tensors = load(content)
        vectors, lengths = tensors["vectors"].astype(np.float32), tensors["lengths"]
    except (SafetensorError, KeyError) as error:
        raise InputError(
            f"{what}: expected the vectors of instructions, got something else; copy the "
            "checkpoint again"
        ) from error
    fits = vectors.ndim == 2 and vectors.shape[1] == size and lengths.shape == (len(texts),)
    if not fits or not texts or lengths.min() < 1 or lengths.max() > TOKENS:
        raise InputError(
            f"{what}: expected vectors of {size} entries for {len(texts)} instructions, got shape "
            f"{vectors.shape} for {len(lengths)}; copy the checkpoint again"
        )
    if int(lengths.sum()) != len(vectors) or not np.isfinite(vectors).all():
        raise InputError(
            f"{what}: expected {int(lengths.sum())} finite vectors, got {len(vectors)}, or NaN; "
            "copy the checkpoint again"
        )
    parts = np.split(vectors, np.cumsum(lengths)[:-1])
    return Instructions(dict(zip(texts, parts, strict=True)), encoder)
