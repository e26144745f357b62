"""AgentBoard's labels of an episode: its goal in other words, and the subgoals that its progress rate counts.

A subgoal is a regular expression that some observation has to match; their order means nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from agemem_dspy.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """One episode's goal, difficulty ("easy" or "hard") and subgoals."""

    goal: str
    difficulty: str
    subgoals: tuple[re.Pattern[str], ...]

    def met(self, text: str) -> frozenset[int]:
        """Return which subgoals an observation meets, by their places."""
        return frozenset(place for place, subgoal in enumerate(self.subgoals) if subgoal.search(text))


class _Episode(BaseModel):
    env_name: str = Field(min_length=1)
    var: int = Field(ge=0)


class _Row(BaseModel):
    goal: str = Field(min_length=1)
    difficulty: str
    subgoals: list[str] = Field(min_length=1)
    additional_info: _Episode


def read_labels(path: str | Path) -> dict[tuple[str, int], Labels]:
    """Read AgentBoard's file for ScienceWorld: the labels by task and variation, in the order of the file.

    Raises:
        DataError: a file or line that is not in AgentBoard's format; names the line and the field.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give AgentBoard's scienceworld/test.jsonl") from error
    found: dict[tuple[str, int], Labels] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = _parsed(line, f"{path}:{number}")
            labels = Labels(
                goal=row.goal.strip(), difficulty=row.difficulty, subgoals=_patterns(row, f"{path}:{number}")
            )
            found[row.additional_info.env_name, row.additional_info.var] = labels
    if not found:
        raise DataError(f"{path}: the file is empty; at least one labelled episode is needed")
    return found


def _parsed(line: str, place: str) -> _Row:
    try:
        record: Any = json.loads(line)
        return _Row.model_validate(record)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _patterns(row: _Row, place: str) -> tuple[re.Pattern[str], ...]:
    try:
        return tuple(re.compile(subgoal) for subgoal in row.subgoals)
    except re.error as error:
        raise DataError(f"{place}: subgoals: {error.pattern!r} is no regular expression ({error})") from error
