"""Groups of rollouts become samples: every LM call with the advantage of its trajectory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.grpo import Scale, group_advantages, step_weights
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.types import Completion, Group, Stage


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
        own = [step for step in trajectory.steps if step.completion is not None and step.kind != "guard"]
        taped.append([(step.stage, step.completion) for step in own if step.completion is not None])
    return taped


def grpo_samples(
    groups: Sequence[Group],
    scale: Scale,
    *,
    eps: float = 1e-6,
    by_stage: Callable[[Mapping[str, float], Stage], float] | None = None,
    over_steps: bool = False,
) -> list[list[Sample]]:
    """Turn groups into samples: every LM call gets an advantage of its trajectory, all tokens weigh 1 together.

    What ties within its group teaches nothing and is left out.

    Args:
        by_stage: maps a trajectory's terms and a stage to the reward that the calls of this stage are compared by; the
            trajectory's own reward in every stage when left out.
        over_steps: normalise over steps in place of trajectories; see `group_advantages`.
    """
    played: list[list[tuple[Completion, float]]] = []
    for group in groups:
        calls = completions(group)
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
