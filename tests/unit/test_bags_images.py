"""Images of bags: found by time, fetched one by one, refused where they are not what they say."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import threading
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode

from policies import images
from policies.errors import InputError
from sim2real.bags.cli import bag_info
from sim2real.bags.definitions import definition, typestore
from sim2real.bags.image_recorder import ImageRecorder
from sim2real.bags.images import COMPRESSED, RAW, camera_of, compressed_cdr, parse_image
from sim2real.bags.reader import read_bag
from sim2real.bags.salvage import salvage
from sim2real.bags.writer import BagWriter

STORE = typestore()
MS = 1_000_000
T0 = 50 * 10**9
TOPIC = "/front/image_raw"
PACKED = f"{TOPIC}/compressed"
JOINTS = "sensor_msgs/msg/JointState"


def picture(number: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Smooth, and another one for each number."""
    rng = np.random.default_rng(number)
    return cv2.resize(rng.integers(0, 256, (3, 4, 3), np.uint8), (width, height))


def header(stamp_ns: int):
    time = STORE.types["builtin_interfaces/msg/Time"](
        sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9
    )
    return STORE.types["std_msgs/msg/Header"](stamp=time, frame_id="lens")


def raw_cdr(pixels: np.ndarray, stamp_ns: int, encoding: str = "rgb8", padding: int = 0) -> bytes:
    height, width = pixels.shape[:2]
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (0, padding)))
    message = STORE.types[RAW](
        header=header(stamp_ns),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.reshape(-1),
    )
    return bytes(STORE.serialize_cdr(message, RAW))


def file_cdr(data: bytes, stamp_ns: int) -> bytes:
    message = STORE.types[COMPRESSED](
        header=header(stamp_ns), format="jpeg", data=np.frombuffer(data, np.uint8)
    )
    return bytes(STORE.serialize_cdr(message, COMPRESSED))


def joints_cdr(stamp_ns: int) -> bytes:
    zeros = np.zeros(3)
    message = STORE.types[JOINTS](
        header=header(stamp_ns), name=["a", "b", "c"], position=zeros, velocity=zeros, effort=zeros
    )
    return bytes(STORE.serialize_cdr(message, JOINTS))


def entries(count: int = 12) -> list[tuple[str, str, int, bytes]]:
    """Raw images, JPEG images and joint states, mixed."""
    found = []
    for i in range(count):
        stamp = T0 + 33 * MS * i
        jpeg = images.encode(picture(i), "jpeg", "test")
        found += [
            ("/joint_states", JOINTS, stamp, joints_cdr(stamp)),
            (TOPIC, RAW, stamp, raw_cdr(picture(i), stamp - 2 * MS, padding=i % 3)),
            ("/joint_states", JOINTS, stamp + MS, joints_cdr(stamp + MS)),
            (PACKED, COMPRESSED, stamp + 2 * MS, file_cdr(jpeg, stamp - MS)),
        ]
    return found


def ours(path: Path, items) -> Path:
    with BagWriter(path, provenance={"robot": "toy"}) as writer:
        for topic, msgtype, log_ns, cdr in items:
            writer.add_topic(topic, msgtype)
            writer.write(topic, cdr, log_ns)
    return path


def mcap(path: Path, items, *, compression: CompressionType, chunked: bool) -> Path:
    with path.with_suffix(".mcap").open("wb") as stream:
        writer = McapWriter(stream, compression=compression, chunk_size=4096, use_chunking=chunked)
        writer.start("ros2")
        channels = {}
        for topic, msgtype, log_ns, cdr in items:
            if topic not in channels:
                schema = writer.register_schema(msgtype, "ros2msg", definition(msgtype).encode())
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            writer.add_message(channels[topic], log_ns, cdr, log_ns)
        writer.finish()
    return path.with_suffix(".mcap")


def sqlite(path: Path, items, *, compressed: bool) -> Path:
    writer = Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3)
    if compressed:
        writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, msgtype, log_ns, cdr in items:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, msgtype, typestore=STORE)
            writer.write(connections[topic], log_ns, cdr)
    return path


