"""Processes that end when their launcher does, and say what they have to say until then."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from policies.runtime.lifeline import Lifeline

LIMIT_S = 30.0


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module ``member_of_test`` that can be run."""
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    def write(text):
        (tmp_path / "member_of_test.py").write_text(textwrap.dedent(text))

    return write


def start(lifeline, seconds=0.0, *arguments):
    words = [str(lifeline.fd), str(seconds), "member_of_test", *arguments]
    return subprocess.Popen(
        [sys.executable, "-m", "policies.runtime.member", *words],
        pass_fds=(lifeline.fd,),
        stdout=subprocess.PIPE,
        text=True,
    )


def test_module_runs_as_if_it_had_been_started_directly(module):
    module("""
        import sys
        print(__name__, sys.argv[1:], flush=True)
        raise SystemExit(7)
    """)
    lifeline = Lifeline()
    process = start(lifeline, 0.0, "--one", "two")
    assert process.communicate(timeout=LIMIT_S)[0] == "__main__ ['--one', 'two']\n"
    assert process.returncode == 7


def test_what_must_be_done_at_once_is_done_before_the_end(module):
    module("""
        import time
        from policies.runtime.lifeline import on_loss

        on_loss(lambda: print("lost", flush=True))
        print("up", flush=True)
        try:
            time.sleep(60.0)
        except KeyboardInterrupt:
            print("ended", flush=True)
    """)
    lifeline = Lifeline()
    process = start(lifeline, 0.3)
    assert process.stdout.readline() == "up\n"
    since = time.monotonic()
    lifeline.cut()
    assert process.stdout.readline() == "lost\n"
    assert process.stdout.readline() == "ended\n"
    assert time.monotonic() - since >= 0.3
    assert process.wait(LIMIT_S) == 0


def test_what_a_shell_starts_in_the_background_ends_in_order_too(module):
    module("""
        import signal
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    """)
    lifeline = Lifeline()
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(lifeline)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert process.communicate(timeout=LIMIT_S)[0] == "True\n"


def test_process_that_will_not_end_is_killed(module):
    module("""
        import signal, sys, time
        from policies.runtime.lifeline import hold_on

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        hold_on(int(sys.argv[1]), 0.0, end_s=0.2)
        print("up", flush=True)
        time.sleep(60.0)
    """)
    lifeline = Lifeline()
    process = start(lifeline, 60.0, str(lifeline.fd))
    assert process.stdout.readline() == "up\n"
    lifeline.cut()
    assert process.wait(LIMIT_S) == -signal.SIGKILL


def test_kill_of_the_launcher_ends_the_others_though_nobody_reads_what_they_say(module, tmp_path):
    module("""
        import sys, time
        try:
            while True:
                print("progress", flush=True)
                time.sleep(0.01)
        except KeyboardInterrupt:
            open(sys.argv[1], "w").write("in order")
    """)
    launcher = """
        import subprocess, sys, time
        from policies.runtime.lifeline import Lifeline

        lifeline = Lifeline()
        words = [str(lifeline.fd), "0.5", "member_of_test", sys.argv[1]]
        member = subprocess.Popen(
            [sys.executable, "-m", "policies.runtime.member", *words],
            pass_fds=(lifeline.fd,), stdout=subprocess.PIPE, start_new_session=True,
        )
        member.stdout.readline()
        print(member.pid, flush=True)
        time.sleep(60.0)
    """
    words = [sys.executable, "-c", textwrap.dedent(launcher), str(tmp_path / "end")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        member = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + LIMIT_S
    while not (tmp_path / "end").exists() or os.path.exists(f"/proc/{member}"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (tmp_path / "end").read_text() == "in order"


def test_lifeline_that_is_forgotten_is_cut():
    lifeline = Lifeline()
    reading = os.dup(lifeline.fd)
    del lifeline
    assert os.read(reading, 1) == b""
    os.close(reading)
