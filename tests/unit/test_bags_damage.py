"""Truncated and altered bags: one clear error on reading, every whole chunk on salvage."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader

from policies.errors import InputError
from sim2real.bags.batch import DamageError
from sim2real.bags.cli import bag_info, bag_salvage
from sim2real.bags.compression import decompress
from sim2real.bags.mcap_records import MAGIC
from sim2real.bags.mcap_stream import McapStream
from sim2real.bags.reader import read_bag
from sim2real.bags.salvage import salvage
from sim2real.bags.writer import BagWriter

MS = 1_000_000
PER_CHUNK = 30
MESSAGE_BYTES = 9000  # 256 kB chunks close after 30 of them


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bag of three chunks: two of 30 messages, one of 10."""
    path = tmp_path_factory.mktemp("damage") / "bag"
    rng = np.random.default_rng(0)
    with BagWriter(path, provenance={"robot": "panda"}) as writer:
        writer.add_topic("/blob", "std_msgs/msg/String")
        for i in range(2 * PER_CHUNK + 10):
            writer.write("/blob", blob(rng), i * MS)
    return path


def blob(rng: np.random.Generator) -> bytes:
    """A String of random letters, ``MESSAGE_BYTES`` long."""
    body = rng.integers(97, 110, MESSAGE_BYTES - 9, dtype=np.uint8).tobytes()
    return b"\x00\x01\x00\x00" + struct.pack("<I", len(body) + 1) + body + b"\x00"


def file_of(bag: Path) -> Path:
    return bag / "bag_0.mcap"


def chunk_ends(path: Path) -> list[int]:
    with path.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    return [c.chunk_start_offset + c.chunk_length for c in summary.chunk_indexes]


def whole_chunks(ends: list[int], cut: int) -> int:
    counts = [PER_CHUNK, PER_CHUNK, 10]
    return sum(n for n, end in zip(counts, ends, strict=True) if end <= cut)


def test_the_fixture_is_what_the_tests_assume(bag: Path) -> None:
    assert len(chunk_ends(file_of(bag))) == 3
    with file_of(bag).open("rb") as stream:  # the reference reader agrees, checksums and all
        records = list(StreamReader(stream, validate_crcs=True).records)
    assert sum(type(r).__name__ == "Message" for r in records) == 2 * PER_CHUNK + 10


def test_truncation_anywhere_is_an_input_error_and_salvage_gets_whole_chunks(
    bag: Path, tmp_path: Path
) -> None:
    data = file_of(bag).read_bytes()
    ends = chunk_ends(file_of(bag))
    edges = [k + d for k in (0, 8, *ends, len(data)) for d in (-2, -1, 0, 1, 9)]
    cuts = sorted({c for c in (*edges, *range(0, len(data), 9973)) if 0 <= c < len(data)})
    cut_file = tmp_path / "cut.mcap"
    for cut in cuts:
        cut_file.write_bytes(data[:cut])
        with pytest.raises(InputError, match=r"realign bag salvage") as raised:
            read_bag(cut_file)
        assert "\n" not in str(raised.value)
        expected = whole_chunks(ends, cut)
        out = tmp_path / f"out{cut}"
        if expected == 0:
            with pytest.raises(InputError, match="nothing in"):
                salvage(cut_file, out)
            assert not out.exists()
            continue
        report = salvage(cut_file, out)
        assert report.messages == expected
        assert report.topics == {"/blob": expected}
        assert len(report.damage) == 1
        rescued = read_bag(out).info
        assert rescued.message_count == expected
        assert rescued.provenance["truncated"] == "true"
        assert rescued.provenance["robot"] == "panda"
        assert rescued.damage == ()


