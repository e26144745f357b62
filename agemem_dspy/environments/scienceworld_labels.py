"""AgentBoard's episodes of ScienceWorld: a goal in other words, and the subgoals that its progress rate counts.

A subgoal is a regular expression that some observation has to match; their order means nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from agemem_dspy.errors import DataError


@dataclass(frozen=True, slots=True)
class Episode:
    """A variation of a task; `goal` and `subgoals` are AgentBoard's, and empty where ScienceWorld's own count."""

    task: str
    variation: int
    goal: str = ""
    subgoals: tuple[re.Pattern[str], ...] = ()

    def met(self, text: str) -> frozenset[int]:
        """Return which subgoals an observation meets, by their places."""
        return frozenset(place for place, subgoal in enumerate(self.subgoals) if subgoal.search(text))


class _Variation(BaseModel):
    env_name: str = Field(min_length=1)
    var: int = Field(ge=0)


class _Row(BaseModel):
    goal: str = Field(min_length=1)
    subgoals: list[str] = Field(min_length=1)
    additional_info: _Variation


def read_episodes(path: Path) -> tuple[Episode, ...]:
    """Read AgentBoard's file for ScienceWorld, a line an episode.

    Raises:
        DataError: a file or line that is not in AgentBoard's format; names the line and the field.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give AgentBoard's scienceworld/test.jsonl") from error
    found = [_episode(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise DataError(f"{path}: the file is empty; at least one labelled episode is needed")
    return tuple(found)


def _episode(line: str, place: str) -> Episode:
    try:
        row = _Row.model_validate(json.loads(line))
        subgoals = tuple(re.compile(subgoal) for subgoal in row.subgoals)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except re.error as error:
        raise DataError(f"{place}: subgoals: {error.pattern!r} is no regular expression ({error})") from error
    return Episode(row.additional_info.env_name, row.additional_info.var, row.goal.strip(), subgoals)
