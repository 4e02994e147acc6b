"""The same seed and the same faults twice: the same bag, byte for byte, but for the wall clock."""

import pytest

from policies.robots import G1
from sim2real.bags.writer import BagWriter
from sim2real.testing.determinism import MASKED, bag_content, differences

STATE, COMMAND = "messages /joint_states", "messages /joint_command"


def stamped(stamp_s, frame=b""):
    """A serialised header."""
    text = frame + b"\x00"
    words = (stamp_s, 0, len(text))
    return b"\x00\x01\x00\x00" + b"".join(n.to_bytes(4, "little") for n in words) + text


def write(folder, messages, *, clock=0, provenance="p"):
    """A bag of (topic, message) pairs, received at ``clock`` and after."""
    folder.mkdir()
    with BagWriter(folder / "bag", provenance={"seed": provenance}) as writer:
        for topic in ("/joint_states", "/joint_command", "/diagnostics"):
            writer.add_topic(topic, "std_msgs/msg/Header")
        for k, (topic, data) in enumerate(messages):
            writer.write(topic, data, clock + k + 1, clock + k)
    return bag_content(folder / "bag")


MESSAGES = [("/joint_states", stamped(k, b"state")) for k in range(3)]
MESSAGES += [("/joint_command", stamped(k, b"command")) for k in range(3)]


def test_wall_clock_is_masked(tmp_path):
    first = write(tmp_path / "a", MESSAGES)
    later = write(tmp_path / "b", MESSAGES, clock=10**18)
    other_order = write(tmp_path / "c", MESSAGES[3:] + MESSAGES[:3])
    repeated = write(tmp_path / "d", [m for m in MESSAGES for _ in range(2)])
    chatty = write(tmp_path / "e", [*MESSAGES, ("/diagnostics", stamped(9))])
    for content in (later, other_order, repeated, chatty):
        assert differences(first, content) == []
    assert len(first[STATE]) == 3 * (4 + len(MESSAGES[0][1]))


def test_nothing_else_is(tmp_path):
    first = write(tmp_path / "a", MESSAGES)
    flipped = [*MESSAGES[:-1], ("/joint_command", stamped(2, b"commane"))]
    (only,) = differences(first, write(tmp_path / "b", flipped))
    assert only.startswith(f"{COMMAND}: byte {len(first[COMMAND]) - 2} ")
    swapped = [MESSAGES[1], MESSAGES[0], *MESSAGES[2:]]
    for k, messages in enumerate((MESSAGES[1:], swapped)):
        (only,) = differences(first, write(tmp_path / f"c{k}", messages))
        assert only.startswith(STATE)
    told = differences(first, write(tmp_path / "d", MESSAGES, provenance="q"))
    assert [words.partition(":")[0] for words in told] == ["metadata realign", "metadata.yaml"]


def test_what_nobody_waits_for_is_masked_from_a_stamp_on(tmp_path):
    write(tmp_path / "a", MESSAGES)
    content = bag_content(tmp_path / "a/bag", until_ns={"/joint_states": 2 * 10**9})
    assert content[STATE] == b"".join(
        len(data).to_bytes(4, "little") + data for _, data in MESSAGES[:2]
    )
    assert len(content[COMMAND]) == 3 * (4 + len(MESSAGES[3][1]))


@pytest.mark.ros
@pytest.mark.timeout(180)
@pytest.mark.parametrize("robot", ["panda", pytest.param("g1", marks=pytest.mark.slow)])
def test_same_seed_and_faults_give_the_same_bag(
    record_faulty_run, hold_policy, repo, tmp_path, domain, robot
):
    """Chunks are lost and repeated on their way, then the joint states fail: twice the same."""
    assert {"order", "log_time, publish_time", "/diagnostics"} < set(MASKED)
    policy = hold_policy(G1) if robot == "g1" else repo / "policies/checkpoints/panda_reach"
    bags, edges = [], []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        edges.append(record_faulty_run(folder, domain, robot, policy, seed=3, duration_s=1.2))
        hold_ns = next(stamp for stamp, _, new, _ in edges[-1] if new == "hold")
        bags.append(bag_content(folder / "bag", until_ns={"/action_chunk": hold_ns}))
    assert differences(*bags) == []
    assert edges[0] == edges[1]
    assert edges[0][-1][2:] == ["damp", "non_finite_state"]
    for topic in (STATE, COMMAND, "messages /action_chunk"):
        assert len(bags[0][topic]) > 1000, topic