NONE, LZ4, ZSTD = CompressionType.NONE, CompressionType.LZ4, CompressionType.ZSTD
STORAGES = {
    "ours": ours,
    "zstd": lambda path, items: mcap(path, items, compression=ZSTD, chunked=True),
    "lz4": lambda path, items: mcap(path, items, compression=LZ4, chunked=True),
    "plain": lambda path, items: mcap(path, items, compression=NONE, chunked=True),
    "unchunked": lambda path, items: mcap(path, items, compression=NONE, chunked=False),
    "sqlite": lambda path, items: sqlite(path, items, compressed=False),
    "sqlite-zstd": lambda path, items: sqlite(path, items, compressed=True),
}


@pytest.mark.parametrize("storage", STORAGES)
def test_each_image_is_found_again_by_its_time(storage, tmp_path):
    items = entries()
    bag = read_bag(STORAGES[storage](tmp_path / "bag", items))
    found = bag.images_of([TOPIC, PACKED])
    raw, packed = found[TOPIC], found[PACKED]
    for topic, kind in ((raw, RAW), (packed, COMPRESSED)):
        places = [i for i, item in enumerate(items) if item[1] == kind]
        assert topic.sequence.tolist() == places
        assert topic.log_ns.tolist() == [items[i][2] for i in places]
    assert (raw.stamp_ns == T0 - 2 * MS + 33 * MS * np.arange(12)).all()
    assert (packed.stamp_ns == raw.stamp_ns + MS).all()
    assert raw.camera == packed.camera == "front"
    for i in (7, 0, 11, 3, 3):
        np.testing.assert_array_equal(raw[i].rgb(), picture(i))
        np.testing.assert_array_equal(packed[i].rgb(), images.decode(packed[i].data, "x"))
        assert packed[i].packed()[0] == images.encode(picture(i), "jpeg", "test")
        assert raw[i].frame_id == packed[i].frame_id == "lens"
    assert raw[4].size() == packed[4].size() == (24, 32)
    states = bag.columns("/joint_states")
    assert len(states) == 24, "other topics are read as before"


