"""Examples on disk: JSON Lines, one example a line, checked field by field when read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import dspy
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agemem_dspy.errors import DataError

INPUTS = ("messages", "distractors", "question")
WORLD_INPUTS = ("messages", "distractors", "environment", "seed")


class OperationRow(BaseModel):
    """A gold operation: at which turn (from 0) which tool puts `content` in the place of `old`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    turn: int = Field(ge=0)
    tool: Literal["add_memory", "update_memory", "delete_memory"]
    content: str | None = None
    old: str | None = None

    @model_validator(mode="after")
    def _fits_tool(self) -> OperationRow:
        for name, needed in (("content", self.tool != "delete_memory"), ("old", self.tool != "add_memory")):
            if (getattr(self, name) is not None) != needed:
                raise ValueError(f"{self.tool} {'needs' if needed else 'takes no'} {name!r}")
        return self


class ExampleRow(BaseModel):
    """What every line of a data file has. Further fields (difficulty, kind, ...) are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: str = Field(min_length=1)
    messages: list[str] = Field(min_length=1)
    distractors: list[str]
    facts: list[str]
    operations: list[OperationRow]
    support: list[str]
    key_items: list[str]

    @model_validator(mode="after")
    def _hangs_together(self) -> ExampleRow:
        late = [operation.turn for operation in self.operations if operation.turn >= len(self.messages)]
        if late:
            raise ValueError(f"operations: turn {late[0]} is past the last message ({len(self.messages) - 1})")
        stray = [fact for fact in self.support if fact not in self.facts]
        if stray:
            raise ValueError(f"support: {stray[0]!r} is not one of the facts")
        return self


class QuestionRow(ExampleRow):
    """A line whose stage 3 is a question."""

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)


class WorldRow(ExampleRow):
    """A line whose stage 3 is a task in a world."""

    environment: str = Field(min_length=1)
    seed: int = Field(ge=0)


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 data file.

    Raises:
        DataError: the file is missing, unreadable, not UTF-8 or empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give the path of a readable file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty; at least one example is needed")
    return text


def read_examples(path: str | Path, *, limit: int | None = None) -> list[dspy.Example]:
    """Read a JSONL file of examples, at most the first `limit`; blank lines are skipped.

    Raises:
        DataError: names the file, the line and the field, and says what is wrong.
    """
    path = Path(path)
    check_limit(limit)
    examples: list[dspy.Example] = []
    first_line: dict[str, int] = {}
    # Not splitlines(): it would also cut at the U+2028 that a JSON string may hold.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if limit is not None and len(examples) >= limit:
            break
        if not line.strip():
            continue
        example = _parse(line, f"{path}:{number}")
        if example.id in first_line:
            raise DataError(f"{path}:{number}: id: {example.id!r} is already on line {first_line[example.id]}")
        first_line[example.id] = number
        examples.append(example)
    return examples


def write_examples(path: str | Path, examples: Iterable[dspy.Example]) -> Path:
    """Write examples as JSONL, one a line in ASCII, and return the path.

    Raises:
        DataError: the file cannot be written.
    """
    path = Path(path)
    text = "".join(json.dumps(example.toDict(), ensure_ascii=True) + "\n" for example in examples)
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose a writable folder") from error
    return path


def check_limit(limit: int | None) -> None:
    """Refuse a `limit` under 1: a data set without examples is never what was meant.

    Raises:
        DataError: `limit` is neither None nor a positive number.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit must be 1 or more (or left out for all rows), not {limit}")


def _parse(line: str, place: str) -> dspy.Example:
    try:
        raw: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: not JSON ({error}); expected one JSON object a line") from error
    if not isinstance(raw, dict):
        raise DataError(f"{place}: expected a JSON object, found {type(raw).__name__}")
    kind, inputs = (WorldRow, WORLD_INPUTS) if "environment" in raw else (QuestionRow, INPUTS)
    try:
        row = kind.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"{place}: {explain(error)}") from error
    return dspy.Example(**row.model_dump(exclude_none=True)).with_inputs(*inputs)


def explain(error: ValidationError) -> str:
    """Name each field that is wrong and say why."""
    problems = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        problems.append(f"{field}: {message}" if field else message)
    return "; ".join(problems)
