"""The milestones of an ALFRED task, read off the game's own sentences: taken, put, cleaned, heated, cooled, lit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


class Milestones:
    """Counts what observations tell of a task's milestones; the last milestone is to be done.

    Args:
        task: `traj_data.json` of the game.
    """

    def __init__(self, task: Mapping[str, Any]) -> None:
        self._wanted = dict(_sentences(task))
        self._told: dict[str, set[str]] = {pattern: set() for pattern in self._wanted}

    def share(self, text: str) -> float:
        """Take note of an observation and return the share of the milestones that are met, in [0, 1)."""
        for pattern, told in self._told.items():
            told.update(re.findall(pattern, text))
        met = sum(min(times, len(self._told[pattern])) for pattern, times in self._wanted.items())
        return met / (sum(self._wanted.values()) + 1)


def _sentences(task: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    """Yield for each milestone a pattern, and of how many different things it has to be told."""
    kind: str = task["task_type"]
    names = {key: re.escape(str(value).lower()) for key, value in task["pddl_params"].items()}
    thing, two = names["object_target"], kind.startswith("pick_two")
    yield rf"You pick up the {thing} \d+", 2 if two else 1
    if two:
        yield rf"You move the {thing} \d+ to the {names['parent_target']} \d+", 1
    for change in ("clean", "heat", "cool"):
        if change in kind:
            yield rf"You {change} the {thing} \d+", 1
    if names["toggle_target"]:
        yield rf"You turn on the {names['toggle_target']} \d+", 1
