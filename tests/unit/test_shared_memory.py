"""What killed processes leave in shared memory is removed, and nobody else's."""

import fcntl
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sim2real import doctor, shared_memory
from sim2real.shared_memory import LEAST_AGE_S, SHARED_MEMORY, find_leftovers

NAME = "fastdds_0123456789abcde"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A place like /dev/shm, where files are old enough at once."""
    monkeypatch.setattr(shared_memory, "LEAST_AGE_S", -60.0)
    return tmp_path


def segment(folder, digit="0", *, size=100_000, lock=True):
    path = folder / f"{NAME}{digit}"
    path.write_bytes(b"x" * size)
    if lock:
        path.with_name(f"{path.name}_el").touch()
    return path


def test_segment_without_an_owner_is_found_and_removed(folder):
    path = segment(folder)
    assert find_leftovers(folder).count == 1
    assert path.exists()
    left = find_leftovers(folder, remove=True)
    assert (left.count, left.megabytes) == (1, pytest.approx(0.1, abs=0.01))
    assert list(folder.iterdir()) == []
    assert find_leftovers(folder, remove=True).count == 0


def test_kernel_says_who_lives(folder):
    paths = [segment(folder, digit) for digit in "12"]
    owner = """
        import fcntl, sys, time
        held = open(sys.argv[1]); fcntl.flock(held, fcntl.LOCK_EX); print(flush=True)
        time.sleep(600)
    """.replace("\n        ", "\n")
    words = [sys.executable, "-c", owner, f"{paths[0]}_el"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert find_leftovers(folder, remove=True).count == 1
        assert [path.exists() for path in paths] == [True, False]
        process.kill()
    assert find_leftovers(folder, remove=True).count == 1
    assert not paths[0].exists()


def test_what_cannot_be_judged_stays(folder, monkeypatch):
    segment(folder, lock=False)
    linked = segment(folder, "3", lock=False)
    linked.with_name(f"{linked.name}_el").symlink_to(folder / f"{NAME}0")
    for name in ("fastdds_port7400", "fastdds_port7400_el", "fastdds_xyz", "other"):
        (folder / name).touch()
    before = sorted(folder.iterdir())
    assert find_leftovers(folder, remove=True).count == 0
    segment(folder, "4")
    monkeypatch.setattr(shared_memory, "LEAST_AGE_S", LEAST_AGE_S)
    assert find_leftovers(folder, remove=True).count == 0  # too young
    monkeypatch.setattr(shared_memory, "LEAST_AGE_S", -60.0)
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    assert find_leftovers(folder, remove=True).count == 0  # another user's
    assert set(before) < set(folder.iterdir())


def test_place_that_is_not_there_holds_nothing(tmp_path):
    assert find_leftovers(tmp_path / "none", remove=True).count == 0


@pytest.mark.parametrize(
    ("megabytes", "words"), [(0.0, "nothing left"), (100.0, "7 segments"), (1e9, None)]
)
def test_doctor_says_what_is_left(monkeypatch, megabytes, words):
    left = shared_memory.Leftovers(count=7 if megabytes else 0, megabytes=megabytes)
    monkeypatch.setattr(doctor, "find_leftovers", lambda: left)
    (found,) = [f.found for f in doctor.examine() if f.name == "shared memory"]
    assert found is None if words is None else words in found


@pytest.mark.ros
def test_killed_node_leaves_segments_that_are_removed(shared_folder):
    """Fast DDS itself: its locks are what we take them for."""
    if "fastrtps" not in pytest.importorskip("rclpy.utilities").get_rmw_implementation_identifier():
        pytest.skip("needs rmw_fastrtps")
    program = """
        import time
        import rclpy

        rclpy.init()
        node = rclpy.create_node("killed")
        print(flush=True)
        time.sleep(600)
    """.replace("\n        ", "\n")
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        text = Path(f"/proc/{process.pid}/maps").read_text()
        paths = [SHARED_MEMORY / name for name in set(re.findall(r"fastdds_[0-9a-f]{16}", text))]
        own = [path for path in paths if is_locked(path)]
        assert own
        links = [link_into(shared_folder, path) for path in own]
        assert find_leftovers(shared_folder, remove=True).count == 0
        assert all(link.exists() for link in links)
        process.kill()
    assert find_leftovers(shared_folder, remove=True).count == len(own)
    assert list(shared_folder.iterdir()) == []
    for path in own:
        path.unlink()
        path.with_name(f"{path.name}_el").unlink()


@pytest.fixture
def shared_folder(monkeypatch):
    """A folder in shared memory with no young nodes of others in it, who have no lock yet."""
    monkeypatch.setattr(shared_memory, "LEAST_AGE_S", -60.0)
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
        yield Path(folder)


def link_into(folder, segment):
    """The same segment and the same lock by another path."""
    for name in (segment.name, f"{segment.name}_el"):
        (folder / name).hardlink_to(segment.with_name(name))
    return folder / segment.name


def is_locked(path):
    with path.with_name(f"{path.name}_el").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
