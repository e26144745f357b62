"""Groups of rollouts become samples: LM calls with their advantages, of the trajectory, the stage or the call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.grpo import Scale, gains_to_go, group_advantages, step_weights
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.types import Completion, Group, Stage, Trajectory

Advantages = list[list[float | None]]  # for each trajectory its trained calls' own; None where all tied: left out


def completions(group: Group) -> list[list[tuple[Stage, Completion]]]:
    """Return each trajectory's taped completions with their stages, in the order they were sampled.

    Summaries that the overflow guard asked for are the system's doing and are left out.

    Raises:
        ConfigurationError: a step has no completion, so it was not sampled by a local policy.
    """
    taped = []
    for trajectory in group.trajectories:
        if any(step.completion is None and step.error is None for step in trajectory.steps):
            raise ConfigurationError("a step carries no sampled tokens; the whole program must use one local policy")
        taped.append([(trajectory.steps[s].stage, completion) for s, completion in _trained(trajectory)])
    return taped


def _trained(trajectory: Trajectory) -> list[tuple[int, Completion]]:
    """Return the completions that the policy is answerable for, with the numbers of their steps."""
    own = enumerate(trajectory.steps)
    return [(s, step.completion) for s, step in own if step.completion is not None and step.kind != "guard"]


def by_trajectory(group: Group, *, eps: float = 1e-6, over_steps: bool = False) -> Advantages:
    """Give every call its trajectory's advantage.

    Args:
        over_steps: normalise over steps in place of trajectories; see `group_advantages`.
    """
    calls = completions(group)
    steps = [len(taped) for taped in calls] if over_steps else None
    advantages = group_advantages(group.rewards, eps=eps, steps_G=steps).tolist()
    return [[own if any(advantages) else None for _ in taped] for own, taped in zip(advantages, calls, strict=True)]


def by_stage(group: Group, *, part: Callable[[Mapping[str, float], Stage], float], eps: float = 1e-6) -> Advantages:
    """Compare the calls of a stage by the part of a trajectory's terms that this stage can change."""
    advantages = {
        stage: group_advantages([part(terms, stage) for terms in group.terms], eps=eps).tolist() for stage in Stage
    }
    return [
        [advantages[stage][k] if any(advantages[stage]) else None for stage, _ in taped]
        for k, taped in enumerate(completions(group))
    ]


def by_call(group: Group, *, lam: float, eps: float = 1e-6) -> Advantages:
    """Compare each call's `gains_to_go` with those of the group's calls that saw the same prompt."""
    alike = defaultdict[tuple[int, ...], list[tuple[int, int, float]]](list)
    advantages: Advantages = []
    for k, (trajectory, gains) in enumerate(zip(group.trajectories, group.gains, strict=True)):
        trained, worth = _trained(trajectory), gains_to_go(gains, lam).tolist()
        advantages.append([None] * len(trained))
        for call, (s, completion) in enumerate(trained):
            alike[completion.prompt_ids].append((k, call, worth[s]))
    for calls in alike.values():
        if len(calls) > 1:
            compared = group_advantages([worth for _, _, worth in calls], eps=eps).tolist()
            for (k, call, _), advantage in zip(calls, compared, strict=True):
                advantages[k][call] = advantage or None
    return advantages


def grpo_samples(
    groups: Sequence[Group], scale: Scale, advantages: Callable[[Group], Advantages] = by_trajectory
) -> list[list[Sample]]:
    """Turn groups into samples: LM calls with their advantages; all tokens weigh 1 together.

    Args:
        advantages: how credit is given: `by_trajectory`, `by_stage` or `by_call`.
    """
    played = [
        [(one, advantage) for (_, one), advantage in zip(taped, own, strict=True) if advantage is not None]
        for group in groups
        for taped, own in zip(completions(group), advantages(group), strict=True)
    ]
    played = [own for own in played if own]
    if not played:
        return []
    weights = step_weights([[len(one.completion_ids) for one, _ in own] for own in played], scale)
    return [
        [Sample.of(one, advantage=advantage, weight=w) for (one, advantage), w in zip(own, ws, strict=True)]
        for own, ws in zip(played, weights, strict=True)
    ]
