"""Tasks by name: environments to evaluate a policy in, and experts to learn from."""

from __future__ import annotations

from policies.errors import InputError
from policies.evaluation.environment import Environment, Expert
from sim2real.tasks import metaworld, obstacle, panda_ball

TASKS = (obstacle.SPEC.name, panda_ball.SPEC.name, *metaworld.TASKS)


def make_environment(task: str) -> Environment:
    """An environment of a task.

    Raises:
        InputError: no such task.
        ModuleNotFoundError: the task needs Meta-World, which is not installed.
    """
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
    if isinstance(environment, metaworld.MetaWorld):
        return metaworld.MetaWorldExpert(environment)
    raise InputError(f"task {environment.spec.name}: expected one with an expert, it has none")