def test_reading_images_keeps_no_more_than_a_chunk(tmp_path):
    rng = np.random.default_rng(0)
    noise = lambda: rng.integers(0, 256, (120, 160, 3), np.uint8)  # noqa: E731 (58 kB)
    items = [(TOPIC, RAW, T0 + i, raw_cdr(noise(), T0 + i)) for i in range(400)]
    bag = read_bag(ours(tmp_path / "bag", items))
    assert bag.info.size_bytes > 20e6
    tracemalloc.start()
    stream = bag.images_of([TOPIC])[TOPIC]
    index = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    for i in range(len(stream)):
        assert stream[i].rgb().shape == (120, 160, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert index < 200_000
    assert peak < 4e6


def test_a_bag_that_has_changed_is_refused(tmp_path):
    path = ours(tmp_path / "bag", entries())
    stream = read_bag(path).images_of([TOPIC])[TOPIC]
    os.utime(path / "bag_0.mcap", ns=(1, 1))
    with pytest.raises(InputError, match="its files have changed"):
        stream[0].rgb()


def test_topics_that_are_no_cameras_are_refused(tmp_path):
    bag = read_bag(ours(tmp_path / "bag", entries(2)))
    with pytest.raises(InputError, match="expected sensor_msgs/msg/Image or"):
        bag.images_of(["/joint_states"])
    with pytest.raises(InputError, match="expected topic /back"):
        bag.images_of(["/back"])


@pytest.mark.parametrize(
    ("topic", "camera"),
    [
        ("/front/image_raw/compressed", "front"),
        ("/front/image_raw", "front"),
        ("/camera/color/image_raw", "camera_color"),
        ("/eye", "eye"),
        ("/image_raw", "camera"),
    ],
)
def test_name_of_a_camera(topic, camera):
    assert camera_of(topic) == camera


# ---- damaged and hostile images ----------------------------------------------------------------

JPEG = images.encode(picture(0), "jpeg", "test")
PNG = images.encode(picture(0), "png", "test")


def png_claiming(width: int, height: int, colour: int = 2) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    end = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + chunk + end


def jpeg_claiming(width: int, height: int) -> bytes:
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "got 0 bytes"),
        (b"no image", "begins with the bytes of neither"),
        (JPEG[: len(JPEG) // 2], "it is cut off"),
        (JPEG[:3], "it is cut off"),
        (b"\xff\xd8\xff\xd9", "ends inside its header"),
        (b"\xff\xd8\xff\xda\x00\x02\xff\xd9", "has no size"),
        (b"\xff\xd8\xff\xe0\x00\x00\xff\xd9", "has no size"),
        (b"\xff\xd8\x00\x00\xff\xd9", "do not follow one another"),
        (PNG[: len(PNG) // 2], "ends inside its header|checksum"),
        (PNG[:-1], "ends inside its header"),
        (PNG[:40] + bytes([PNG[40] ^ 1]) + PNG[41:], "checksum of a chunk"),
        (PNG[:8] + PNG[33:], "does not begin with its size"),
        (png_claiming(2**30, 2**30), f"claims {2**30} x {2**30}"),
        (png_claiming(0, 7), "claims 0 x 7"),
        (png_claiming(8, 8, colour=5), "colour type 5"),
        (png_claiming(8, 8), "OpenCV can decode"),
        (jpeg_claiming(65000, 65000), "claims 65000 x 65000"),
        (jpeg_claiming(0, 0), "claims 0 x 0"),
    ],
)
def test_a_bad_image_is_one_sentence(data, words):
    with pytest.raises(InputError, match=rf"the camera: expected[^\n]*({words})") as caught:
        images.decode(data, "the camera")
    assert "\n" not in str(caught.value)


def test_a_claim_of_many_pixels_costs_no_memory():
    tracemalloc.start()
    with pytest.raises(InputError, match="of 1 to 16777216 pixels"):
        images.decode(png_claiming(40_000, 40_000), "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_random_damage_never_gets_past_as_another_error():
    rng = np.random.default_rng(1)
    for data in (JPEG, PNG):
        for _ in range(150):
            broken = bytearray(data)
            for place in rng.integers(0, len(data), 3):
                broken[place] = rng.integers(256)
            with contextlib.suppress(InputError):
                assert images.decode(bytes(broken), "x").shape[2] == 3


def test_random_damage_of_messages_is_one_sentence():
    rng = np.random.default_rng(2)
    for cdr, kind in ((raw_cdr(picture(0), T0), RAW), (file_cdr(JPEG, T0), COMPRESSED)):
        for _ in range(300):
            broken = bytearray(cdr[: rng.integers(4, len(cdr) + 1)])
            for place in rng.integers(0, min(len(broken), 80), 2):
                broken[place] = rng.integers(256)
            with contextlib.suppress(InputError):
                assert parse_image(bytes(broken), kind, "x").rgb().shape[2] == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "16UC1"}, "expected an encoding out of"),
        ({"height": 25}, "expected rows of at least 96 bytes and 25 of them"),
        ({"step": 3}, "expected rows of at least 96 bytes"),
        ({"height": 2**31, "width": 2**31}, "expected an image of 1 to"),
    ],
)
def test_raw_images_that_contradict_themselves(change, words):
    size = {"height": 24, "width": 32, "step": 96, "encoding": "rgb8"} | change
    with pytest.raises(InputError, match=f"lens: {words}"):
        images.from_raw(picture(0).tobytes(), what="lens", **size)


def test_images_are_the_same_in_either_byte_order():
    message = STORE.deserialize_cdr(raw_cdr(picture(5), T0), RAW)
    big = STORE.serialize_cdr(message, RAW, little_endian=False)
    image = parse_image(bytes(big), RAW, "x")
    assert image.stamp_ns == T0
    np.testing.assert_array_equal(image.rgb(), picture(5))


