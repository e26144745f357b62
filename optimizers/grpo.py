"""Step-wise GRPO as pure functions (AgeMem, section 5).

Letters: G trajectories of a group, N tokens of an update, S steps (LM calls).
Deviations: 1. clipping (0.2) is on by default, `clip=None` is Eq. 6 as printed; 2. Eq. 6 has one ratio a step, that of
its whole action, whose gradient is the sum over the step's tokens. Here every token has a ratio of its own and, by
default, the same weight, which has that gradient up to a constant. A mean within each step first ("call") gives the
tokens of a short action more weight than those of a long one: it then pays to answer where a tool call was better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from agemem_dspy.errors import ConfigurationError

Credit = Literal["broadcast", "stage", "call", "released"]
CREDITS: tuple[Credit, ...] = get_args(Credit)
Scale = Literal["token", "call", "trajectory"]
SCALES: tuple[Scale, ...] = get_args(Scale)


def group_advantages(
    rewards_G: Sequence[float], *, eps: float = 1e-6, steps_G: Sequence[int] | None = None
) -> NDArray[np.float64]:
    """Return (r - mean) / (std + eps) over one group's trajectories, (G,); zeros where all tie.

    The standard deviation is the sample one, over trajectories and not over steps.

    Args:
        rewards_G: one a trajectory.
        eps: in units of reward.
        steps_G: how many steps each trajectory has; mean and deviation are then taken over steps, as the authors'
            released code does, so that long trajectories weigh more.

    Raises:
        ConfigurationError: fewer than two rewards, or one that is not finite.
    """
    rewards = np.asarray(rewards_G, dtype=np.float64)
    if rewards.ndim != 1 or len(rewards) < 2:
        raise ConfigurationError("a group needs at least 2 trajectories: set num_generations to 2 or more")
    if not np.isfinite(rewards).all():
        raise ConfigurationError(f"rewards must be finite, not {rewards.tolist()}")
    if rewards.std() <= 1e-9 * max(1.0, float(np.abs(rewards).max())):
        return np.zeros_like(rewards)
    compared = rewards if steps_G is None else np.repeat(rewards, steps_G)
    if len(compared) < 2:
        return np.zeros_like(rewards)
    advantages: NDArray[np.float64] = (rewards - compared.mean()) / (compared.std(ddof=1) + eps)
    return advantages


def gains_to_go(gains_S: Sequence[float], lam: float) -> NDArray[np.float64]:
    """Return for each step its own gain and the discounted ones after it: sum over l of lam**l gains[s + l], (S,).

    This is generalized advantage estimation (Schulman et al. 2016) with the reward earned so far as the value of a
    state: 1 counts all that came after a step, without bias; 0 the step's own gain alone, with the least noise.
    """
    total, sums = 0.0, []
    for gain in reversed(gains_S):
        total = gain + lam * total
        sums.append(total)
    return np.asarray(sums[::-1], dtype=np.float64)


def step_weights(lengths: Sequence[Sequence[int]], scale: Scale) -> list[list[float]]:
    """Return what one token of each step weighs, so that all tokens of an update sum to 1.

    Args:
        lengths: for each trajectory, the completion length of each of its steps.
        scale: "token" gives every token the same weight, "call" every step the same total, "trajectory" every
            trajectory. Only "token" has the policy gradient of the reward where actions differ in length.

    Raises:
        ConfigurationError: an unknown scale.
    """
    flat = [n for steps in lengths for n in steps]
    match scale:
        case "token":
            return [[1.0 / sum(flat) for _ in steps] for steps in lengths]
        case "call":
            return [[1.0 / (len(flat) * n) for n in steps] for steps in lengths]
        case "trajectory":
            played = sum(1 for steps in lengths if steps)
            return [[1.0 / (played * sum(steps)) for _ in steps] for steps in lengths]
    raise ConfigurationError(f"scale must be 'token', 'call' or 'trajectory', not {scale!r}")


@dataclass(frozen=True, slots=True)
class LossParts:
    """The loss and what it is made of; `kl` and `clipped` are weighted means over tokens."""

    loss: torch.Tensor
    kl: float
    clipped: float
    ratio: float


def stepwise_grpo_loss(
    logp_N: torch.Tensor,
    old_logp_N: torch.Tensor,
    advantages_N: torch.Tensor,
    weights_N: torch.Tensor,
    *,
    ref_logp_N: torch.Tensor | None = None,
    beta: float = 0.0,
    clip: float | None = 0.2,
) -> LossParts:
    """Return minus the objective: sum of w * (min(rho A, clip(rho) A) - beta KL) over action tokens.

    Args:
        logp_N: log-probabilities under the policy being trained, with gradient.
        old_logp_N: the sampler's own.
        advantages_N: each token's trajectory advantage.
        weights_N: from `step_weights`.
        ref_logp_N: under the reference policy; needed when beta > 0.
        beta: weight of KL(pi || pi_ref), estimated without bias and never negative (k3).
        clip: half-width of the ratio's interval; None does not clip.

    Raises:
        ConfigurationError: beta > 0 without reference log-probabilities.
    """
    ratio = torch.exp(logp_N - old_logp_N)
    surrogate = ratio * advantages_N
    clipped = torch.zeros_like(ratio, dtype=torch.bool)
    if clip is not None:
        bounded = ratio.clamp(1.0 - clip, 1.0 + clip) * advantages_N
        clipped = bounded < surrogate
        surrogate = torch.minimum(surrogate, bounded)
    loss = -(weights_N * surrogate).sum()
    kl = torch.zeros(())
    if beta > 0:
        if ref_logp_N is None:
            raise ConfigurationError("beta > 0 needs the reference policy's log-probabilities")
        log_ratio = ref_logp_N - logp_N
        kl = (weights_N * (torch.exp(log_ratio) - log_ratio - 1.0)).sum()
        loss = loss + beta * kl
    total = weights_N.sum()
    return LossParts(
        loss=loss,
        kl=float(kl.detach() / total),
        clipped=float((weights_N * clipped).sum() / total),
        ratio=float((weights_N * ratio.detach()).sum() / total),
    )
