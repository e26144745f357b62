"""Tasks in worlds (`environments`) as three-stage examples: knowledge, small talk, then the task itself.

What arrives in stage 1 is all worth storing: the rules of the world, or how the very task was solved an earlier time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import dspy

from agemem_dspy.data.distractors import make_distractors
from agemem_dspy.data.files import WORLD_INPUTS, check_limit
from agemem_dspy.environments import Environment, make_environment
from agemem_dspy.errors import DataError

Knowledge = Literal["rules", "episode"]
_MADE = 100  # episodes when no limit is given


def world_examples(
    environment: str, seeds: Iterable[int], *, knowledge: Knowledge = "rules", n_distractors: int = 5
) -> list[dspy.Example]:
    """Return one example a seed of a world, as `make_environment` names it.

    Args:
        knowledge: what stage 1 tells: the world's "rules", one a message, or an earlier "episode" of the same seed,
            played by the world's expert.
        n_distractors: messages of small talk in stage 2.

    Raises:
        ConfigurationError: no such world, or a negative seed.
        DataError: another kind of knowledge, or more distractors than there are.
        MissingDependency: the world's extra is not installed.
        WorldError: the expert does not solve an episode that is to be told.
    """
    with make_environment(environment) as world:
        examples = []
        for seed in seeds:
            world.reset(seed)
            examples.append(to_example(world, seed, knowledge=knowledge, n_distractors=n_distractors))
        return examples


def load(kind: str, where: str, *, limit: int | None = None) -> list[dspy.Example]:
    """Return episodes of tasks named with commas between them, by turns, with the seeds from that behind an @ on.

    So "GoToObjS6,GoToDoor@7" of babyai are GoToObjS6#7, GoToDoor#7, GoToObjS6#8, …; 100 of them when no limit is given,
    and of pddl, where a seed changes nothing, one a problem.

    Raises:
        ConfigurationError, MissingDependency: as for `world_examples`.
        DataError: a limit under 1.
    """
    check_limit(limit)
    tasks, mark, seed = where.rpartition("@")
    if not mark or not seed.isdecimal():
        tasks, seed = where, "0"
    names = [f"{kind}:{task}" for task in tasks.split(",")]
    total = limit or _MADE
    rounds = 1 if kind == "pddl" else -(-total // len(names))
    seeds = range(int(seed), int(seed) + rounds)
    rows = zip(*(world_examples(name, seeds) for name in names), strict=True)
    return [example for turn in rows for example in turn][:total]


def to_example(
    world: Environment,
    seed: int,
    labels: Mapping[str, Any] | None = None,
    *,
    knowledge: Knowledge = "rules",
    n_distractors: int = 5,
) -> dspy.Example:
    """Return the example of the episode that a world was reset to; `labels` are kept beside it."""
    if knowledge not in ("rules", "episode"):
        raise DataError(f"unknown knowledge {knowledge!r}: give 'rules' or 'episode'")
    told = list(world.rules) if knowledge == "rules" else [earlier_episode(world)]
    name = f"{world.name}#{seed}"
    return dspy.Example(
        **{
            "id": name,
            "messages": told,
            "distractors": make_distractors(n_distractors, seed=name, avoid=[world.goal, *told]),
            "environment": world.name,
            "seed": seed,
            "goal": world.goal,
            "facts": told,
            "operations": [{"turn": n, "tool": "add_memory", "content": text} for n, text in enumerate(told)],
            "support": list(told),
            "key_items": [],
            **(labels or {}),
        }
    ).with_inputs(*WORLD_INPUTS)


def earlier_episode(world: Environment) -> str:
    """Return in a sentence or two how the world's expert solves its episode."""
    return f"An earlier time the task was: {world.goal.rstrip('.')}. It was done by: {'; '.join(world.solution())}."
