"""What a policy gradient is made of: advantages, and the clipped surrogate."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    gamma: float,
    lam: float,
) -> Tensor:
    """Generalised advantage estimates.

    Args:
        reward: of each step, (T, B).
        value: of the state before each step, (T, B).
        next_value: of the state that a step led to, before any reset, (T, B); it counts unless
            the episode was terminated.
        terminated: 1.0 where the episode was terminated, (T, B).
        ended: 1.0 where it ended in any way, (T, B).
        gamma: discount of a step.
        lam: decay of the estimator.

    Returns:
        Advantages, (T, B).
    """
    error = reward + gamma * next_value * (1.0 - terminated) - value
    out = torch.zeros_like(reward)
    running = torch.zeros_like(reward[0])
    for t in reversed(range(len(reward))):
        running = error[t] + gamma * lam * (1.0 - ended[t]) * running
        out[t] = running
    return out


def clipped_loss(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's pessimistic surrogate, to be minimised.

    Args:
        ratio: probability of each action under the new policy over that under the old, (N,).
        advantage: (N,).
        clip: change of the ratio beyond which nothing more is gained.
    """
    bounded = ratio.clamp(1.0 - clip, 1.0 + clip)
    return -torch.minimum(ratio * advantage, bounded * advantage).mean()
