"""What a GRPO run looks like from outside, and the ways in which one goes wrong unseen."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from agemem_dspy.optimizers.grpo import group_advantages
from agemem_dspy.rewards import TERMS
from agemem_dspy.types import Group, Stage

ADVANTAGE_EDGES = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)


def describe_groups(groups: Sequence[Group]) -> dict[str, Any]:
    """Return what a step's rollouts were like.

    Returns:
        mean `reward`, its standard deviation and the mean `terms`; `tied_groups`; `parse_rate`, `tool_success` and, of
        the trajectories that were asked something, `answer_rate`, each None where there was nothing to count; `tools`,
        the calls by name, and their entropy in nats; `advantages`, how many trajectories lie between the
        `ADVANTAGE_EDGES`.
    """
    rewards = [reward for group in groups for reward in group.rewards]
    terms = [term for group in groups for term in group.terms]
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    steps = [step for trajectory in trajectories for step in trajectory.steps if step.kind == "act"]
    events = [event for trajectory in trajectories for event in trajectory.events if not event.automatic]
    asked = [t for t in trajectories if any(step.stage is Stage.REASON for step in t.steps)]
    advantages = [group_advantages(group.rewards) for group in groups]
    tools = Counter(event.tool or "none" for event in events)
    return {
        "reward": statistics.fmean(rewards),
        "reward_std": statistics.pstdev(rewards),
        "terms": {name: statistics.fmean(t[name] for t in terms) for name in terms[0]},
        "tied_groups": sum(not one.any() for one in advantages),
        "parse_rate": statistics.fmean(step.parsed for step in steps) if steps else None,
        "tool_success": statistics.fmean(e.ok for e in events) if events else None,
        "answer_rate": statistics.fmean(t.answered for t in asked) if asked else None,
        "tools": dict(tools),
        "tool_entropy": -sum(n / tools.total() * math.log(n / tools.total()) for n in tools.values()),
        "advantages": _histogram([float(one) for own in advantages for one in own]),
    }


class FarmedTerms:
    """Finds reward terms that a policy raises at the answers' expense.

    Compares the mean of the last `window` steps with that of the first: a term that rose by `rise` while the answer
    score fell by `fall` is farmed, and named once.
    """

    def __init__(self, *, window: int = 5, rise: float = 0.2, fall: float = 0.1) -> None:
        self.window, self.rise, self.fall = window, rise, fall
        self.seen: list[Mapping[str, float]] = []
        self._named: set[str] = set()

    def update(self, terms: Mapping[str, float]) -> list[str]:
        """Take the mean terms of a step; return the terms found to be farmed since."""
        self.seen.append(terms)
        if len(self.seen) < 2 * self.window or "answer" not in terms:
            return []
        change = {name: self._mean(name, -self.window) - self._mean(name, 0) for name in terms}
        if change["answer"] > -self.fall:
            return []
        found = [name for name in TERMS if name != "task" and change.get(name, 0.0) >= self.rise]
        new = [name for name in found if name not in self._named]
        self._named.update(new)
        return new

    def _mean(self, name: str, start: int) -> float:
        seen = self.seen[start:][: self.window]
        return statistics.fmean(terms[name] for terms in seen)


def _histogram(values: Sequence[float]) -> list[int]:
    counts = [0] * (len(ADVANTAGE_EDGES) + 1)
    for value in values:
        counts[sum(value >= edge for edge in ADVANTAGE_EDGES)] += 1
    return counts
