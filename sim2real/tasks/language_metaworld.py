"""Several Meta-World tasks under one policy, which is told what to do (``realign[metaworld]``).

States and actions are those of :mod:`sim2real.tasks.metaworld`, the same for all tasks. A state
tells where things are and not what they are: an object may be a puck, a drawer or a window, and
the puck that is pushed in one task lies there in another one too. What shall be done is in words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from policies.errors import InputError
from policies.evaluation.environment import Outcome, Seen
from policies.interface import Float
from sim2real.tasks.language_phrases import PHRASINGS, Phrasing
from sim2real.tasks.metaworld import MetaWorld, MetaWorldExpert

PREFIX = "language-metaworld"


@dataclass(frozen=True, kw_only=True)
class _Deed:
    """A task, and how people ask for it; ``other`` phrases are held out of training."""

    task: str
    phrases: tuple[str, ...]
    other_phrases: tuple[str, ...]


_DEEDS = {
    "reach": _Deed(
        task="reach-v3",
        phrases=("reach the goal", "move the hand to the target", "go to the goal position"),
        other_phrases=("bring the gripper to the goal", "reach for the target"),
    ),
    "push": _Deed(
        task="push-v3",
        phrases=("push the puck to the goal", "slide the puck to the target", "shove the puck"),
        other_phrases=("push the disc to the target", "move the puck over the table"),
    ),
    "drawer-open": _Deed(
        task="drawer-open-v3",
        phrases=("open the drawer", "pull the drawer open", "pull out the drawer"),
        other_phrases=("please open the drawer", "draw the drawer out"),
    ),
    "drawer-close": _Deed(
        task="drawer-close-v3",
        phrases=("close the drawer", "push the drawer shut", "shut the drawer"),
        other_phrases=("please close the drawer", "push the drawer in"),
    ),
}
NAMES = tuple(_DEEDS)
TASKS = (PREFIX, *(f"{PREFIX}-{name}" for name in NAMES))
"""The first asks for another thing in every run, the others always for the same."""


def phrases(deed: str, phrasing: Phrasing) -> tuple[str, ...]:
    """All instructions for a deed.

    Args:
        deed: one of :data:`NAMES`.
        phrasing: ``train`` or ``held-out``.

    Raises:
        InputError: no such deed or phrasing.
    """
    if deed not in _DEEDS or phrasing not in PHRASINGS:
        raise InputError(
            f"instructions: expected a deed out of {list(NAMES)} and a phrasing out of "
            f"{list(PHRASINGS)}, got {deed!r} and {phrasing!r}"
        )
    return _DEEDS[deed].phrases if phrasing == "train" else _DEEDS[deed].other_phrases


class LanguageMetaWorld:
    """The environment: one Meta-World task in each run, and the words that ask for it.

    Args:
        task: one of :data:`TASKS`.
        instruction: what the policy is told in every run, whatever the task counts as success;
            None to say what the task is.
        phrasing: words that are used to say it.

    Attributes:
        worlds: deed -> its Meta-World task.
        deed: what this run is about, one of :data:`NAMES`.
        instruction: what is told in this run.

    Raises:
        InputError: no such task.
        ModuleNotFoundError: Meta-World is not installed.
    """

    def __init__(
        self,
        task: str = PREFIX,
        *,
        instruction: str | None = None,
        phrasing: Phrasing = "train",
    ) -> None:
        if task not in TASKS:
            raise InputError(f"task: expected one out of {list(TASKS)}, got {task!r}")
        names = NAMES if task == PREFIX else (task.removeprefix(f"{PREFIX}-"),)
        self.worlds = {name: MetaWorld(_DEEDS[name].task) for name in names}
        self._said, self._phrasing = instruction, phrasing
        self.deed, self.instruction = names[0], ""
        self.spec = replace(self.world.spec, name=task)

    @property
    def world(self) -> MetaWorld:
        """The Meta-World task of this run."""
        return self.worlds[self.deed]

    def reset(self, seed: int) -> Seen:
        """Start anew with the goal and objects of ``seed``."""
        names = tuple(self.worlds)
        self.deed = names[seed % len(names)]
        known = phrases(self.deed, self._phrasing)
        drawn = known[int(np.random.default_rng([seed, 5]).integers(len(known)))]
        self.instruction = drawn if self._said is None else self._said
        return self._told(self.world.reset(seed))

    def step(self, action: Float) -> Outcome:
        """Do one action, clipped to [-1, 1]."""
        outcome = self.world.step(action)
        return replace(outcome, seen=self._told(outcome.seen))

    def _told(self, seen: Seen) -> Seen:
        return replace(seen, instruction=self.instruction)


class LanguageMetaWorldExpert:
    """Meta-World's own scripted policy for what each run is about.

    Args:
        environment: the environment, whose whole observation it reads.
    """

    def __init__(self, environment: LanguageMetaWorld) -> None:
        self._environment = environment
        self._experts = {name: MetaWorldExpert(world) for name, world in environment.worlds.items()}

    def reset(self, seed: int) -> None:
        """It has no memory."""

    def act(self, seen: Seen) -> Float:
        """What it would do, clipped to what can be done, (4,)."""
        return self._experts[self._environment.deed].act(seen)
