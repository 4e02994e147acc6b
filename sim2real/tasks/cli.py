"""``realign policy demos`` and ``realign policy eval``: learning from tasks, and being judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from policies.checkpoint_files import read_config
from policies.datasets.collect import collect
from policies.datasets.demonstrations import check_free, save_demonstrations
from policies.diffusion.checkpoint import load_chunk_model
from policies.diffusion.interface import ChunkModel
from policies.errors import InputError
from policies.evaluation.evaluate import EvaluationConfig, evaluate
from policies.evaluation.loop import ExecutionConfig
from policies.vla.checkpoint import build_vla, is_vla, read_vla
from sim2real.results import check_new, write_json
from sim2real.tasks import language_metaworld, language_pick, language_touch, metaworld
from sim2real.tasks.registry import TOLD_TASKS, make_environment, make_expert

DEFAULT_NOISE = 0.1
LINGER = {
    **dict.fromkeys(TOLD_TASKS, 3),
    # A quarter of a second.
    **dict.fromkeys((*metaworld.TASKS, *language_metaworld.TASKS), 20),
}
EXPERT_NOISE = {
    "obstacle": 0.05,
    "panda-ball": 0.02,
    **dict.fromkeys(language_touch.TASKS, 0.02),
    **dict.fromkeys(language_pick.TASKS, 0.006),
}


def policy_demos(
    task: str,
    out: Path,
    *,
    episodes: int = 50,
    noise: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Record demonstrations of a task's scripted expert.

    Args:
        task: obstacle; panda-ball, which has a camera and needs realign[video]; language-touch,
            which has two and asks for one of four things in words, or always for the same with
            -red, -green, -blue or -yellow; language-pick, likewise, where the thing shall be
            lifted; language-touch-so101, the same for another arm; or one of Meta-World, which
            needs realign[metaworld]: reach-v3, drawer-open-v3, pick-place-v3, peg-insert-side-v3,
            or language-metaworld, which asks for one of four in words, or always for the same
            with -reach, -push, -drawer-open or -drawer-close.
        out: dataset to write, LeRobotDataset v3 layout.
        episodes: successful runs to record.
        noise: standard deviation of noise on what is done, in units of the action (Meta-World:
            share of the largest displacement; obstacle: m/s; panda-ball: rad; default: as suits
            the task); recorded is what the expert wanted.
        seed: of tasks, expert and noise.
        overwrite: replace ``out`` if it holds a dataset.
    """
    check_free(out, overwrite=overwrite)
    environment = make_environment(task)
    with tqdm(total=episodes, desc=task, unit="run", disable=None) as bar:
        data = collect(
            environment,
            make_expert(environment),
            episodes=episodes,
            seed=seed,
            linger=LINGER.get(task, 0),
            noise=EXPERT_NOISE.get(task, DEFAULT_NOISE) if noise is None else noise,
            report=bar.update,
        )
    save_demonstrations(data, out, overwrite=overwrite)
    print(f"{out}: {len(data)} demonstrations of {task}, {data.frames} frames")


