"""The benchmark of latency measures answers to states, all of them through policy and guard."""

import re

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def bench(repo, load_module):
    return load_module(repo / "tests/bench/bench_runtime.py")


def test_states_are_answered_through_policy_and_guard(bench, hold_policy):
    from policies.robots import G1

    line = bench.bench_latency(hold_policy(G1), 40)
    ratio, ticks = re.search(r"median (\S+) x .* (\d+) ticks", line).groups()
    assert int(ticks) > 20, "a busy machine loses some of 40"
    assert float(ratio) > 1.0, "a command that answers no state was taken for an answer"
