"""Proximal policy optimisation (Schulman et al., arXiv 1707.06347) with an asymmetric critic.

Collect a short rollout from all environments, estimate advantages (GAE, arXiv 1506.02438), take a
few epochs of clipped gradient steps. The actor's step size follows the divergence from the policy
that collected the data; the critic may see more than the actor.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from policies.errors import InputError
from sim2real.rl.env import Inputs, VectorEnv
from sim2real.rl.networks import GaussianActor, Mlp, RunningNorm, divergence, entropy, log_prob
from sim2real.rl.objective import clipped_loss, gae


@dataclass(frozen=True, kw_only=True)
class PpoConfig:
    """Settings of the learner.

    Attributes:
        steps: steps of each environment in a rollout.
        epochs: passes over a rollout.
        minibatches: gradient steps in a pass.
        gamma: discount of a step.
        lam: decay of the advantage estimator.
        clip: bound on the change of an action's probability ratio.
        value_clip: bound on the change of a value in one update; None for no bound.
        entropy: weight of the entropy bonus.
        actor_lr: initial learning rate of the actor.
        critic_lr: learning rate of the critic.
        target_kl: divergence that the actor's learning rate is steered to; None for a fixed rate.
        lr_range: bounds of the actor's learning rate.
        max_grad_norm: bound on the norm of a gradient, for each network.
        std_range: bounds of the standard deviation of the actions.
        critic_warmup: first updates that train the critic only: a critic that knows nothing would
            ruin an actor that can already do something.
        anchor: weight of the divergence from the initial actor; 0 for none.
        normalize_actor: standardise the actor's inputs by running statistics. An actor that comes
            with trained weights has its own scaling.
        device: where the networks are, as torch names it; the environment stays in NumPy.
        seed: of the noise and the order of samples.
    """

    steps: int = 24
    epochs: int = 5
    minibatches: int = 4
    gamma: float = 0.99
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float | None = None
    entropy: float = 0.01
    actor_lr: float = 1e-3
    critic_lr: float = 1e-3
    target_kl: float | None = 0.01
    lr_range: tuple[float, float] = (1e-5, 1e-2)
    max_grad_norm: float = 1.0
    std_range: tuple[float, float] = (1e-3, 10.0)
    critic_warmup: int = 0
    anchor: float = 0.0
    normalize_actor: bool = False
    device: str = "cpu"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What happened in one iteration.

    Attributes:
        reward: mean reward of a step.
        episode_return, episode_steps: means over the last 200 finished episodes; NaN before one.
        terminated: share of the episodes that ended in this iteration which were terminated.
        value_loss: mean squared error of the critic.
        kl: mean divergence of the new from the old policy over the gradient steps.
        lr: the actor's learning rate at the end.
        std: mean standard deviation of the actions.
        metrics: means of what the environment reports.
    """

    reward: float
    episode_return: float
    episode_steps: float
    terminated: float
    value_loss: float
    kl: float
    lr: float
    std: float
    metrics: dict[str, float]


@dataclass(kw_only=True)
class Rollout:
    """``steps`` steps of B environments; tensors (steps, B, ...).

    Attributes:
        actor: the actor's inputs.
        critic: the critic's inputs, and after the last step once more, (steps + 1, B, ...).
        final: the critic's inputs before a reset.
        action, mean: what was done, and the mean that it was drawn around.
        reward: rewards.
        terminated, ended: 1.0 where the episode was terminated; where it ended in any way.
    """

    actor: Tensor
    critic: Tensor
    final: Tensor
    action: Tensor
    mean: Tensor
    reward: Tensor
    terminated: Tensor
    ended: Tensor

    @classmethod
    def empty(cls, steps: int, count: int, sizes: tuple[int, int, int], device: str) -> Rollout:
        """Memory for a rollout."""
        actor, critic, action = sizes

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, device=device)

        return cls(
            actor=zeros(steps, count, actor),
            critic=zeros(steps + 1, count, critic),
            final=zeros(steps, count, critic),
            action=zeros(steps, count, action),
            mean=zeros(steps, count, action),
            reward=zeros(steps, count),
            terminated=zeros(steps, count),
            ended=zeros(steps, count),
        )