@settings(max_examples=80)
@given(data=st.data())
def test_any_flipped_byte_is_noticed(
    bag: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(file_of(bag).read_bytes())
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    flipped = tmp_path_factory.mktemp("flip") / "flipped.mcap"
    flipped.write_bytes(whole)
    with pytest.raises(InputError):
        read_bag(flipped)


def test_salvage_leaves_out_a_bad_chunk_and_goes_on(bag: Path, tmp_path: Path) -> None:
    data = bytearray(file_of(bag).read_bytes())
    ends = chunk_ends(file_of(bag))
    data[ends[1] - 2000] ^= 0xFF
    (tmp_path / "bag_0.mcap").write_bytes(data)
    report = salvage(tmp_path, tmp_path / "out")
    assert report.messages == PER_CHUNK + 10
    assert "chunk at byte" in report.damage[0]
    stamps = read_bag(tmp_path / "out").columns("/blob").log_ns // MS
    np.testing.assert_array_equal(stamps, [*range(30), *range(60, 70)])


def test_salvage_of_a_whole_bag_says_that_nothing_is_lost(bag: Path, tmp_path: Path) -> None:
    report = salvage(bag, tmp_path / "out")
    assert report.damage == ()
    assert "truncated" not in read_bag(tmp_path / "out").info.provenance
    assert read_bag(bag).columns("/blob").text == read_bag(tmp_path / "out").columns("/blob").text


def test_salvage_refuses_what_it_cannot_do(bag: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        salvage(bag, tmp_path)
    with pytest.raises(InputError, match="there is no"):
        salvage(tmp_path / "no", tmp_path / "out")
    (tmp_path / "a.db3").write_bytes(b"")
    with pytest.raises(InputError, match="MCAP storage"):
        salvage(tmp_path / "a.db3", tmp_path / "out")


def test_a_killed_recorder_leaves_whole_chunks_and_provenance_on_disk(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag", provenance={"seed": "1"})
    writer.add_topic("/blob", "std_msgs/msg/String")
    rng = np.random.default_rng(1)
    for i in range(PER_CHUNK + 5):
        writer.write("/blob", blob(rng), i)
    # not closed: this is what the disk holds if the process dies now
    report = salvage(tmp_path / "bag", tmp_path / "out")
    assert report.messages == PER_CHUNK
    assert read_bag(tmp_path / "out").info.provenance["seed"] == "1"
    writer.close()
    assert read_bag(tmp_path / "bag").info.message_count == PER_CHUNK + 5


def test_info_and_salvage_on_the_command_line(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(file_of(bag).read_bytes()[:-100])
    bag_info(cut)
    assert "DAMAGE" in capsys.readouterr().out
    bag_salvage(cut, tmp_path / "out")
    assert "70 messages of 1 topics" in capsys.readouterr().out


def chunk_file(path: Path, content: bytes, *, claimed: int, compression: bytes, crc: int) -> Path:
    body = struct.pack("<QQQI", 0, 0, claimed, crc)
    body += struct.pack("<I", len(compression)) + compression
    body += struct.pack("<Q", len(content)) + content
    header = struct.pack("<BQ", 1, 8) + bytes(8)
    path.write_bytes(MAGIC + header + struct.pack("<BQ", 6, len(body)) + body)
    return path


def test_decompression_bombs_are_refused_before_they_unfold(tmp_path: Path) -> None:
    bomb = zstandard.compress(bytes(400 * 2**20))
    honest = chunk_file(tmp_path / "a.mcap", bomb, claimed=400 * 2**20, compression=b"zstd", crc=0)
    lying = chunk_file(tmp_path / "b.mcap", bomb, claimed=1000, compression=b"zstd", crc=0)
    for path in (honest, lying):
        with pytest.raises(DamageError, match="uncompressed"):
            list(McapStream(path=path).messages())
    assert len(decompress(bomb, "zstd", 1000)) == 1001


def test_chunk_checks(tmp_path: Path) -> None:
    good = b"\x00" * 9  # opcode 0, length 0: an unknown record, skipped
    crc = zlib.crc32(good)
    for name, compression, checksum, match in (
        ("c.mcap", b"", crc ^ 1, "checksum"),
        ("d.mcap", b"rot13", crc, "rot13"),
        ("e.mcap", b"zstd", crc, "cannot be uncompressed"),
        ("f.mcap", b"lz4", crc, "cannot be uncompressed"),
        ("g.mcap", b"", crc, "without a footer"),
    ):
        path = chunk_file(tmp_path / name, good, claimed=9, compression=compression, crc=checksum)
        with pytest.raises(DamageError, match=match):
            list(McapStream(path=path).messages())


def test_a_tiny_bag_cut_at_every_byte(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag", provenance={"a": "b"}) as writer:
        writer.add_topic("/n", "std_msgs/msg/Int32")
        writer.write("/n", b"\x00\x01\x00\x00\x05\x00\x00\x00", 1)
    data = file_of(tmp_path / "bag").read_bytes()
    (end,) = chunk_ends(file_of(tmp_path / "bag"))
    cut_file = tmp_path / "cut.mcap"
    for cut in range(len(data)):
        cut_file.write_bytes(data[:cut])
        with pytest.raises(InputError, match="salvage"):
            read_bag(cut_file)
        assert read_bag(cut_file, allow_damage=True).info.message_count == (cut >= end)
