"""Parts of episodes: between two times, of a length, held out."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from policies.robots import PANDA
from sim2real.episodes.episode import Episode
from sim2real.episodes.pieces import between, hold_out, part, pieces


def episode(start_s=0.0, seconds=4.0, rate_hz=100.0):
    t = start_s + np.arange(round(seconds * rate_hz) + 1) / rate_hz
    rows = np.tile(t[:, None], (1, PANDA.n))
    return Episode(
        robot="panda",
        robot_fingerprint=PANDA.fingerprint,
        rate_hz=rate_hz,
        t_s=t,
        qpos_rad=rows,
        qvel_rad_s=rows,
        action_rad=rows,
        task="count",
    )


def test_a_part_cuts_every_array_and_keeps_the_rest():
    cut = part(episode(), 10, 20)
    assert len(cut) == 10
    assert cut.qpos_rad[0, 0] == cut.t_s[0] == pytest.approx(0.1)
    assert cut.base_pos_m is None
    assert cut.task == "count"


def test_between_two_times_of_the_bag():
    got = between([episode(), episode(start_s=5.0)], 3.0, 6.0, 0.5)
    assert [(e.t_s[0], e.t_s[-1]) for e in got] == [(3.0, 4.0), (5.0, 6.0)]
    assert between([episode()], 3.8, 9.0, 0.5) == []


def test_pieces_lose_no_step():
    cut = pieces([episode(seconds=4.0), episode(seconds=1.0)], 1.5)
    assert sum(len(e) - 1 for e in cut) == 500
    assert max(len(e) - 1 for e in cut) <= 150
    for a, b in pairwise(cut[:3]):
        assert a.t_s[-1] == b.t_s[0]


def test_whole_episodes_are_held_out_or_the_ends_of_few():
    many = [episode(start_s=float(i)) for i in range(10)]
    learn, held = hold_out(many, 0.2, seed=0)
    assert (len(learn), len(held)) == (8, 2)
    assert {e.t_s[0] for e in learn}.isdisjoint(e.t_s[0] for e in held)
    motions = [replace(e, task=f"motion {i % 3}") for i, e in enumerate(many)]
    learn, held = hold_out(motions, 0.2, seed=0)
    assert len({e.task for e in held}) == 1
    assert {e.task for e in learn}.isdisjoint(e.task for e in held)
    learn, held = hold_out([episode()], 0.25, seed=0)
    assert learn[0].t_s[-1] < held[0].t_s[0]
    assert len(learn[0]) + len(held[0]) == len(episode())
