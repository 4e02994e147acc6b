"""Dynamics gaps: files, names, and what they do to the model."""

import json

import numpy as np
import pytest

from policies.errors import InputError
from policies.robots import G1, PANDA
from sim2real.sim.batch import BatchStepper
from sim2real.sim.gaps import Gap, load_gap, make_gap
from sim2real.sim.model import build_model
from sim2real.sim.stepper import default_state

EVERYTHING = Gap(
    name="found",
    strength={"*_knee_*": 0.8},
    kp={"*": 1.1},
    kd={"left_*": 0.9},
    torque_limit={"*_ankle_*": 0.5},
    friction_nm={"*": 0.1},
    damping_nm_s_rad={"*": 0.2},
    armature_kg_m2={"*": 0.01},
    spring_nm_rad={"waist_*": 5.0},
    offset_rad={"left_knee_joint": 0.02},
    mass={"torso_link": 1.1},
    payload_kg={"torso_link": 1.0},
    payload_com_m={"torso_link": (0.1, 0.0, 0.2)},
    floor_friction=0.7,
    floor_softness_s=0.03,
    delay_s=0.01,
)


def test_a_saved_gap_comes_back_the_same(tmp_path):
    EVERYTHING.save(tmp_path / "gap.json", G1, found_from="a test")
    assert load_gap(tmp_path / "gap.json", G1) == EVERYTHING
    assert make_gap(G1, str(tmp_path / "gap.json")) == EVERYTHING
    assert Gap().to_json() == {"name": "none"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "expected JSON"),
        ("[]", "got list"),
        ('{"format": "other"}', "format realign-gap-1"),
        ({"robot_fingerprint": "0"}, "got one of g1"),
        ({"gap": {"stregth": {}}}, "got ['stregth']"),
        ({"gap": {"strength": {"*": "big"}}}, "in ['strength']"),
        ({"gap": {"delay_s": -1.0}}, "in ['delay_s']"),
        ({"gap": {"payload_com_m": {"torso_link": [1.0]}}}, "in ['payload_com_m']"),
        ({"gap": []}, "expected an object"),
    ],
)
def test_a_bad_file_is_refused_in_a_sentence(tmp_path, content, expected):
    file = tmp_path / "gap.json"
    EVERYTHING.save(file, G1)
    if isinstance(content, dict):
        content = json.dumps(json.loads(file.read_text()) | content)
    file.write_text(content)
    with pytest.raises(InputError, match=expected.replace("[", r"\[").replace("]", r"\]")):
        load_gap(file, G1)


def test_names_that_the_robot_does_not_have_are_refused():
    with pytest.raises(InputError, match="fits none"):
        build_model(PANDA, Gap(strength={"*_knee_*": 0.5}))
    with pytest.raises(InputError, match="no body 'torso_link'"):
        build_model(PANDA, Gap(mass={"torso_link": 2.0}))


def test_masses_and_floor_reach_the_model():
    nominal, changed = build_model(G1), build_model(G1, EVERYTHING)
    torso = nominal.body("torso_link").mass[0]
    assert changed.body_mass.sum() - nominal.body_mass.sum() == pytest.approx(0.1 * torso + 1.0)
    assert changed.body("torso_link_payload").ipos == pytest.approx([0.1, 0.0, 0.2])
    assert changed.geom("floor").friction[0] == 0.7
    assert changed.geom("floor").solref[0] == 0.03


def settle(gap: Gap) -> float:
    """Where joint 4 of an arm comes to rest, as an offset from its set-point, rad."""
    state = default_state(PANDA).map(lambda x: x[None])
    target = np.tile(PANDA.default_rad + 0.1, (1, 100, 1))
    with BatchStepper(PANDA, gap) as stepper:
        end = stepper.step(state, target).qpos_rad[0, -1]
    return float((end - target[0, -1])[3])


def test_offsets_and_springs_move_the_resting_point():
    assert settle(Gap()) == pytest.approx(0.0, abs=2e-3)
    assert settle(Gap(offset_rad={"panda_joint4": 0.02})) == pytest.approx(0.02, abs=2e-3)
    kp = PANDA.kp_nm_rad[3]  # in balance: kp (target - q) = spring (q - default)
    assert settle(Gap(spring_nm_rad={"panda_joint4": kp / 4})) == pytest.approx(-0.02, abs=2e-3)


def test_a_lower_torque_limit_binds():
    free, bound = (
        settle(Gap(spring_nm_rad={"panda_joint4": 2000.0}, torque_limit=limit))
        for limit in ({}, {"panda_joint4": 0.2})
    )
    assert bound < free - 0.005