def policy_eval(
    policy: Path,
    task: str,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    tolerance: float | None = None,
    primer: Literal["denoise", "zero", "constant"] | None = None,
    backend: Literal["onnx", "torch"] = "onnx",
    instruction: str | None = None,
    phrasing: Literal["train", "held-out"] = "train",
    executor: Literal["receding", "ensemble", "async", "rtc"] = "receding",
    action_horizon: int | None = None,
    delay_steps: int = 0,
    drop: float = 0.0,
    in_flight: int = 1,
    fade: int | None = None,
    episodes: int = EvaluationConfig.episodes,
    batch: int = EvaluationConfig.batch,
    seed: int = 0,
    overwrite: bool = False,
    json: Path | None = None,
) -> None:
    """Run a policy on a task: success, smoothness, time for an action.

    Args:
        policy: checkpoint of `realign policy train`.
        task: see `realign policy demos`.
        sampler: how the policy is run, if not as its checkpoint says.
        steps: evaluations of the network for an answer, if not as its checkpoint says.
        tolerance: error that a step of the sampler adaptive may make, normalised actions.
        primer: start of a streaming plan.
        backend: onnx, or torch.
        instruction: what the policy is told in a task with instructions, whatever the task is;
            default: what the task is, in one of the task's phrases.
        phrasing: phrases of such a task: those of its demonstrations, or others.
        executor: receding waits for each answer; ensemble averages plans; async goes on and swaps
            plans; rtc goes on and has the policy continue the running plan.
        action_horizon: actions from one request to the next; default: the policy's own.
        delay_steps: steps from an observation to the answer to it.
        drop: share of observations that get lost, 0 to 1.
        in_flight: requests of async and rtc that may be under way at a time; more than one act on
            newer observations, if the policy answers faster than its answers travel.
        fade: steps beyond the delay over which rtc lets go of the running plan; default: all of
            it, as published.
        episodes: runs.
        batch: runs that go side by side; times are taken on runs of their own.
        seed: of tasks, policy and lost observations.
        overwrite: replace the results if they exist.
        json: file for machine-readable results.
    """
    check_new(json, overwrite=overwrite)
    execution = ExecutionConfig(
        executor=executor,
        action_horizon=action_horizon,
        delay_steps=delay_steps,
        drop=drop,
        in_flight=in_flight,
        fade=fade,
    )
    config = EvaluationConfig(episodes=episodes, batch=batch, seed=seed)
    model = _load(
        policy, task, sampler=sampler, steps=steps, tolerance=tolerance, primer=primer,
        backend=backend,
    )  # fmt: skip
    with tqdm(total=episodes, desc=task, unit="run", disable=None) as bar:
        result = evaluate(
            model,
            lambda: make_environment(task, instruction=instruction, phrasing=phrasing),
            execution=execution,
            config=config,
            report=bar.update,
        )
    content = {
        "policy": model.spec.name,
        "sampler": sampler,
        "steps": steps,
        "executor": executor,
        "delay_steps": delay_steps,
        "drop": drop,
        "in_flight": in_flight,
        "fade": fade,
        "instruction": instruction,
        "seed": seed,
        **result.to_json(),
    }
    print(summary(content))
    if json:
        write_json(json, content)


def _load(
    policy: Path, task: str, *, primer: str | None, backend: Literal["onnx", "torch"], **how: Any
) -> ChunkModel:
    """The model of a checkpoint of any kind that answers with chunks."""
    if not is_vla(read_config(policy)[0]):
        return load_chunk_model(policy, primer=primer, backend=backend, **how)
    if task not in TOLD_TASKS or primer is not None:
        raise InputError(
            f"{policy}: expected a task with instructions, out of {list(TOLD_TASKS)}, "
            f"and no primer for a policy that reads instructions, got {task!r} and {primer!r}"
        )
    return build_vla(read_vla(policy), backend=backend, **how)


def summary(content: dict[str, Any]) -> str:
    """A few lines for people of what :meth:`Evaluation.to_json` gives."""
    low, high = content["success_ci95"]
    time, answer = content["time_per_action_ms"], content["time_per_answer_ms"]
    return "\n".join(
        [
            f"success {content['successes']} of {content['episodes']}: "
            f"{100 * content['success']:.0f} % [{100 * low:.0f}, {100 * high:.0f}], "
            f"{content['steps_mean']:.0f} steps",
            f"largest jump {content['largest_jump']:.3f}, median of the runs "
            f"{content['largest_jump_median']:.3f}; jerk {content['jerk_median']:.4f} per step^3",
            f"time per action: mean {time['mean']:.3f}, p50/p95/p99 {time['p50']:.3f}/"
            f"{time['p95']:.3f}/{time['p99']:.3f} ms; per answer {answer['p50']:.2f}/"
            f"{answer['p95']:.2f}/{answer['p99']:.2f} ms",
            f"network calls per action: {content['network_calls_per_action']:.2f}",
        ]
    )
