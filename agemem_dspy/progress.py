"""AgentBoard's progress rate: the share of an episode's labelled subgoals that its observations show.

As there, a label is a sentence with gaps ("There is a red ball ** 1 steps away."), labels may be met in any order,
and an observation meets one at most. Deviations: 1. a goal that is reached counts as all of it; 2. labels of another
mission than the one that was played do not count: minigrid has changed a level since.
"""

from __future__ import annotations

from typing import Any

from agemem_dspy.types import Trajectory


def progress_rate(example: Any, trajectory: Trajectory) -> float:
    """Return the progress rate in [0, 1]; the world's own progress where the example has no labels.

    Args:
        example: `subgoals` holds the labels, each a list of alternatives, and `goal` the mission that they are of.
        trajectory: of an episode in a world.
    """
    outcome = trajectory.outcome
    if outcome is None or outcome.success:
        return float(outcome is not None)
    if not example.get("subgoals") or example.get("goal") != outcome.goal:
        return outcome.progress
    waiting = [list(alternatives) for alternatives in example["subgoals"]]
    for event in trajectory.events:
        if event.tool == "act" and event.ok:
            met = next((one for one in waiting if any(shows(event.observation, label) for label in one)), None)
            if met is not None:
                waiting.remove(met)
    return 1.0 - len(waiting) / len(example["subgoals"])


def shows(observation: str, label: str) -> bool:
    """Tell whether one sentence of an observation holds all that a label says around its gaps."""
    pieces = [piece.strip(".") for piece in label.strip().split("**")]
    return any(all(piece in sentence for piece in pieces) for sentence in observation.split("."))
