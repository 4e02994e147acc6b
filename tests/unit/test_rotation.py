"""Quaternions: body and world frame, rotation vectors, tilt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.rotation import rotate, rotate_inverse, rotation_vector, tilt_rad

components = st.lists(st.floats(-1.0, 1.0), min_size=4, max_size=4).filter(
    lambda x: np.linalg.norm(x) > 0.1
)


def unit(values):
    return np.asarray(values) / np.linalg.norm(values)


def test_rotate_is_body_to_world():
    quarter_turn_about_z = np.array([[np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)]])
    forward = np.array([[1.0, 0.0, 0.0]])
    np.testing.assert_allclose(rotate(quarter_turn_about_z, forward), [[0, 1, 0]], atol=1e-15)


@given(components)
def test_inverse_undoes_a_rotation(quat):
    vectors = np.array([[1.0, -2.0, 3.0], [0.5, 0.0, -0.1]])
    turn = np.tile(unit(quat), (2, 1))
    back = rotate_inverse(turn, rotate(turn, vectors))
    np.testing.assert_allclose(back, vectors, atol=1e-12)


@given(st.lists(st.floats(-1.0, 1.0), min_size=3, max_size=3), st.floats(0.0, 3.1))
def test_rotation_vector_is_axis_times_angle(axis, angle):
    if np.linalg.norm(axis) < 1e-3:
        return
    start = unit([0.3, -0.5, 0.7, 0.2])
    w, v = np.cos(angle / 2), np.sin(angle / 2) * unit(axis)
    end = np.concatenate(
        [[start[0] * w - start[1:] @ v], start[0] * v + w * start[1:] + np.cross(start[1:], v)]
    )
    want = angle * unit(axis)
    assert rotation_vector(start, end) == pytest.approx(want, abs=1e-7)
    assert rotation_vector(start, -end) == pytest.approx(want, abs=1e-7)


def test_tilt_is_the_angle_to_the_vertical_whatever_the_heading():
    assert tilt_rad(np.array([1.0, 0.0, 0.0, 0.0])) == 0.0
    assert tilt_rad(np.array([np.cos(0.7), 0.0, 0.0, np.sin(0.7)])) == pytest.approx(0.0, abs=1e-6)
    assert tilt_rad(np.array([np.cos(0.2), 0.0, np.sin(0.2), 0.0])) == pytest.approx(0.4)