class Ppo:
    """Learner of one actor and critic on one vectorised environment.

    Args:
        env: the environment; it is reset here.
        actor: starting point; it is trained in place.
        critic: maps the critic's inputs to one value; trained in place.
        config: settings.

    Raises:
        InputError: the networks do not fit the environment, or settings make no sense.
    """

    def __init__(
        self, env: VectorEnv, actor: GaussianActor, critic: Mlp, config: PpoConfig | None = None
    ) -> None:
        self.config = config or PpoConfig()
        _check(env, actor, critic, self.config)
        torch.set_num_threads(1)  # the simulator has the cores; networks this small gain nothing
        device = self.config.device
        self.env, self.actor, self.critic = env, actor.to(device), critic.to(device)
        self.actor_norm = (
            RunningNorm(env.sizes[0]).to(device) if self.config.normalize_actor else None
        )
        self.critic_norm = RunningNorm(env.sizes[1]).to(device)
        self.iteration = 0
        self._generator = torch.Generator(device).manual_seed(self.config.seed)
        self._actor_adam = torch.optim.Adam(actor.parameters(), lr=self.config.actor_lr)
        self._critic_adam = torch.optim.Adam(critic.parameters(), lr=self.config.critic_lr)
        self._anchor = (
            Mlp.of(*actor.mean.arrays(), actor.mean.activation).to(device)
            if self.config.anchor
            else None
        )
        self._memory = Rollout.empty(self.config.steps, env.count, env.sizes, device)
        self._inputs: Inputs = env.reset()
        self._return, self._length = np.zeros(env.count), np.zeros(env.count)
        self._finished: deque[tuple[float, float]] = deque(maxlen=200)

    def iterate(self) -> Stats:
        """Collect one rollout and learn from it."""
        metrics = self._collect()
        advantage, target, value = self._judge()
        value_loss, kl = self._update(advantage, target, value)
        self.iteration += 1
        memory = self._memory
        ended = float(memory.ended.sum())
        returns, lengths = np.array(self._finished or [(np.nan, np.nan)]).mean(axis=0)
        return Stats(
            reward=float(memory.reward.mean()),
            episode_return=float(returns),
            episode_steps=float(lengths),
            terminated=float(memory.terminated.sum()) / max(ended, 1.0),
            value_loss=value_loss,
            kl=kl,
            lr=self._actor_adam.param_groups[0]["lr"],
            std=float(self.actor.std.detach().mean()),
            metrics=metrics,
        )

    @torch.no_grad()
    def _collect(self) -> dict[str, float]:
        """Fill the memory; returns the means of the environment's metrics."""
        memory, sums = self._memory, dict[str, float]()
        for t in range(self.config.steps):
            memory.actor[t] = torch.from_numpy(self._inputs.actor)
            memory.critic[t] = torch.from_numpy(self._inputs.critic)
            mean = self.actor(self._actor_input(memory.actor[t]))
            noise = torch.randn(mean.shape, generator=self._generator, device=mean.device)
            memory.mean[t], memory.action[t] = mean, mean + noise * self.actor.std
            step = self.env.step(memory.action[t].cpu().numpy())
            ended = step.terminated | step.truncated
            memory.reward[t] = torch.from_numpy(step.reward)
            memory.terminated[t] = torch.from_numpy(step.terminated)
            memory.ended[t] = torch.from_numpy(ended)
            memory.final[t] = torch.from_numpy(step.final_critic)
            self._inputs = step.inputs
            self._return += step.reward
            self._length += 1
            self._finished.extend(zip(self._return[ended], self._length[ended], strict=True))
            self._return[ended] = self._length[ended] = 0
            for name, number in step.metrics.items():
                sums[name] = sums.get(name, 0.0) + number / self.config.steps
        memory.critic[-1] = torch.from_numpy(self._inputs.critic)
        if not bool(torch.isfinite(memory.reward).all() & torch.isfinite(memory.critic).all()):
            raise InputError(
                "expected finite rewards and observations in training, got NaN or infinity: "
                "the simulation diverged; use a smaller action noise or another delta model"
            )
        return sums

    @torch.no_grad()
    def _judge(self) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised advantages, returns to regress to, and present values, (steps * B,) each."""
        memory, config = self._memory, self.config
        self.critic_norm.update(memory.critic[:-1].flatten(0, 1))
        value = self._value(memory.critic)
        next_value = torch.where(memory.ended > 0, self._value(memory.final), value[1:])
        advantage = gae(
            memory.reward,
            value[:-1],
            next_value,
            memory.terminated,
            memory.ended,
            gamma=config.gamma,
            lam=config.lam,
        )
        target = (advantage + value[:-1]).flatten()
        flat = advantage.flatten()
        return (flat - flat.mean()) / (flat.std() + 1e-8), target, value[:-1].flatten()

    def _actor_input(self, x: Tensor) -> Tensor:
        return x if self.actor_norm is None else self.actor_norm(x)

    def _value(self, x: Tensor) -> Tensor:
        out: Tensor = self.critic(self.critic_norm(x))
        return out.squeeze(-1)

    def _update(self, advantage: Tensor, target: Tensor, value: Tensor) -> tuple[float, float]:
        """Gradient steps on the memory; returns the mean value loss and divergence."""
        memory, config = self._memory, self.config
        data = {
            "actor": self._actor_input(memory.actor.flatten(0, 1)),
            "critic": self.critic_norm(memory.critic[:-1].flatten(0, 1)),
            "action": memory.action.flatten(0, 1),
            "mean": memory.mean.flatten(0, 1),
            "advantage": advantage,
            "target": target,
            "value": value,
        }
        std = self.actor.std.detach().clone()
        data["log_prob"] = log_prob(data["action"], data["mean"], std)
        if self._anchor is not None:
            with torch.no_grad():
                data["anchor"] = self._anchor(data["actor"])
        losses, kls = [], [0.0]
        for _ in range(config.epochs):
            order = torch.randperm(len(target), generator=self._generator, device=target.device)
            for part in order.chunk(config.minibatches):
                batch = {name: tensor[part] for name, tensor in data.items()}
                losses.append(self._step_critic(batch))
                if self.iteration >= config.critic_warmup:
                    kls.append(self._step_actor(batch, std))
        if self.actor_norm is not None:  # after the update: old and new policy see the same scale
            self.actor_norm.update(memory.actor.flatten(0, 1))
        return float(np.mean(losses)), float(np.mean(kls[1:] or kls))

    def _step_critic(self, batch: dict[str, Tensor]) -> float:
        value = self.critic(batch["critic"]).squeeze(-1)
        error = (value - batch["target"]) ** 2
        limit = self.config.value_clip
        if limit is not None:
            bounded = batch["value"] + (value - batch["value"]).clamp(-limit, limit)
            error = torch.maximum(error, (bounded - batch["target"]) ** 2)
        self._descend(self._critic_adam, self.critic, error.mean())
        return float(error.detach().mean())

    def _step_actor(self, batch: dict[str, Tensor], old_std: Tensor) -> float:
        config = self.config
        mean, std = self.actor(batch["actor"]), self.actor.std
        kl = float(divergence(batch["mean"], old_std, mean.detach(), std.detach()).mean())
        self._steer(kl)
        ratio = (log_prob(batch["action"], mean, std) - batch["log_prob"]).exp()
        loss = clipped_loss(ratio, batch["advantage"], config.clip) - config.entropy * entropy(std)
        if "anchor" in batch:
            away = divergence(mean, std.detach(), batch["anchor"], std.detach())
            loss = loss + config.anchor * away.mean()
        self._descend(self._actor_adam, self.actor, loss)
        with torch.no_grad():
            low, high = config.std_range
            self.actor.log_std.clamp_(np.log(low), np.log(high))
        return kl

    def _steer(self, kl: float) -> None:
        """Keep the divergence of an update near its target by the learning rate."""
        target = self.config.target_kl
        if target is None:
            return
        low, high = self.config.lr_range
        for group in self._actor_adam.param_groups:
            if kl > 2.0 * target:
                group["lr"] = max(group["lr"] / 1.5, low)
            elif 0.0 < kl < target / 2.0:
                group["lr"] = min(group["lr"] * 1.5, high)

    def _descend(
        self, optimizer: torch.optim.Optimizer, network: torch.nn.Module, loss: Tensor
    ) -> None:
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), self.config.max_grad_norm)
        optimizer.step()


def _check(env: VectorEnv, actor: GaussianActor, critic: Mlp, config: PpoConfig) -> None:
    inputs, privileged, actions = env.sizes
    have = (actor.mean.widths[0], actor.mean.widths[-1], critic.widths[0], critic.widths[-1])
    if have != (inputs, actions, privileged, 1):
        raise InputError(
            f"expected networks for {inputs} actor inputs, {actions} actions and {privileged} "
            f"critic inputs, got {have[0]}, {have[1]} and {have[2]}; build them for this task"
        )
    positive = ("steps", "epochs", "minibatches", "actor_lr", "critic_lr", "clip", "max_grad_norm")
    wrong = [name for name in positive if not getattr(config, name) > 0]
    wrong += [name for name in ("gamma", "lam") if not 0.0 <= getattr(config, name) <= 1.0]
    wrong += [n for n in ("entropy", "critic_warmup", "anchor") if getattr(config, n) < 0]
    if config.minibatches > config.steps * env.count:
        wrong.append("minibatches")
    if not 0.0 < config.std_range[0] <= config.std_range[1]:
        wrong.append("std_range")
    if not 0.0 < config.lr_range[0] <= config.lr_range[1]:
        wrong.append("lr_range")
    if wrong:
        raise InputError(f"expected sensible settings of PPO, got others for {wrong}; correct them")
