"""Groups of rollouts become samples: every LM call with the advantage of its trajectory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.grpo import Scale, gains_to_go, group_advantages, step_weights
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.types import Completion, Group, Stage, Trajectory


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


def grpo_samples(
    groups: Sequence[Group],
    scale: Scale,
    *,
    eps: float = 1e-6,
    by_stage: Callable[[Mapping[str, float], Stage], float] | None = None,
    over_steps: bool = False,
    lam: float | None = None,
) -> list[list[Sample]]:
    """Turn groups into samples: LM calls with their advantages; all tokens weigh 1 together.

    A call has the advantage of its trajectory, unless `by_stage` or `lam` say otherwise. What ties teaches nothing and
    is left out.

    Args:
        by_stage: maps a trajectory's terms and a stage to the reward that the calls of this stage are compared by; the
            trajectory's own reward in every stage when left out.
        over_steps: normalise over steps in place of trajectories; see `group_advantages`.
        lam: compare each call's `gains_to_go` with those of the group's calls that saw the same prompt.
    """
    played: list[list[tuple[Completion, float]]] = []
    for group in groups:
        calls = completions(group)
        if lam is not None:
            for taped, own in zip(calls, _among_same_prompts(group, lam, eps), strict=True):
                played.append([(one, advantage) for (_, one), advantage in zip(taped, own, strict=True) if advantage])
            continue
        counts = [len(taped) for taped in calls] if over_steps else None
        advantages = {
            stage: group_advantages(
                group.rewards if by_stage is None else [by_stage(terms, stage) for terms in group.terms],
                eps=eps,
                steps_G=counts,
            ).tolist()
            for stage in Stage
        }
        for k, taped in enumerate(calls):
            played.append([(one, advantages[stage][k]) for stage, one in taped if any(advantages[stage])])
    played = [own for own in played if own]
    if not played:
        return []
    weights = step_weights([[len(one.completion_ids) for one, _ in own] for own in played], scale)
    return [
        [Sample.of(one, advantage=advantage, weight=w) for (one, advantage), w in zip(own, ws, strict=True)]
        for own, ws in zip(played, weights, strict=True)
    ]


def _among_same_prompts(group: Group, lam: float, eps: float) -> list[list[float]]:
    """Return an advantage for each trajectory's trained calls; 0 for one whose prompt no other call saw."""
    advantages, alike = [], defaultdict[tuple[int, ...], list[tuple[int, int, float]]](list)
    for k, (trajectory, gains) in enumerate(zip(group.trajectories, group.gains, strict=True)):
        trained, worth = _trained(trajectory), gains_to_go(gains, lam).tolist()
        advantages.append([0.0] * len(trained))
        for call, (s, completion) in enumerate(trained):
            alike[completion.prompt_ids].append((k, call, worth[s]))
    for calls in alike.values():
        if len(calls) > 1:
            compared = group_advantages([worth for _, _, worth in calls], eps=eps).tolist()
            for (k, call, _), advantage in zip(calls, compared, strict=True):
                advantages[k][call] = advantage
    return advantages
