"""What no robot can do is refused before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.errors import InputError
from sim2real.run_config import RunConfig
from sim2real.run_hardware import check_hardware


def check(module="json", **changes):
    config = RunConfig(robot="g1", policy=Path("p"), driver="unitree", **changes)
    check_hardware(
        config, module=module, package="Cyclone", robot="a Unitree robot", address="network"
    )


def test_fitting_options_pass():
    check(gap="payload", faults="silent@1:0.1")
    check(network="eth0")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lockstep": True}, "leave --lockstep out"),
        ({"engine": "sapien"}, "got 'sapien'"),
        ({"port": "/dev/ttyACM0"}, "got --port /dev/ttyACM0; use --network"),
        ({"network": "eth0", "gap": "payload"}, "(--network eth0); leave --network out"),
        ({"network": "eth0", "faults": "silent@1:0.1"}, "no --gap and --faults for a real robot"),
        ({"module": "no_such_module"}, "pip install 'realign[unitree]'"),
    ],
)
def test_what_no_robot_can_do_is_refused(changes, sentence):
    with pytest.raises(InputError) as error:
        check(**changes)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
