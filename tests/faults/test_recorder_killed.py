"""kill -9 of a process that writes a bag, at random moments: every whole chunk comes back."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from policies.errors import InputError
from sim2real.bags.reader import read_bag
from sim2real.bags.salvage import salvage
from sim2real.bags.writer import BagWriter

# Says how many messages are on disk whenever a chunk has got there.
RECORDER = """
import sys
from pathlib import Path
import numpy as np
from sim2real.bags.writer import BagWriter

rng = np.random.default_rng(0)
writer = BagWriter(Path(sys.argv[1]), provenance={"robot": "panda"})
writer.add_topic("/n", "std_msgs/msg/String")
size = 0
for k in range(10**9):
    text = f"{k:012d}".encode() + rng.integers(97, 123, 900, dtype=np.uint8).tobytes()
    cdr = b"\\x00\\x01\\x00\\x00" + (len(text) + 1).to_bytes(4, "little") + text + b"\\x00"
    writer.write("/n", cdr, k)
    if (now := writer._file.stat().st_size) != size:
        size = now
        print(k, flush=True)
"""


def kill_one(folder, delay_s):
    """Messages that were on disk by the writer's own word, and those recovered."""
    process = subprocess.Popen(
        [sys.executable, "-c", RECORDER, str(folder / "bag")], stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()  # the header is on disk
    process.stdout.readline()  # and a first chunk
    time.sleep(delay_s)
    os.kill(process.pid, signal.SIGKILL)
    told = process.communicate()[0].split("\n")[:-1]  # the last line may be cut
    on_disk = int(told[-1]) if told else 0
    report = salvage(folder / "bag", folder / "rescued")
    numbers = [int(text[:12]) for text in read_bag(folder / "rescued").columns("/n").text]
    assert numbers == list(range(report.messages))  # none missing, none twice, in order
    return on_disk, report.messages


@pytest.mark.parametrize(
    "kills", [2, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_a_recorder_killed_at_random_leaves_every_whole_chunk(kills, tmp_path, capsys):
    rng = np.random.default_rng(7)
    lines = []
    for k in range(kills):
        folder = tmp_path / str(k)
        folder.mkdir()
        on_disk, recovered = kill_one(folder, float(rng.uniform(0.0, 0.3)))
        # A message that closes a chunk is in it: on disk by then are as many as its number, or one
        # more; what came after the last word may have got there too.
        assert recovered >= on_disk
        lines.append(f"kill {k}: {on_disk} messages known to be on disk, {recovered} recovered")
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def write(path, value):
    with BagWriter(path, provenance={"robot": "panda"}) as writer:
        writer.add_topic("/n", "std_msgs/msg/Int32")
        writer.write("/n", b"\x00\x01\x00\x00" + value.to_bytes(4, "little"), 1)
    return path / f"{path.name}_0.mcap"


def test_the_manifest_notices_what_checksums_of_the_format_cannot(tmp_path):
    """A file in which every checksum is right, but which is not the one that was recorded."""
    path, other = write(tmp_path / "bag", 1), write(tmp_path / "other", 2)
    path.write_bytes(other.read_bytes())
    with pytest.raises(InputError, match=r"bag_0.mcap was altered after the bag was closed"):
        read_bag(tmp_path / "bag")
    damage = read_bag(tmp_path / "bag", allow_damage=True).info.damage
    assert len(damage) == 1
    (tmp_path / "bag/manifest.json").unlink()
    assert read_bag(tmp_path / "bag").info.damage == ()
    path.unlink()
    with pytest.raises(InputError):
        read_bag(tmp_path / "bag")


def content(bag):
    """Everything that is told of a bag, without its path."""
    read = read_bag(bag)
    told = [read.info.topics, read.info.provenance]
    for topic in read.info.topics:
        columns = read.columns(topic.name)
        told += [columns.stamp_ns.tolist(), {k: v.tolist() for k, v in columns.arrays.items()}]
    return told


@pytest.mark.parametrize(
    "places", [40, pytest.param(10**6, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
@pytest.mark.parametrize("name", ["bag_0.mcap", "metadata.yaml", "manifest.json"])
def test_no_byte_of_a_bag_changes_what_is_read_unnoticed(name, places, tmp_path):
    write(tmp_path / "bag", 1)
    file, whole = tmp_path / "bag" / name, content(tmp_path / "bag")
    data, rng, refused = file.read_bytes(), np.random.default_rng(0), 0
    for place in rng.permutation(len(data))[:places]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(flipped)
        try:
            assert content(tmp_path / "bag") == whole, place
        except InputError:
            refused += 1
    assert refused >= (0.3 if name == "manifest.json" else 1.0) * min(places, len(data))


def test_files_that_the_manifest_does_not_name_are_named(tmp_path):
    write(tmp_path / "bag", 1)
    manifest = tmp_path / "bag/manifest.json"
    manifest.write_text(manifest.read_text().replace("bag_0.mcap", "../bag_9.mcap"))
    first, second = read_bag(tmp_path / "bag", allow_damage=True).info.damage
    assert first.startswith("../bag_9.mcap is missing, which was there")
    assert second == "bag_0.mcap is not in manifest.json"
