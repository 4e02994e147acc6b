"""Policies that read instructions: training, export, checkpoints, mismatches, observations."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from policies.checkpoint import inspect, load_policy
from policies.datasets.demonstrations import Demonstrations, save_demonstrations
from policies.diffusion.commands import TrainOptions
from policies.diffusion.config import NetworkConfig
from policies.diffusion.interface import Prefix, Window
from policies.diffusion.process import Flow
from policies.errors import InputError
from policies.interface import Observation
from policies.robots import get_robot
from policies.serving.descriptor import write_descriptor
from policies.serving.protocol import Served
from policies.vla import instructions as instructions_module
from policies.vla.checkpoint import build_vla, read_vla, save_vla
from policies.vla.commands import load_initial, save_trained, train_command
from policies.vla.export import compare, export_onnx
from policies.vla.network import PATCH
from policies.vla.objectives import plan_error as original
from policies.vla.text import TEXT_ROWS
from policies.vla.trainer import VlaTrainConfig, train_vla
from policies.vla.windows import AnchoredWindows, anchor_values, anchors
from sim2real.cli import main

PANDA = get_robot("panda")
STATES = tuple(f"qpos/{name}" for name in PANDA.joint_names)
ACTIONS = tuple(f"position/{name}" for name in PANDA.joint_names)
TOLD = ("go up", "go down")
SIDE = 2 * PATCH


def fake_encoder(text: str) -> np.ndarray:
    """Three vectors that depend on every letter, in half precision."""
    rng = np.random.default_rng(list(text.encode()))
    return rng.standard_normal((3, 16)).astype(np.float16).astype(np.float32)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(instructions_module, "encode", fake_encoder)


def demonstrations(
    names=(STATES, ACTIONS), cameras=("front",), episodes=8, told=TOLD
) -> Demonstrations:
    """The first joint goes up or down as it is told; images show nothing of it."""
    rng = np.random.default_rng(0)
    states, actions, images, task = [], [], {name: [] for name in cameras}, []
    for i in range(episodes):
        text = told[i % len(told)]
        state = np.tile(rng.normal(0.0, 0.1, len(names[0])), (12, 1))
        state[:, 0] += (0.05 if text == told[0] else -0.05) * np.arange(12)
        action = state[:, : len(names[1])].copy()
        action[:, 0] += 0.05 if text == told[0] else -0.05
        states.append(state)
        actions.append(action)
        task.append(text)
        for rows in images.values():
            rows.append(rng.integers(256, size=(12, SIDE, SIDE, 3), dtype=np.uint8))
    return Demonstrations(
        state_names=names[0],
        action_names=names[1],
        rate_hz=10.0,
        state=states,
        action=actions,
        images=images,
        task=task,
    )


def settings(**changes) -> VlaTrainConfig:
    usual = VlaTrainConfig(
        name="small",
        network=NetworkConfig(type="transformer", width=32, depth=1),
        context_depth=1,
        observation_horizon=2,
        prediction_horizon=4,
        action_horizon=2,
        steps=120,
        batch=8,
        learning_rate=3e-3,
        device="cpu",
    )
    return replace(usual, **changes)


@pytest.fixture(scope="module")
def trained():
    return train_vla({"panda": demonstrations()}, settings(), encoder=fake_encoder)


@pytest.fixture(scope="module")
def checkpoint(trained, tmp_path_factory):
    from policies.diffusion.chunk_policy import bind_robot

    data = demonstrations()
    binding = bind_robot(STATES, ACTIONS, data.state[0][0], PANDA)
    model = replace(trained.config.model, robot=binding)
    config = replace(trained.config, embodiments={"panda": model})
    path = tmp_path_factory.mktemp("vla") / "small"
    save_vla(path, config, export_onnx(config, trained.network, trained.instructions))
    return path


def window(told=TOLD, horizon=2, state=0.0) -> Window:
    return Window(
        state=np.full((len(told), horizon, 7), state),
        images={"front": np.zeros((len(told), horizon, SIDE, SIDE, 3), np.uint8)},
        instructions=tuple(told),
    )


def ask(model, told=TOLD, **more) -> np.ndarray:
    model.reset(0, batch=len(told))
    return model.sample(window(told), **more)


# ---- what is learnt ----------------------------------------------------------------------------


def test_the_instruction_decides_where_nothing_else_does(checkpoint):
    model = build_vla(read_vla(checkpoint), encoder=fake_encoder)
    plans = ask(model)
    assert plans.shape == (2, 4, 7)
    assert plans[0, :, 0].mean() > 0.03
    assert plans[1, :, 0].mean() < -0.03
    np.testing.assert_array_equal(ask(model), plans)
    swapped = ask(model, TOLD[::-1])
    assert swapped[0, :, 0].mean() < -0.03
    assert swapped[1, :, 0].mean() > 0.03


def test_plans_are_relative_to_where_the_robot_is(checkpoint):
    model = build_vla(read_vla(checkpoint), encoder=fake_encoder)
    assert model.config.action.upper[0] == pytest.approx(0.2)
    model.reset(0, batch=1)
    near, far = (window(TOLD[:1], state=value) for value in (0.05, 3.0))
    assert (np.abs(model.sample(far)[0, :, 0] - 3.0) <= 0.2 + 1e-9).all()
    held = np.full((1, 4, 7), 0.3)
    model.reset(0, batch=1)
    bound = model.sample(near, prefix=Prefix(actions=held, weights=np.array([1.0, 0, 0, 0])))
    # As near as the range of what was demonstrated allows.
    assert bound[0, 0, 0] == pytest.approx(0.25, abs=0.01)


def test_a_prefix_that_can_be_kept_is_kept(checkpoint):
    model = build_vla(read_vla(checkpoint), encoder=fake_encoder)
    wanted = np.zeros((2, 4, 7))
    wanted[..., 0] = [[0.1] * 4, [-0.1] * 4]
    plans = ask(model, prefix=Prefix(actions=wanted, weights=np.array([1.0, 1.0, 0.0, 0.0])))
    np.testing.assert_allclose(plans[:, :2, 0], wanted[:, :2, 0], atol=1e-6)
    with pytest.raises(InputError, match="prefix of shape"):
        ask(model, prefix=Prefix(actions=wanted[:, :3], weights=np.ones(3)))


def test_anchors_go_by_name():
    index = anchors(("qpos/b", "qvel/a", "qpos/a"), ("position/a", "gripper", "velocity/b"))
    np.testing.assert_array_equal(index, [2, -1, -1])
    np.testing.assert_array_equal(anchor_values(np.array([1.0, 2.0, 3.0]), index), [3.0, 0.0, 0.0])


def test_anchored_windows_add_up_to_the_demonstrated_actions():
    data = demonstrations()
    windows = AnchoredWindows(
        data, observation_horizon=2, prediction_horizon=4, normalisation="minmax"
    )
    batch = windows.batch(np.array([3, 15]))
    plan = windows.action_normaliser.restore(batch.action.astype(np.float64))
    for row, (episode, frame) in enumerate([(0, 3), (1, 3)]):
        wanted = data.action[episode][frame : frame + 4] - data.state[episode][frame]
        np.testing.assert_allclose(plan[row], wanted, atol=1e-5)


@pytest.mark.parametrize("prediction", ["velocity", "preconditioned"])
def test_what_the_network_answers_is_what_is_trained_and_sampled(prediction, monkeypatch):
    from policies.vla import trainer

    made = []
    monkeypatch.setattr(trainer, "plan_error", lambda *a: made.append(a[3]) or original(*a))
    config = settings(steps=2, prediction=prediction)
    data = {"panda": demonstrations(episodes=2)}
    trained = train_vla(data, config, encoder=fake_encoder)
    assert trained.config.model.prediction == prediction
    level = np.array([0.3])
    sampled = Flow(trained.config.model.prediction).coefficients(level)
    assert made
    assert made[0].coefficients(level) == sampled


def test_training_repeats_and_can_be_resumed(tmp_path):
    data, config = demonstrations(episodes=2), settings(steps=6, save_every=3)
    whole = train_vla({"panda": data}, config, encoder=fake_encoder)

    def stop(step: int, figures: dict[str, float]) -> None:
        raise KeyboardInterrupt

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train_vla({"panda": data}, config, encoder=fake_encoder, state_dir=state, log=stop)
    resumed = train_vla({"panda": data}, config, encoder=fake_encoder, state_dir=state, resume=True)
    for key, value in whole.network.state_dict().items():
        assert (resumed.network.state_dict()[key] == value).all(), key


# ---- export and checkpoint ---------------------------------------------------------------------


def test_the_export_answers_as_torch_and_needs_no_torch_to_run(trained, checkpoint):
    files = export_onnx(trained.config, trained.network, trained.instructions)
    weights = {k: v.numpy() for k, v in trained.network.state_dict().items()}
    assert compare(trained.config, files, weights).max_difference < 1e-4
    both = [
        ask(build_vla(read_vla(checkpoint), backend=backend, encoder=fake_encoder))
        for backend in ("onnx", "torch")
    ]
    np.testing.assert_allclose(both[0], both[1], atol=1e-4)


def test_the_adaptive_sampler_runs_it_with_fewer_evaluations(checkpoint):
    model = build_vla(
        read_vla(checkpoint), sampler="adaptive", tolerance=10.0, encoder=fake_encoder
    )
    ask(model)
    assert model.network_calls == 1


def test_known_instructions_run_without_an_encoder(checkpoint):
    def absent(text: str) -> np.ndarray:
        raise InputError("no encoder")

    model = build_vla(read_vla(checkpoint), encoder=absent)
    assert np.isfinite(ask(model)).all()
    with pytest.raises(InputError, match="no encoder"):
        ask(model, ("go left", "go up"))


def change(path, edit):
    data = json.loads((path / "config.json").read_text())
    del data["files"]["config.json"]
    edit(data)
    (path / "config.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda d: d.update(colour_order="bgr"), "'rgb' in 'colour_order', got 'bgr'"),
        (lambda d: d.update(text_encoder="t5"), "'text_encoder', got 't5'"),
        (
            lambda d: d["units"].update({"qpos/panda_joint1": "deg"}),
            "'rad' for 'qpos/panda_joint1'",
        ),
        (lambda d: d["units"].pop("position/panda_joint3"), "position/panda_joint3"),
        (lambda d: d["trunk"].update(cameras=["side"]), r"cameras out of \['side'\]"),
        (lambda d: d["trunk"].update(history=1), "at most 1 observations"),
        (lambda d: d.update(deployed="g1"), "'deployed', got 'g1'"),
        (lambda d: d.update(instructions=["go up"]), "1 instructions"),
        (lambda d: d["files"].update({"encoder.onnx": "0" * 64}), "sha256"),
    ],
)
def test_a_checkpoint_that_says_something_else_is_refused_by_the_field(
    checkpoint, tmp_path, edit, words
):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    change(copy, edit)
    with pytest.raises(InputError, match=words):
        load_policy(copy, PANDA)


def test_inspect_says_what_it_needs(checkpoint):
    info = inspect(checkpoint)
    assert info["type"] == info["kind"] == "vla"
    assert info["robot"] == "panda"
    assert "instruction" in info["topics"]
    assert info["instructions"] == list(TOLD)
    assert info["units"]["position/panda_joint7"] == "rad"
    assert info["spec"]["cameras"] == ({"name": "front", "height": SIDE, "width": SIDE},)


# ---- windows and observations that do not fit --------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda w: replace(w, images={"left": w.images["front"]}), "camera 'front'"),
        (lambda w: replace(w, images={"front": w.images["front"][:, :, :8]}), "camera 'front'"),
        (lambda w: replace(w, state=w.state[..., :6]), r"\(B, 2, 7\)"),
        (lambda w: replace(w, state=w.state * np.nan), "qpos/panda_joint1"),
        (lambda w: replace(w, instructions=("go up",)), "each of 2 runs"),
        (lambda w: replace(w, instructions=("go up", "x " * 30)), "1 to 14 words"),
    ],
)
def test_a_window_that_does_not_fit_is_refused_by_the_field(checkpoint, spoil, words):
    from policies.vla.text import TextEncoder

    def long(text: str) -> np.ndarray:
        if len(text) > 40:
            return TextEncoder({"[CLS]": 0, "[SEP]": 1, "[UNK]": 2}, {"encoder.layer.0": None})(
                text
            )
        return fake_encoder(text)

    model = build_vla(read_vla(checkpoint), encoder=long)
    model.reset(0, batch=2)
    with pytest.raises(InputError, match=words):
        model.sample(spoil(window()))


def test_a_window_without_words_is_a_robot_that_was_told_nothing(checkpoint):
    model = build_vla(read_vla(checkpoint), encoder=fake_encoder)
    silent = replace(window(), instructions=())
    model.reset(0, batch=2)
    plans = model.sample(silent)
    assert np.isfinite(plans).all()
    assert (plans != ask(model)).any()


def observe(step: int, instruction: str) -> Observation:
    return Observation(
        stamp_ns=step * 100_000_000,
        qpos_rad=np.zeros(7),
        qvel_rad_s=np.zeros(7),
        images={"front": np.zeros((SIDE, SIDE, 3), np.uint8)},
        instruction=instruction,
    )


def test_another_instruction_takes_effect_with_the_next_chunk(checkpoint):
    policy = load_policy(checkpoint, PANDA)
    assert "instruction" in policy.spec.needs
    policy.reset(0)
    up = policy.act(observe(0, "go up"))
    assert up.positions_rad[:, 0].mean() > 0.03
    for step in range(1, 3):
        last = policy.act(observe(step, "go down"))
    assert last.positions_rad[:, 0].mean() < -0.03


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"instruction": None}, "expected instruction"),
        ({"images": {}}, "camera 'front'"),
    ],
)
def test_an_observation_without_words_or_images_is_refused(checkpoint, changes, words):
    policy = load_policy(checkpoint, PANDA)
    policy.reset(0)
    with pytest.raises(InputError, match=words):
        policy.act(replace(observe(0, "go up"), **changes))


# ---- several robots, other cameras -------------------------------------------------------------


def test_a_served_policy_wants_words_and_images_as_the_local_one(checkpoint, tmp_path):
    """The description of a server says all that the graph asks of a policy."""
    policy = load_policy(checkpoint, PANDA)
    served = Served(spec=policy.model.spec, robot=policy.model.robot, sha256="0", instructed=True)
    write_descriptor(tmp_path, "ws://127.0.0.1:9", served, token_file=None, reply_s=1.0)
    described = load_policy(tmp_path, PANDA)
    assert described.spec.needs == policy.spec.needs == ("instruction",)
    assert described.model.spec == policy.model.spec
    assert inspect(tmp_path)["topics"] == ["front/image_raw", "instruction", "joint_states"]


def test_two_robots_share_a_trunk_and_each_is_deployed_on_its_own(tmp_path):
    other = demonstrations((("a", "b"), ("a",)), ("wrist", "top"), told=("left", "right"))
    both = train_vla(
        {"panda": demonstrations(episodes=2), "gantry": other},
        settings(steps=4),
        encoder=fake_encoder,
    )
    assert set(both.config.embodiments) == {"panda", "gantry"}
    assert both.config.trunk.cameras == ("front", "wrist", "top")
    assert both.config.instructions == (*TOLD, "left", "right")
    assert save_trained(both, tmp_path / "both", overwrite=False)["passed"]
    words = ["policy", "export", f"{tmp_path}/both", "--out", f"{tmp_path}/gantry"]
    assert main([*words, "--embodiment", "gantry"]) == 0
    assert main([*words, "--embodiment", "crane", "--overwrite"]) == 2
    model = build_vla(read_vla(tmp_path / "gantry"), encoder=fake_encoder)
    assert model.spec.action_names == ("a",)
    assert [camera.name for camera in model.spec.cameras] == ["wrist", "top"]


def test_fine_tuning_needs_an_encoder_for_new_words_only(checkpoint):
    def absent(text):
        raise InputError(f"no encoder for {text!r}")

    initial = load_initial(checkpoint)
    same, other = (demonstrations(episodes=2, told=told) for told in (TOLD, ("go sideways",)))
    tuned = train_vla({"panda": same}, settings(steps=1), initial=initial, encoder=absent)
    assert tuned.config.instructions == TOLD
    with pytest.raises(InputError, match="no encoder"):
        train_vla({"panda": other}, settings(steps=1), initial=initial, encoder=absent)

    def foreign(text):
        return fake_encoder(text) + 1.0

    with pytest.raises(InputError, match="the text encoder that the policy was trained with"):
        train_vla({"panda": other}, settings(steps=1), initial=initial, encoder=foreign)


def test_fine_tuning_keeps_what_is_known_and_adds_a_camera(checkpoint):
    initial = load_initial(checkpoint)
    more = demonstrations(cameras=("front", "side"), told=("go up", "go sideways"))
    tuned = train_vla(
        {"panda": more}, settings(steps=1, learning_rate=1e-9), initial=initial,
        encoder=fake_encoder,
    )  # fmt: skip
    assert tuned.config.trunk.cameras == ("front", "side")
    assert tuned.config.instructions == (*TOLD, "go sideways")
    assert tuned.config.model.action == initial.config.model.action
    state = tuned.network.state_dict()
    for name, value in initial.weights.items():
        # What joins the cameras begins anew with another set of them.
        if name != "camera" and ".glance." not in name:
            np.testing.assert_allclose(state[name].numpy(), value, atol=1e-6, err_msg=name)
    camera = state["camera"].numpy()
    np.testing.assert_allclose(camera[1], initial.weights["camera"].mean(axis=0), atol=1e-6)


def test_what_is_replayed_is_not_forgotten(checkpoint, tmp_path):
    initial, old = load_initial(checkpoint), {"panda": demonstrations()}
    new = {"panda": demonstrations(episodes=4, told=("go sideways",))}  # up, by another name
    told = ("go sideways", "go down")
    tuned = train_vla(
        new, settings(steps=60, seed=1), initial=initial, replay=old, encoder=fake_encoder
    )
    assert save_trained(tuned, tmp_path / "tuned", overwrite=False)["passed"]
    plans = ask(build_vla(read_vla(tmp_path / "tuned"), encoder=fake_encoder), told)
    assert plans[0, :, 0].mean() > 0.02
    assert plans[1, :, 0].mean() < -0.02


def test_new_and_old_take_turns_as_often_as_wanted(checkpoint, monkeypatch):
    from policies.vla import trainer

    seen = []
    monkeypatch.setattr(trainer, "plan_error", lambda *a: seen.append(a[1]) or original(*a))
    train_vla(
        {"panda": demonstrations(episodes=2, told=("go sideways",))},
        settings(steps=40, replay_share=0.25),
        initial=load_initial(checkpoint),
        replay={"panda": demonstrations(episodes=20)},
        encoder=fake_encoder,
    )
    replayed = sum(len(source.windows) == 20 * 12 for source in seen)
    assert len(seen) == 40
    assert 3 <= replayed <= 18  # 10 of 40 are expected, with a deviation of 2.7


def test_a_glance_that_is_new_is_trained_first(checkpoint, monkeypatch):
    from policies.vla import trainer

    seen = []
    monkeypatch.setattr(trainer, "plan_error", lambda *a: seen.append(a[1]) or original(*a))
    initial = load_initial(checkpoint)
    for data, whole in (
        ({"panda": demonstrations(episodes=2)}, 6),
        ({"panda": demonstrations(cameras=("front", "side"), episodes=2)}, 3),
        ({"crane": demonstrations(episodes=2)}, 3),
    ):
        seen.clear()
        train_vla(data, settings(steps=6), initial=initial, encoder=fake_encoder)
        assert len(seen) == whole


def test_what_cannot_be_replayed_is_named(checkpoint):
    data, initial = {"panda": demonstrations(episodes=2)}, load_initial(checkpoint)
    for replay, told in (
        ({"panda": demonstrations(cameras=("front", "side"), episodes=2)}, "cameras"),
        ({"crane": demonstrations(episodes=2)}, "crane"),
    ):
        with pytest.raises(InputError, match=rf"--replay.*{told}"):
            train_vla(data, settings(steps=1), initial=initial, replay=replay, encoder=fake_encoder)
    with pytest.raises(InputError, match="--glance-steps"):
        train_vla(data, settings(steps=2, glance_steps=2), encoder=fake_encoder)
    with pytest.raises(InputError, match="share of replay"):
        train_vla(data, settings(steps=1, replay_share=1.0), encoder=fake_encoder)


def test_fine_tuning_refuses_another_action_space_under_the_same_name(checkpoint):
    initial = load_initial(checkpoint)
    other = demonstrations((STATES, ACTIONS[:3]))
    with pytest.raises(InputError, match="action_names"):
        train_vla({"panda": other}, settings(steps=1), initial=initial, encoder=fake_encoder)
    added = train_vla({"part": other}, settings(steps=1), initial=initial, encoder=fake_encoder)
    assert set(added.config.embodiments) == {"panda", "part"}
    assert added.config.deployed == "part"
    with pytest.raises(InputError, match="'half'"):
        train_vla({"half": other}, settings(steps=1), encoder=fake_encoder)


def test_the_command_trains_from_a_dataset_of_images_and_tasks(tmp_path):
    pytest.importorskip("av")
    save_demonstrations(demonstrations(), tmp_path / "demos")
    result = train_command(
        tmp_path / "demos", tmp_path / "out", settings(steps=3), TrainOptions(robot="panda")
    )
    assert result["parity"]["passed"]
    assert result["instructions"] == 2
    assert load_policy(tmp_path / "out", PANDA).spec.robot == "panda"
    assert not (tmp_path / "out.training").exists()
    with pytest.raises(InputError, match="overwrite"):
        train_command(tmp_path / "demos", tmp_path / "out", settings(), TrainOptions())


def test_rows_of_an_instruction_are_what_the_network_was_built_for(checkpoint):
    rows = read_vla(checkpoint).instructions(fake_encoder).rows(TOLD)
    assert rows.shape == (2, TEXT_ROWS, 16)
