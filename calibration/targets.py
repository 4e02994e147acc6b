"""Calibration boards: their geometry, and prints of them at true scale (PNG and PDF)."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from calibration.files import read_json
from calibration.transforms import Float

Gray = NDArray[np.uint8]
KINDS = ("charuco", "chessboard")
DPI = 300.0
_MM_PER_INCH = 25.4
_MARGIN_M = 0.01
_CAPTION_M = 0.012
_FEWEST_SQUARES, _MOST_SQUARES = 3, 50


@dataclass(frozen=True, kw_only=True)
class Target:
    """A flat board. Its frame: origin at the print's upper left corner, x right, y down, z into it.

    Attributes:
        kind: ``charuco`` or ``chessboard``.
        columns, rows: number of squares.
        square_m: edge of a square, m.
        marker_m: edge of a ChArUco marker, m; unused for a chessboard.
        dictionary: ArUco dictionary, e.g. ``DICT_5X5_250``.
    """

    kind: str = "charuco"
    columns: int = 7
    rows: int = 5
    square_m: float = 0.04
    marker_m: float = 0.03
    dictionary: str = "DICT_5X5_250"

    def __post_init__(self) -> None:
        """Check that such a board can be made.

        Raises:
            CalibrationError: what is wrong.
        """
        if self.kind not in KINDS:
            raise CalibrationError(
                f"expected a board of kind {' or '.join(KINDS)}, got {self.kind!r}; choose one"
            )
        for count in (self.columns, self.rows):
            if not _FEWEST_SQUARES <= count <= _MOST_SQUARES:
                raise CalibrationError(
                    f"expected {_FEWEST_SQUARES} to {_MOST_SQUARES} squares a side, got {count}; "
                    "count the squares, black and white"
                )
        if not 0.002 <= self.square_m <= 1.0:
            raise CalibrationError(
                f"expected squares of 2 to 1000 mm, got {self.square_m * 1e3:g} mm; "
                "give the edge in millimetres"
            )
        if self.kind == "charuco":
            self._check_markers()

    def _check_markers(self) -> None:
        if not 0.4 * self.square_m <= self.marker_m <= 0.9 * self.square_m:
            raise CalibrationError(
                f"expected markers of 0.4 to 0.9 of the {self.square_m * 1e3:g} mm squares, got "
                f"{self.marker_m * 1e3:g} mm; 0.75 is usual"
            )
        number = getattr(cv2.aruco, self.dictionary, None)
        if not self.dictionary.startswith("DICT_") or not isinstance(number, int):
            raise CalibrationError(
                f"expected a dictionary of OpenCV such as DICT_5X5_250, got {self.dictionary!r}; "
                "read the name off the board's caption"
            )
        have = len(cv2.aruco.getPredefinedDictionary(number).bytesList)
        if have < self.columns * self.rows // 2:
            raise CalibrationError(
                f"expected at most {2 * have} squares with {self.dictionary}, got "
                f"{self.columns} x {self.rows}; choose a larger dictionary"
            )

    def board(self) -> Any:
        """The ``cv2.aruco.CharucoBoard``; for ``charuco`` only."""
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.dictionary))
        return cv2.aruco.CharucoBoard(
            (self.columns, self.rows), self.square_m, self.marker_m, dictionary
        )

    def corners_m(self) -> Float:
        """Inner corners in the board's frame by id, row by row, (N, 3), m."""
        x, y = np.meshgrid(np.arange(1, self.columns), np.arange(1, self.rows))
        flat = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
        return np.asarray(flat * self.square_m, float)

    def size_m(self) -> tuple[float, float]:
        """Width and height of the squares together, m."""
        return self.columns * self.square_m, self.rows * self.square_m

    def draw(self, pixels_per_square: int) -> Gray:
        """The board without margin, (rows * p, columns * p), black 0 and white 255."""
        p = pixels_per_square
        if self.kind == "charuco":
            image = self.board().generateImage((self.columns * p, self.rows * p), marginSize=0)
            return np.asarray(image, np.uint8)
        y, x = np.indices((self.rows, self.columns))
        squares = np.where((x + y) % 2 == 0, 0, 255).astype(np.uint8)
        return np.repeat(np.repeat(squares, p, axis=0), p, axis=1)

    def caption(self) -> str:
        """What the print says of itself."""
        text = f"{self.kind} {self.columns}x{self.rows}, square {self.square_m * 1e3:g} mm"
        if self.kind == "charuco":
            text += f", marker {self.marker_m * 1e3:g} mm, {self.dictionary}"
        return text

    def save(self, path: Path) -> None:
        """Write the description as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_target(path: Path) -> Target:
    """Read a description.

    Raises:
        CalibrationError: the file is not one, or describes no possible board.
    """
    content = read_json(path, "a board description of `realign calibrate target`")
    kinds = {name: type(value) for name, value in asdict(Target()).items()}
    right = content.keys() == kinds.keys() and all(
        isinstance(content[name], (int, float) if kind is float else kind)
        and not isinstance(content[name], bool)
        for name, kind in kinds.items()
    )
    if not right:
        raise CalibrationError(
            f"expected a board description with {', '.join(kinds)}, got {path} with "
            f"{', '.join(content) or 'nothing'} or values of other types; make one with "
            "`realign calibrate target`"
        )
    return Target(**content)


def print_page(target: Target) -> tuple[Gray, float]:
    """The board with margin and caption for printing.

    Returns:
        The page, black and white, and its scale in pixels per metre: about 300 dpi, and such that
        a square is a whole number of pixels, so that nothing is rounded.
    """
    per_square = max(8, round(target.square_m * DPI * 1e3 / _MM_PER_INCH))
    scale = per_square / target.square_m
    margin, caption = round(_MARGIN_M * scale), round(_CAPTION_M * scale)
    board = target.draw(per_square)
    height, width = board.shape
    page = np.full((height + 2 * margin + caption, width + 2 * margin), 255, np.uint8)
    page[margin : margin + height, margin : margin + width] = board
    text = target.caption()
    size = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 2)[0]
    zoom = min(0.004 * scale / size[1], width / size[0])
    place = (margin, margin + height + caption)
    cv2.putText(page, text, place, cv2.FONT_HERSHEY_SIMPLEX, zoom, 0, max(1, round(2 * zoom)))
    return page, scale


def png_bytes(page: Gray, pixels_per_m: float) -> bytes:
    """PNG with its scale (pHYs), so that printing at 100 % gives the true size."""
    encoded = cv2.imencode(".png", page)[1].tobytes()
    size = struct.pack(">IIB", round(pixels_per_m), round(pixels_per_m), 1)
    chunk = struct.pack(">I", 9) + b"pHYs" + size
    chunk += struct.pack(">I", zlib.crc32(b"pHYs" + size))
    after_header = 8 + 25
    return encoded[:after_header] + chunk + encoded[after_header:]


def pdf_bytes(page: Gray, pixels_per_m: float) -> bytes:
    """PDF of one page with the image at true size, one bit a pixel."""
    height, width = page.shape
    points = 72.0 * 1e3 / _MM_PER_INCH / pixels_per_m
    w, h = width * points, height * points
    image = zlib.compress(np.packbits(page >= 128, axis=1).tobytes(), 9)
    content = f"q {w:.4f} 0 0 {h:.4f} 0 0 cm /Board Do Q".encode()
    # without PrintScaling a viewer fits the page to the paper, which changes the squares
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R /ViewerPreferences << /PrintScaling /None >> >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {w:.4f} {h:.4f}] /Contents 4 0 R "
        "/Resources << /XObject << /Board 5 0 R >> >> >>".encode(),
        _stream(b"", content),
        _stream(
            f"/Type /XObject /Subtype /Image /Width {width} /Height {height} /BitsPerComponent 1 "
            "/ColorSpace /DeviceGray /Filter /FlateDecode ".encode(),
            image,
        ),
    ]
    out = b"%PDF-1.4\n"
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n".encode() + content + b"\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    trailer = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n"
    trailer += f"<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return out + trailer.encode()


def _stream(entries: bytes, data: bytes) -> bytes:
    head = b"<< " + entries + f"/Length {len(data)} >>\nstream\n".encode()
    return head + data + b"\nendstream"
