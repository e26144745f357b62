"""AgentBoard's test sets: each row of a label file as an example in the world that it is of.

A row's progress labels (`subgoals`) and difficulty come along. ScienceWorld reads the file itself, and its seed is the
place of a row. Rows of PDDL problems have their problem by its place
among the files of its domain, in the order of their names; the reader checks that its goal is the one labelled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import dspy
from pydantic import BaseModel, ConfigDict, ValidationError

from agemem_dspy.data.files import check_limit, explain, read_text
from agemem_dspy.data.worlds import to_example
from agemem_dspy.environments import Environment, make_environment
from agemem_dspy.errors import DataError

_BABYAI_SEEDS = (1234, 1235, 1236, 1237)  # each level is played with these


class Row(BaseModel):
    """One line of a label file; `subgoals_1`, … are other ways to the same goal, step by step."""

    model_config = ConfigDict(extra="allow")

    id: int
    task: str
    goal: str
    subgoals: list[str]
    difficulty: str
    additional_info: dict[str, Any]

    @property
    def alternatives(self) -> list[list[str]]:
        """Return for each subgoal the labels of which one has to be met."""
        ways = [self.subgoals, *(way for name, way in (self.model_extra or {}).items() if name.startswith("subgoals"))]
        return [list(labels) for labels in zip(*ways, strict=True)]


def load(where: str | Path, *, limit: int | None = None) -> list[dspy.Example]:
    """Read the first `limit` rows of a label file; PDDL problems are looked for in `pddl/` beside its folder.

    Raises:
        DataError: a file or row that is not in AgentBoard's format, or problems that are not the ones labelled.
        MissingDependency: the world's extra is not installed.
    """
    check_limit(limit)
    path, counts = Path(where), dict[str, int]()
    examples = []
    for place, row in islice(_rows(path), limit):
        subtask = str(row.additional_info.get("subtask", row.task))
        position = counts[subtask] = counts.get(subtask, -1) + 1
        name, seed = _world_of(row, subtask, position, path, place)
        with make_environment(name) as world:
            world.reset(seed)
            _check(world, row, place)
            # The labels of a PDDL problem are its conditions, which the world counts itself; so does ScienceWorld.
            labels = {"subgoals": row.alternatives, "goal": row.goal} if row.task == "babyai" else {}
            kind = row.additional_info.get("env_name", subtask)
            kept = {"id": f"{row.task}-{row.id}", "kind": kind, "difficulty": row.difficulty}
            examples.append(to_example(world, seed, kept | labels))
    return examples


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                yield f"{path}:{number}", Row.model_validate(json.loads(line))
            except ValidationError as error:
                raise DataError(f"{path}:{number}: {explain(error)}") from error
            except ValueError as error:
                raise DataError(f"{path}:{number}: not JSON ({error}); expected one JSON object a line") from error


def _world_of(row: Row, subtask: str, position: int, path: Path, place: str) -> tuple[str, int]:
    match row.task:
        case "babyai":
            level = subtask.removeprefix("BabyAI-").rpartition("-v")[0]
            return f"babyai:{level}", _BABYAI_SEEDS[position % len(_BABYAI_SEEDS)]
        case "pddl":
            folder = path.resolve().parent.parent / "pddl" / subtask
            problems = sorted(folder.glob("*.pddl"))
            if position >= len(problems):
                raise DataError(
                    f"{place}: row {position + 1} of {subtask}, but {folder} holds {len(problems)} problems"
                )
            return f"pddl:{problems[position]}", 0
        case "scienceworld":
            return f"scienceworld:{path}", position
    raise DataError(f"{place}: task: {row.task!r} is not read here; babyai, pddl and scienceworld are")


def _check(world: Environment, row: Row, place: str) -> None:
    if row.task != "pddl":
        return
    conditions = world.goal.partition(": ")[2].rstrip(".").split(". ")
    if {label.strip(" .") for label in row.subgoals} != set(conditions):
        raise DataError(f"{place}: the labels {row.subgoals} are not of {world.name}: {world.goal}")
