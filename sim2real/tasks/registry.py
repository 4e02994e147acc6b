"""Tasks by name: environments to evaluate a policy in, and experts to learn from."""

from __future__ import annotations

from policies.errors import InputError
from policies.evaluation.environment import Environment, Expert
from sim2real.tasks import (
    language_metaworld,
    language_phrases,
    language_pick,
    language_touch,
    metaworld,
    obstacle,
    panda_ball,
)

TOLD_TASKS = (*language_touch.TASKS, *language_pick.TASKS, *language_metaworld.TASKS)
"""Those that have instructions."""
TASKS = (obstacle.SPEC.name, panda_ball.SPEC.name, *TOLD_TASKS, *metaworld.TASKS)


def make_environment(
    task: str, *, instruction: str | None = None, phrasing: language_phrases.Phrasing = "train"
) -> Environment:
    """An environment of a task.

    Args:
        task: one of :data:`TASKS`.
        instruction: what to tell the policy in a task that has instructions; None to say what
            the task is.
        phrasing: words that are used to say it.

    Raises:
        InputError: no such task, or an instruction for one that has none.
        ModuleNotFoundError: the task needs Meta-World, which is not installed.
    """
    if task in language_touch.TASKS:
        return language_touch.LanguageTouch(task, instruction=instruction, phrasing=phrasing)
    if task in language_pick.TASKS:
        return language_pick.LanguagePick(task, instruction=instruction, phrasing=phrasing)
    if task in language_metaworld.TASKS:
        return language_metaworld.LanguageMetaWorld(
            task, instruction=instruction, phrasing=phrasing
        )
    if instruction is not None or phrasing != "train":
        raise InputError(
            f"task {task}: expected no instruction, since it has but one thing to do; use one out "
            f"of {list(TOLD_TASKS)}"
        )
    if task == obstacle.SPEC.name:
        return obstacle.Obstacle()
    if task == panda_ball.SPEC.name:
        return panda_ball.PandaBall()
    if task in metaworld.TASKS:
        return metaworld.MetaWorld(task)
    raise InputError(f"task: expected one out of {list(TASKS)}, got {task!r}")


def make_expert(environment: Environment) -> Expert:
    """The scripted expert of an environment.

    Raises:
        InputError: the environment has none.
    """
    if isinstance(environment, obstacle.Obstacle):
        return obstacle.ObstacleExpert()
    if isinstance(environment, panda_ball.PandaBall):
        return panda_ball.PandaBallExpert(environment)
    if isinstance(environment, language_touch.LanguageTouch):
        return language_touch.LanguageTouchExpert(environment)
    if isinstance(environment, language_pick.LanguagePick):
        return language_pick.LanguagePickExpert(environment)
    if isinstance(environment, language_metaworld.LanguageMetaWorld):
        return language_metaworld.LanguageMetaWorldExpert(environment)
    if isinstance(environment, metaworld.MetaWorld):
        return metaworld.MetaWorldExpert(environment)
    raise InputError(f"task {environment.spec.name}: expected one with an expert, it has none")
