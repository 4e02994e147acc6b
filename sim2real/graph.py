"""Processes of a ROS graph: started with parameters, watched, and stopped by process id."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from policies.errors import FaultError, InputError
from policies.runtime.lifeline import Lifeline
from sim2real.shared_memory import find_leftovers

START_S = 60.0
STANDSTILL_S = 30.0
_STOP_TIMEOUT_S = 10.0
# How long a process stays when its launcher has gone, s: the policy ends at once, the guard stops
# the robot, whose driver carries that out before it ends; the recorder has seen it all.
_ALONE_S = {"policy": 0.0, "driver": 1.0, "recorder": 3.0}
_OTHERS_ALONE_S = 2.0


@dataclass
class Process:
    """A node: its name, process and log file."""

    name: str
    popen: subprocess.Popen[str]
    log: Path


@dataclass
class Graph:
    """Processes of a running graph; a context manager that leaves none behind."""

    folder: Path
    domain_id: int
    processes: list[Process] = field(default_factory=list)
    lifeline: Lifeline = field(default_factory=Lifeline)

    def start(
        self,
        name: str,
        module: str,
        parameters: dict[str, Any],
        *,
        remap: Mapping[str, str] | None = None,
    ) -> Process:
        """Start the node ``python -m module`` with ROS parameters; output goes to a log file.

        Args:
            name: of the process, its parameter file and its log.
            module: the node's.
            parameters: ROS parameters.
            remap: topic as the node calls it -> topic that it gets.
        """
        params = self.folder / f"{name}.yaml"
        params.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
        arguments = ["--ros-args", "--params-file", str(params), "--enclave", enclave_of(module)]
        for topic, other in (remap or {}).items():
            arguments += ["-r", f"{topic}:={other}"]
        return self.start_program(name, module, arguments, piped=bool(parameters.get("progress")))

    def start_program(
        self, name: str, module: str, arguments: list[str], *, piped: bool = False
    ) -> Process:
        """Start ``python -m module arguments``; output goes to a log file, or stdout to a pipe.

        The process ends by itself if this one does, however that happens.
        """
        log = self.folder / f"{name}.log"
        alone = [str(self.lifeline.fd), str(_ALONE_S.get(name, _OTHERS_ALONE_S))]
        with log.open("w") as sink:
            popen = subprocess.Popen(
                [sys.executable, "-m", "policies.runtime.member", *alone, module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else sink,
                stderr=sink,
                text=True,
                pass_fds=(self.lifeline.fd,),
                env=ros_environment(self.domain_id),
                start_new_session=True,  # Ctrl-C reaches us first: nodes stop in order
            )
        process = Process(name, popen, log)
        self.processes.append(process)
        return process

    def __enter__(self) -> Graph:
        find_leftovers(remove=True)  # a killed process leaves its shared memory to its successors
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop all in order of start's reverse: SIGINT, then SIGKILL after a time limit."""
        for process in reversed(self.processes):
            if process.popen.poll() is None:
                process.popen.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for process in self.processes:
            try:
                process.popen.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
            if process.popen.stdout:
                process.popen.stdout.close()

    def dead(self) -> Process | None:
        """The first process that ended by itself, if any.

        The driver may. A robot does not stop for its recorder either, unless that had nowhere to
        write from the beginning (exit code 2).
        """
        for process in self.processes:
            code, name = process.popen.poll(), process.name
            if code is not None and name != "driver" and (name != "recorder" or code == 2):
                return process
        return None


def enclave_of(module: str) -> str:
    """Enclave of the node in a module, as ``security_policy.xml`` names them."""
    package, _, node = module.partition(".")
    node = package if node == "driver_node" else node.removesuffix("_node")
    return f"/realign/{node.removeprefix('realign_')}"


def ros_environment(domain_id: int) -> dict[str, str]:
    """Environment of a node: private domain, this host only, quick discovery."""
    profile = importlib.util.find_spec("realign_bringup")
    env = dict(os.environ, ROS_DOMAIN_ID=str(domain_id), ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
    env.update(OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    if profile and profile.origin and "FASTDDS_DEFAULT_PROFILES_FILE" not in env:
        env["FASTDDS_DEFAULT_PROFILES_FILE"] = str(Path(profile.origin).with_name("fastdds.xml"))
    return env


def require_ros() -> None:
    """Raise InputError where rclpy is not installed."""
    if importlib.util.find_spec("rclpy") is None:
        raise InputError(
            "expected ROS 2 (rclpy), but it is not installed; run: pip install 'realign[ros]', or "
            "source a ROS 2 installation; `realign doctor` shows what else is missing"
        )


def private_domain_id() -> int:
    """A ROS domain of this process's own, 1 to 100."""
    return 1 + os.getpid() % 100


def watch(graph: Graph, *, progress: bool, description: str) -> None:
    """Follow the driver's progress until it ends.

    A dead process, a standstill, or what the driver itself calls one is a fault.
    """
    driver = next(p for p in graph.processes if p.name == "driver")
    faults: list[str] = []
    heard = [time.monotonic() + START_S - STANDSTILL_S]
    bar = tqdm(total=1.0, desc=description, unit="s", disable=None if progress else True)

    def follow() -> None:
        assert driver.popen.stdout is not None
        for line in driver.popen.stdout:
            word, *rest = line.split()
            if word == "fault":
                faults.append(" ".join(rest))
            elif word == "progress":
                done, total = (float(x) for x in rest)
                bar.total = total
                bar.update(done - bar.n)
                heard[0] = time.monotonic()

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        while driver.popen.poll() is None:
            dead = graph.dead()
            if dead is not None and dead.popen.returncode == 2:
                raise InputError(last_words(dead).removeprefix("realign: "))
            if dead is not None:
                raise FaultError(f"the {dead.name} process ended early: {last_words(dead)}")
            if faults:
                raise FaultError(f"the driver reports: {faults[0]}")
            if time.monotonic() - heard[0] > STANDSTILL_S:
                words = "; ".join(f"{p.name}: {last_words(p)}" for p in graph.processes)
                raise FaultError(f"no progress for {STANDSTILL_S:g} s ({words})")
            time.sleep(0.02)
    finally:
        graph.stop()
        reader.join(timeout=1.0)
        bar.close()
    if driver.popen.returncode == 2:
        raise InputError(last_words(driver).removeprefix("realign: "))
    if driver.popen.returncode != 0:
        raise FaultError(f"the driver failed: {last_words(driver)}")


def last_words(process: Process) -> str:
    """Last line of a process's log, or its exit code."""
    lines = process.log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {process.popen.returncode}"
