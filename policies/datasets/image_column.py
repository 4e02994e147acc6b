"""Images of a dataset inside its Parquet file, as LeRobot keeps features of dtype ``image``.

A column holds files (JPEG, PNG), which are never decoded to be copied. They are read one group of
rows at a time, so that a dataset may be larger than the memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from policies.errors import InputError
from policies.images import Rgb, decode

IMAGES = "observation.images."
TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_GROUP_BYTES = 2**25  # of a group of rows, which is what is read at a time
_SAMPLES = 200  # images that statistics are taken of


def image_feature(size: tuple[int, int]) -> dict[str, Any]:
    """Entry of ``info.json`` for a camera whose images have ``size`` (height, width)."""
    return {"dtype": "image", "shape": [*size, 3], "names": ["height", "width", "channels"]}


def write_frames(path: Path, table: pa.Table, images: Mapping[str, Callable[[int], bytes]]) -> None:
    """Write frames with their images, without ever holding all of these.

    Args:
        path: Parquet file to write.
        table: all other columns, one row a frame.
        images: column -> gives the file of each row.
    """
    schema = pa.schema([*table.schema, *(pa.field(key, TYPE) for key in images)])
    # An image that stays for several rows is stored once.
    options = {
        "use_dictionary": [f"{key}.bytes" for key in images],
        "dictionary_pagesize_limit": 2 * _GROUP_BYTES,
    }
    with pq.ParquetWriter(path, schema, compression="zstd", **options) as writer:
        for start, stop, files in _groups(table.num_rows, images):
            arrays = list(table.slice(start, stop - start).columns)
            for rows in files.values():
                structs = [{"bytes": data, "path": None} for data in rows]
                arrays.append(pa.array(structs, type=TYPE))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _groups(
    count: int, images: Mapping[str, Callable[[int], bytes]]
) -> Iterator[tuple[int, int, dict[str, list[bytes]]]]:
    """First row, last row (not included) and files of each group."""
    start, size = 0, 0
    files: dict[str, list[bytes]] = {key: [] for key in images}
    for row in range(count):
        for key, file_of in images.items():
            files[key].append(file_of(row))
            size += len(files[key][-1])
        if size >= _GROUP_BYTES or row + 1 == count:
            yield start, row + 1, files
            start, size, files = row + 1, 0, {key: [] for key in images}


@dataclass(kw_only=True)
class ImageColumn:
    """Images of one camera, over all files of a dataset.

    Attributes:
        paths: Parquet files in order.
        key: name of the column.
    """

    paths: Sequence[Path]
    key: str
    _ends: list[tuple[int, int, int]] = field(default_factory=list)
    _held: tuple[int, pa.ChunkedArray | None] = (-1, None)

    def __post_init__(self) -> None:
        end = 0
        for number, path in enumerate(self.paths):
            try:
                found = pq.ParquetFile(path)
                kind = found.schema_arrow.field(self.key).type
            except (pa.ArrowException, OSError, KeyError) as error:
                raise self._unreadable(path, error) from None
            if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
                raise InputError(
                    f"{path}: expected images inside the column {self.key!r}, got {kind}; write "
                    "the dataset again"
                )
            for group in range(found.metadata.num_row_groups):
                end += found.metadata.row_group(group).num_rows
                self._ends.append((end, number, group))

    def __len__(self) -> int:
        return self._ends[-1][0] if self._ends else 0

    def file(self, row: int) -> bytes:
        """The JPEG or PNG file of a row.

        Raises:
            InputError: the dataset cannot be read, or the row has none.
        """
        if not 0 <= row < len(self):
            raise InputError(
                f"{self.key}: expected a row below {len(self)}, got {row}; write the dataset again"
            )
        group = int(np.searchsorted([end for end, _, _ in self._ends], row, side="right"))
        if self._held[0] != group:
            self._held = group, self._read(group)
        column = self._held[1]
        assert column is not None
        before = self._ends[group - 1][0] if group else 0
        data = column[row - before]["bytes"].as_py()
        if data is None:
            raise InputError(
                f"{self.key}, row {row}: expected an image inside the dataset, got none; images in "
                "files beside it are not read"
            )
        return bytes(data)

    def rgb(self, row: int) -> Rgb:
        """The image of a row, RGB, (H, W, 3).

        Raises:
            InputError: as :meth:`file`, or it is damaged.
        """
        return decode(self.file(row), f"{self.key}, row {row}")

    def episodes(self, spans: Sequence[slice]) -> list[Rgb]:
        """Images of some stretches of rows as pixels, (T, H, W, 3) each.

        Raises:
            InputError: as :meth:`rgb`, they are not of one size, or do not fit into memory.
        """
        height, width = self.rgb(0).shape[:2]
        needed = sum(span.stop - span.start for span in spans) * height * width * 3
        if needed > _memory_bytes():
            raise InputError(
                f"{self.key}: expected images that fit into memory, but their pixels take "
                f"{needed / 1e9:.1f} GB; leave episodes out, or record smaller images"
            )
        found = []
        for span in spans:
            images = np.empty((span.stop - span.start, height, width, 3), np.uint8)
            for row in range(span.start, span.stop):
                rgb = self.rgb(row)
                if rgb.shape != images.shape[1:]:
                    raise InputError(
                        f"{self.key}: expected images of {width} x {height}, got {rgb.shape[1]} x "
                        f"{rgb.shape[0]} in row {row}; write the dataset again"
                    )
                images[row - span.start] = rgb
            found.append(images)
        return found

    def _read(self, group: int) -> pa.ChunkedArray:
        _, number, within = self._ends[group]
        path = self.paths[number]
        try:
            return pq.ParquetFile(path).read_row_group(within, columns=[self.key])[self.key]
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(path, error) from None

    def _unreadable(self, path: Path, error: Exception) -> InputError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return InputError(
            f"expected images in {self.key!r}, but {path} cannot be read ({reason}); write the "
            "dataset again"
        )


def _memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def image_statistics(count: int, rgb: Callable[[int], Rgb]) -> dict[str, Any]:
    """Statistics of each colour over some of the images, between 0 and 1, as LeRobot has them.

    Args:
        count: images there are.
        rgb: gives one of them.
    """
    chosen = np.unique(np.linspace(0, count - 1, min(count, _SAMPLES)).round().astype(int))
    histogram = np.zeros((3, 256), np.int64)
    for number in chosen.tolist():
        pixels = rgb(number).reshape(-1, 3)
        for colour in range(3):
            histogram[colour] += np.bincount(pixels[:, colour], minlength=256)
    level = np.arange(256) / 255.0
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ level
    found = {
        "min": [level[np.flatnonzero(row)[0]] for row in histogram],
        "max": [level[np.flatnonzero(row)[-1]] for row in histogram],
        "mean": mean,
        "std": np.sqrt(np.maximum(share @ level**2 - mean**2, 0.0)),
    }
    for name, part in (("q01", 0.01), ("q10", 0.1), ("q50", 0.5), ("q90", 0.9), ("q99", 0.99)):
        found[name] = [level[np.searchsorted(row.cumsum(), part)] for row in share]
    shaped: dict[str, Any] = {
        name: np.asarray(values, np.float64).reshape(3, 1, 1).tolist()
        for name, values in found.items()
    }
    return shaped | {"count": [len(chosen)]}
