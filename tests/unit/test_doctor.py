"""``realign doctor``: what it finds, what it says of what is missing, and its exit code."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from policies.robots import ROBOTS
from sim2real import cli, doctor


@pytest.fixture
def findings():
    return doctor.examine()


def lacking(findings, *names):
    """The same findings with some of them missing and the rest found."""
    return [replace(f, found=None if f.name in names else f.found or "1.0") for f in findings]


def test_every_finding_says_what_for_and_how_to_get_it(findings):
    names = [finding.name for finding in findings]
    assert len(set(names)) == len(names)
    assert all(finding.needed_for and finding.get for finding in findings)


def test_it_finds_what_the_tests_run_on(findings):
    found = {finding.name: finding.found for finding in findings}
    assert found["Python"].startswith("3.")
    assert found["ONNX Runtime"]
    pytest.importorskip("mujoco")
    assert all(robot in found["robot models"] for robot in ROBOTS)


@pytest.mark.ros
def test_ros_is_named_with_its_middleware(findings):
    (ros,) = [finding for finding in findings if finding.name == "ROS 2"]
    assert "rmw_" in ros.found


def test_missing_main_job_part_is_one_sentence_and_2(findings, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: lacking(findings, "ROS 2", "MuJoCo", "GPU"))
    assert cli.main(["doctor"]) == 2
    out, err = capsys.readouterr()
    assert "MISSING  ROS 2" in out
    assert err.count("\n") == 1
    assert "but ROS 2, MuJoCo are missing" in err
    assert 'pip install "realign[ros]"' in err
    assert "GPU" not in err


def test_missing_optional_part_is_no_error(findings, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: lacking(findings, "GPU", "pinocchio"))
    assert cli.main(["doctor"]) == 0
    assert 'get it: pip install "realign[calibration]"' in capsys.readouterr().out


def test_json_has_the_same_findings(findings, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: lacking(findings, "GPU"))
    assert cli.main(["doctor", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [finding.name for finding in findings]
    assert {row["name"] for row in rows if row["found"] is None} == {"GPU"}


def test_ros_that_does_not_load_counts_as_missing(monkeypatch):
    def fail(name):
        raise ImportError(f"{name}: libfastrtps.so: cannot open shared object file")

    monkeypatch.setattr(doctor.importlib, "import_module", fail)
    assert doctor._ros() is None
