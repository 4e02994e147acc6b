"""Decompression that never writes more than it was given room for, whatever the data claims."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import lz4.frame
import zstandard

from sim2real.bags.batch import DamageError


def decompress(data: memoryview | bytes, compression: str, max_bytes: int) -> bytes:
    """Uncompress at most ``max_bytes + 1`` bytes.

    Args:
        data: compressed bytes.
        compression: ``zstd`` or ``lz4``.
        max_bytes: the size that is expected; one byte more shows that the data is longer.

    Raises:
        DamageError: unknown compression or data that is not of this compression.
    """
    with _damage_in(compression):
        if compression == "zstd":
            reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
            return bytes(reader.read(max_bytes + 1))
        if compression == "lz4":
            return bytes(
                lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=max_bytes + 1)
            )
    raise DamageError(f"its compression {compression!r} is neither zstd nor lz4")


def decompress_into(room: memoryview, data: memoryview, compression: str) -> None:
    """Uncompress data that must fill ``room`` and no more.

    Args:
        room: where the content goes.
        data: compressed bytes.
        compression: ``zstd`` or ``lz4``.

    Raises:
        DamageError: unknown compression, data that is not of this compression, or another size.
    """
    size = len(room)
    if compression == "zstd":  # without the copy that `decompress` would need
        with _damage_in(compression):
            reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
            got = reader.readinto(room)
            got += len(reader.read(1)) if got == size else 0
    else:
        content = decompress(data, compression, size)
        got = len(content)
        room[:got] = content[:size]
    if got != size:
        raise DamageError(f"expected {size} bytes uncompressed, got {got}")


@contextmanager
def _damage_in(compression: str) -> Iterator[None]:
    try:
        yield
    except (zstandard.ZstdError, RuntimeError, EOFError) as error:
        raise DamageError(f"its {compression} data cannot be uncompressed ({error})") from None
