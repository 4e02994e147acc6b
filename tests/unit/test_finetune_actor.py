"""From an actor's ONNX file to a trainable network and back; its observation for many robots."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from policies.actor.asap import asap_observation
from policies.actor.config import ActionConfig, ActorConfig
from policies.actor.mlp import mlp_onnx
from policies.actor.onnx_actor import OnnxActor
from policies.errors import InputError
from policies.interface import Observation
from policies.processors import TermConfig
from policies.robots import G1, PANDA
from sim2real.finetune.actor import check_trainable, read_actor, write_actor
from sim2real.finetune.observation import BatchObservation
from sim2real.rl.networks import Mlp
from sim2real.sim.stepper import SimState

BODY = tuple(name for name in G1.joint_names if "wrist" not in name)


def g1_config(observation=None, **action):
    return ActorConfig(
        name="motion",
        robot="g1",
        robot_fingerprint=G1.fingerprint,
        rate_hz=50.0,
        action=ActionConfig(type="position_offset_from_default", joints=BODY, scale=0.25, **action),
        hold_pose_rad={name: 0.0 for name in G1.joint_names if name not in BODY},
        observation=observation or asap_observation(BODY),
        duration_s=0.5,
        start_pose_rad=dict(zip(G1.joint_names, G1.default_rad.tolist(), strict=True)),
    )


def ort_run(model, x):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("activation", ["elu", "relu", "tanh"])
def test_weights_come_and_go_unchanged(activation):
    mlp = Mlp([380, 64, 32, 23], activation, seed=3)
    again = read_actor(write_actor(mlp), "test")
    for ours, theirs in zip(mlp.arrays(), again.arrays(), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    assert (again.widths, again.activation) == ((380, 64, 32, 23), activation)
    assert write_actor(again) == write_actor(mlp)
    x = np.random.default_rng(0).standard_normal((1, 380)).astype(np.float32)
    with torch.no_grad():
        out = again(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(out, ort_run(write_actor(mlp), x), atol=1e-5)


def graph(nodes, tensors, inputs=4, outputs=2):
    value = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [value("x", TensorProto.FLOAT, [1, inputs])],
            [value("y", TensorProto.FLOAT, [1, outputs])],
            [numpy_helper.from_array(a.astype(np.float32), n) for n, a in tensors.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_other_exporters_write_matmul_and_add():
    rng = np.random.default_rng(0)
    tensors = {
        "w0": rng.standard_normal((4, 5)),
        "b0": rng.standard_normal(5),
        "w1": rng.standard_normal((5, 2)),
        "b1": rng.standard_normal(2),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h0"]),
        helper.make_node("Add", ["b0", "h0"], ["h1"]),  # the bias may come first
        helper.make_node("Tanh", ["h1"], ["h2"]),
        helper.make_node("Gemm", ["h2", "w1", "b1"], ["y"]),  # without transposition
    ]
    model = graph(nodes, tensors)
    x = rng.standard_normal((1, 4)).astype(np.float32)
    with torch.no_grad():
        out = read_actor(model, "test")(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(out, ort_run(model, x), atol=1e-6)


def test_other_networks_are_refused():
    w = {"w0": np.ones((4, 2)), "w1": np.ones((2, 2)), "s": np.ones(2)}
    node = helper.make_node
    chains = {
        "two in a row": [node("MatMul", ["x", "w0"], ["a"]), node("MatMul", ["a", "w1"], ["y"])],
        "a residual": [
            node("MatMul", ["x", "w0"], ["a"]),
            node("Tanh", ["a"], ["b"]),
            node("Add", ["a", "b"], ["y"]),
        ],
        "a product": [node("MatMul", ["x", "w0"], ["a"]), node("Mul", ["a", "s"], ["y"])],
        "two kinds": [
            node("MatMul", ["x", "w0"], ["a"]),
            node("Tanh", ["a"], ["b"]),
            node("MatMul", ["b", "w1"], ["c"]),
            node("Relu", ["c"], ["d"]),
            node("MatMul", ["d", "w1"], ["y"]),
        ],
        "another slope": [
            node("MatMul", ["x", "w0"], ["a"]),
            node("Elu", ["a"], ["b"], alpha=0.5),
            node("MatMul", ["b", "w1"], ["y"]),
        ],
        "ends in an activation": [node("MatMul", ["x", "w0"], ["a"]), node("Tanh", ["a"], ["y"])],
    }
    for name, nodes in chains.items():
        with pytest.raises(InputError, match="expected a multi-layer perceptron"):
            pytest.fail(f"{name}: {read_actor(graph(nodes, w), 'test')}")


def test_policies_of_another_kind_are_refused():
    check_trainable(g1_config(), "policy")
    with pytest.raises(InputError, match="horizon 4"):
        check_trainable(g1_config(horizon=4), "policy")
    with pytest.raises(InputError, match="endless"):
        check_trainable(ActorConfig(**{**vars(g1_config()), "duration_s": None}), "policy")


def random_state(rng, robot, count):
    quat = rng.standard_normal((count, 4))
    return SimState(
        qpos_rad=rng.standard_normal((count, robot.n)),
        qvel_rad_s=5.0 * rng.standard_normal((count, robot.n)),
        base_pos_m=rng.standard_normal((count, 3)),
        base_quat_wxyz=quat / np.linalg.norm(quat, axis=1, keepdims=True),
        base_lin_vel_m_s=rng.standard_normal((count, 3)),
        base_ang_vel_rad_s=rng.standard_normal((count, 3)),
    )


def test_observation_is_the_one_of_the_real_run_tick_by_tick():
    """Three robots at once see, bit by bit, what each of three actors sees."""
    config = g1_config()
    model = write_actor(Mlp([380, 16, 23], seed=1))
    actors = [OnnxActor(config, G1, model, "") for _ in range(3)]
    batch = BatchObservation(config, G1)
    assert (batch.size, batch.depth) == (380, 5)
    rng = np.random.default_rng(0)
    frames, action = batch.empty(3), np.zeros((3, 23), np.float32)
    for tick in range(30):  # beyond the motion's 25 ticks, where the phase stays at its end
        state = random_state(rng, G1, 3)
        frames = batch.push(frames, state, action, np.full(3, float(tick)))
        for i, actor in enumerate(actors):
            actor.act(
                Observation(
                    stamp_ns=tick * 20_000_000,
                    qpos_rad=state.qpos_rad[i],
                    qvel_rad_s=state.qvel_rad_s[i],
                    base_quat_wxyz=state.base_quat_wxyz[i],
                    base_ang_vel_rad_s=state.base_ang_vel_rad_s[i],
                )
            )
            np.testing.assert_array_equal(batch.vector(frames)[i], actor.observation_vector)
        action = np.concatenate([ort_run(model, row[None]) for row in batch.vector(frames)])


def test_history_of_single_terms_and_scales():
    terms = (
        TermConfig(term="joint_pos", scale=0.5, history=3),
        TermConfig(term="joint_vel", joints=(PANDA.joint_names[4],)),
    )
    config = ActorConfig(
        **{
            **vars(g1_config(terms)),
            "robot": "panda",
            "action": ActionConfig(
                type="position_offset_from_default", joints=PANDA.joint_names[:2]
            ),
        }
    )
    batch = BatchObservation(config, PANDA)
    frames, last = batch.empty(1), np.zeros((1, 2), np.float32)
    for k in range(3):
        state = SimState(qpos_rad=PANDA.default_rad[None] + k, qvel_rad_s=np.full((1, 7), 10.0 * k))
        frames = batch.push(frames, state, last, np.array([k]))
    np.testing.assert_allclose(batch.vector(frames)[0], [*[1.0] * 7, *[0.5] * 7, *[0.0] * 7, 20.0])


@pytest.mark.parametrize("term", ["goal_position", "last_command", "base_ang_vel", "nonsense"])
def test_terms_that_cannot_be_batched_are_named(term):
    with pytest.raises(InputError, match=term):
        BatchObservation(g1_config((TermConfig(term=term),)), PANDA)


def test_reads_what_the_writer_of_policies_makes():
    weights = [np.eye(3, 2, dtype=np.float32)]
    mlp = read_actor(mlp_onnx(weights, [np.arange(3, dtype=np.float32)]), "test")
    assert mlp(torch.tensor([[2.0, 5.0]])).tolist() == [[2.0, 6.0, 2.0]]