def test_what_other_readers_would_see_otherwise_is_stored_as_plain_rgb():
    grey = cv2.imencode(".jpg", picture(1)[..., 0])[1].tobytes()
    palette_free = cv2.imencode(".png", cv2.cvtColor(picture(1), cv2.COLOR_RGB2BGRA))[1].tobytes()
    for data in (grey, palette_free):
        image = parse_image(file_cdr(data, T0), COMPRESSED, "x")
        file, found = image.packed()
        assert (found.format, found.plain) == ("png", True)
        np.testing.assert_array_equal(images.decode(file, "x"), image.rgb())


def test_large_images_shrink_in_their_proportions():
    assert images.shrink(picture(0), 16, "x").shape == (12, 16, 3)
    assert images.shrink(picture(0), 32, "x").shape == (24, 32, 3)


# ---- recording ---------------------------------------------------------------------------------


def recorder(writer: BagWriter, record: str, **options):
    warnings: list[str] = []
    made = ImageRecorder(writer, record, on_error=pytest.fail, warn=warnings.append, **options)
    return made, warnings


@pytest.mark.parametrize(("record", "worst"), [("raw", 0), ("lossless", 0), ("compressed", 4)])
def test_recorded_images_are_what_was_sent(record, worst, tmp_path):
    with BagWriter(tmp_path / "bag", provenance={}) as writer:
        cameras, warnings = recorder(writer, record)
        cameras.add(TOPIC, RAW)
        for i in range(5):
            cdr = raw_cdr(picture(i), T0 + i * MS)
            cameras.take(TOPIC, cdr, T0 + i * MS, sent=(b"lens", 1 + i))
        cameras.close()
    assert warnings == []
    topic = TOPIC if record == "raw" else PACKED
    stream = read_bag(tmp_path / "bag").images_of([topic])[topic]
    assert stream.stamp_ns.tolist() == [T0 + i * MS for i in range(5)]
    for i in range(5):
        difference = np.abs(stream[i].rgb().astype(int) - picture(i))
        assert difference.mean() <= worst
    assert cameras.counts() == {
        "front": {"received": 5, "written": 5, "dropped": 0, "lost": 0, "refused": 0}
    }
    with Reader(tmp_path / "bag") as reader:  # as anybody else reads it
        assert reader.message_count == 5


def test_files_are_recorded_as_they_come(tmp_path):
    with BagWriter(tmp_path / "bag", provenance={}) as writer:
        cameras, _ = recorder(writer, "lossless")
        cameras.add(PACKED, COMPRESSED)
        cameras.take(PACKED, file_cdr(JPEG, T0), T0)
        cameras.close()
    assert bytes(read_bag(tmp_path / "bag").images_of([PACKED])[PACKED][0].data) == JPEG


def test_what_is_left_out_is_counted_and_said(tmp_path):
    """The buffer holds two images, one is lost on the way, one cannot be compressed."""
    cdr = raw_cdr(picture(0), T0)
    strange = raw_cdr(picture(0)[..., :2], T0, encoding="yuv422")
    free = threading.Event()
    with BagWriter(tmp_path / "bag", provenance={"robot": "toy"}) as writer:
        write = writer.write
        writer.write = lambda *args: (free.wait(30.0), write(*args))
        cameras, warnings = recorder(writer, "compressed", buffer_bytes=2 * len(cdr) + 100)
        cameras.add(TOPIC, RAW)
        for number in (1, 2, 4, 5, 6):  # 3 never came; there is no room for 4, 5 and 6
            cameras.take(TOPIC, cdr, T0, sent=(b"lens", number))
        free.set()
        cameras.close()
        cameras.take(TOPIC, cdr, T0)
        late = cameras.counts()["front"]
        other, more = recorder(writer, "compressed")
        other.add("/hand/image_raw", RAW)
        other.take("/hand/image_raw", strange, T0)
        other.take("/hand/image_raw", strange, T0)
        other.close()
    assert late == {"received": 6, "written": 2, "dropped": 4, "lost": 1, "refused": 0}
    assert len(warnings) == 1
    assert "the buffer is full" in warnings[0]
    assert other.counts()["hand"]["refused"] == 2
    assert [word for word in more if "'yuv422'" in word] == more
    assert len(more) == 1
    told = read_bag(tmp_path / "bag").info.provenance
    assert (told["robot"], told["camera.front.dropped"], told["camera.front.lost"]) == (
        "toy",
        "3",
        "1",
    )
    assert told["camera.hand.refused"] == "2"
    with (tmp_path / "bag" / "bag_0.mcap").open("rb") as stream:
        assert make_reader(stream).get_summary().statistics.message_count == 2


def test_a_second_publisher_is_no_loss(tmp_path):
    with BagWriter(tmp_path / "bag", provenance={}) as writer:
        cameras, _ = recorder(writer, "raw")
        cameras.add(TOPIC, RAW)
        for sent in ((b"a", 7), (b"a", 8), (b"b", 1), (b"b", 2), (b"b", 1)):
            cameras.take(TOPIC, raw_cdr(picture(0), T0), T0, sent=sent)
        cameras.close()
    assert cameras.counts()["front"]["lost"] == 0


def test_a_full_disk_is_reported_once_and_nobody_hangs(tmp_path):
    with BagWriter(tmp_path / "bag", provenance={}) as writer:
        errors = []
        cameras = ImageRecorder(writer, "raw", on_error=errors.append, warn=lambda _: None)
        cameras.add(TOPIC, RAW)

        def full(*_):
            raise OSError(28, "No space left on device")

        write, writer.write = writer.write, full
        for _ in range(4):
            cameras.take(TOPIC, raw_cdr(picture(0), T0), T0)
        cameras.close()
        writer.write = write
    assert [error.errno for error in errors] == [28]
    counts = cameras.counts()["front"]
    assert counts["written"] == 0


def test_unknown_ways_to_record_are_refused(tmp_path):
    with (
        BagWriter(tmp_path / "bag", provenance={}) as writer,
        pytest.raises(InputError, match="images: expected one out of"),
    ):
        recorder(writer, "mjpeg")


def test_compression_keeps_the_header():
    image = parse_image(raw_cdr(picture(3), T0 + 5), RAW, "x")
    packed = parse_image(compressed_cdr(image, "png"), COMPRESSED, "x")
    assert (packed.stamp_ns, packed.frame_id) == (T0 + 5, "lens")
    np.testing.assert_array_equal(packed.rgb(), picture(3))


# ---- info and salvage --------------------------------------------------------------------------


def test_bag_info_tells_sizes_and_counts(tmp_path, capsys):
    path = ours(tmp_path / "bag", entries())
    bag_info(path, json=tmp_path / "info.json")
    printed = capsys.readouterr().out
    assert "images on /front/image_raw: 32 x 24 rgb8" in printed
    assert "images on /front/image_raw/compressed: 32 x 24 jpeg" in printed
    info = json.loads((tmp_path / "info.json").read_text())
    sizes = {topic["name"]: (topic["count"], topic["size_bytes"]) for topic in info["topics"]}
    wanted = sum(len(cdr) for topic, _, _, cdr in entries() if topic == PACKED)
    assert sizes[PACKED] == (12, wanted)
    assert info["images"][PACKED] == "32 x 24 jpeg"


def test_bag_info_says_what_is_wrong_with_an_image(tmp_path, capsys):
    bag_info(ours(tmp_path / "bag", [(PACKED, COMPRESSED, T0, file_cdr(JPEG[:50], T0))]))
    assert "expected a whole JPEG or PNG image" in capsys.readouterr().out


def test_salvage_brings_images_back(tmp_path):
    items = [(TOPIC, RAW, T0 + i, raw_cdr(picture(i, 120, 160), T0 + i)) for i in range(40)]
    path = ours(tmp_path / "bag", items)
    file = path / "bag_0.mcap"
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "bag_0.mcap").write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    report = salvage(broken, tmp_path / "rescued")
    stream = read_bag(tmp_path / "rescued").images_of([TOPIC])[TOPIC]
    assert 0 < len(stream) == report.topics[TOPIC] < 40
    for i in (0, len(stream) - 1):
        np.testing.assert_array_equal(stream[i].rgb(), picture(i, 120, 160))
    damaged = read_bag(broken, allow_damage=True)
    assert len(damaged.images_of([TOPIC])[TOPIC]) == len(stream)
    shutil.rmtree(broken)
