"""LoCoMo (Maharana et al. 2024) as three-stage tasks: each session of a dialogue is a message of stage 1.

Facts and gold operations are the turns that any question of the conversation names as evidence, added at their
session; what supports one question is its own evidence. The reader takes the official JSON file.

Deviations from the published protocol:
1. A question is asked as it stands: no hint at dates for category 2, no choice of two answers for category 5, where
   the agent has to see by itself that there is no answer.
2. Evidence that names no turn of the dialogue (the file has some) is left out; several turns in one string are split.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import dspy
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from agemem_dspy.data.distractors import make_distractors
from agemem_dspy.data.files import INPUTS, check_limit, explain, read_text
from agemem_dspy.data.hotpotqa import key_items
from agemem_dspy.errors import DataError

CATEGORIES: Mapping[int, str] = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
ADVERSARIAL = 5
UNANSWERABLE = "I don't know"
_SESSION = re.compile(r"session_(\d+)")
_TURN = re.compile(r"D(\d+):(\d+)")
# Words whose capital names nothing: the first of a line, of a sentence or of what is said, and "I".
_PLAIN_CAPITAL = re.compile(r"""(?:^|[.!?]\s+|said, ")[\w']+|\bI\b(?:'\w+)?""")


class Turn(BaseModel):
    """What one speaker says; a photo that goes with it is known by its caption."""

    speaker: str = Field(min_length=1)
    dia_id: str = Field(pattern=r"^D\d+:\d+$")
    text: str
    blip_caption: str | None = None

    def line(self) -> str:
        """Return the turn in the words of the published prompts."""
        said = f'{self.speaker} said, "{" ".join(self.text.split())}"'
        return f"{said} [shares {self.blip_caption.strip()}]" if self.blip_caption else said


class Session(BaseModel):
    """One sitting of the two speakers."""

    date_time: str = Field(min_length=1)
    turns: list[Turn]


class Dialogue(BaseModel):
    """The sessions by number; the official record spreads them over the keys session_N and session_N_date_time."""

    sessions: dict[int, Session] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, record: Any) -> Any:
        if not isinstance(record, Mapping):
            return record
        found = {int(match[1]): turns for key, turns in record.items() if (match := _SESSION.fullmatch(key)) and turns}
        return {
            "sessions": {
                n: {"turns": found[n], "date_time": record.get(f"session_{n}_date_time")} for n in sorted(found)
            }
        }

    def lines(self) -> dict[tuple[int, int], tuple[int, str]]:
        """Map each turn's numbers, (1, 3) for D1:3, to the place of its session among the messages and its line."""
        return {
            numbers: (place, turn.line())
            for place, session in enumerate(self.sessions.values())
            for turn in session.turns
            for numbers in _numbers([turn.dia_id])
        }


class Question(BaseModel):
    """A question with its category, its answer (none when adversarial) and the turns that hold it."""

    question: str = Field(min_length=1)
    category: int = Field(ge=1, le=5)
    evidence: list[str]
    answer: str | None = None

    @field_validator("answer", mode="before")
    @classmethod
    def _text(cls, answer: Any) -> Any:
        return str(answer) if isinstance(answer, int | float) else answer  # years and counts

    @model_validator(mode="after")
    def _answered(self) -> Question:
        if self.category != ADVERSARIAL and not (self.answer or "").strip():
            raise ValueError(f"answer: a question of category {self.category} needs one")
        return self


class Conversation(BaseModel):
    """One official record: a dialogue of many sessions and the questions about it."""

    sample_id: str = Field(min_length=1)
    conversation: Dialogue
    qa: list[Question]


def load(where: str | Path, *, limit: int | None = None, seed: int = 0, n_distractors: int = 5) -> list[dspy.Example]:
    """Read the first `limit` questions of the official JSON file at `where`.

    `seed` draws the distractors, once for each question.

    Raises:
        DataError: a file or conversation that is not in the official format; names conversation and field.
    """
    check_limit(limit)
    if n_distractors < 0:
        raise DataError(f"n_distractors must be 0 or more, not {n_distractors}")
    path = Path(where)
    tasks = (
        example
        for number, record in enumerate(_records(path), start=1)
        for example in to_examples(
            record, place=f"{path}, conversation {number}", seed=seed, n_distractors=n_distractors
        )
    )
    return list(islice(tasks, limit))


def to_examples(
    record: Any, *, place: str = "conversation", seed: int = 0, n_distractors: int = 5
) -> Iterator[dspy.Example]:
    """Turn one official record into a task a question; `place` names the record in errors.

    The lists that the questions of a conversation have in common are shared between their examples.

    Raises:
        DataError: a field is missing or of the wrong type.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{place}: expected a JSON object, found {type(record).__name__}")
    if sample := record.get("sample_id"):
        place = f"{place} ({sample})"
    try:
        talk = Conversation.model_validate(record)
    except ValidationError as error:
        raise DataError(f"{place}: {explain(error)}") from error
    lines = talk.conversation.lines()
    messages = [_message(number, session) for number, session in talk.conversation.sessions.items()]
    told = {lines[numbers][1]: lines[numbers][0] for question in talk.qa for numbers in _evidence(question, lines)}
    facts = sorted(told, key=lambda line: told[line])
    operations = [{"turn": told[fact], "tool": "add_memory", "content": fact} for fact in facts]
    for number, asked in enumerate(talk.qa, start=1):
        adversarial = asked.category == ADVERSARIAL
        support = [] if adversarial else list(dict.fromkeys(lines[one][1] for one in _evidence(asked, lines)))
        answer = UNANSWERABLE if adversarial else (asked.answer or "").strip()
        yield dspy.Example(
            id=f"{talk.sample_id}/{number}",
            kind=CATEGORIES[asked.category],
            messages=messages,
            distractors=make_distractors(
                n_distractors, seed=f"{seed}/{talk.sample_id}/{number}", avoid=[asked.question, answer, *support]
            ),
            question=asked.question.strip(),
            answer=answer,
            facts=facts,
            operations=operations,
            support=support,
            key_items=key_items([_PLAIN_CAPITAL.sub(lambda found: found[0].lower(), line) for line in support], answer),
        ).with_inputs(*INPUTS)


def _message(number: int, session: Session) -> str:
    return "\n".join([f"Session {number}, {session.date_time}", *(turn.line() for turn in session.turns)])


def _evidence(asked: Question, lines: Mapping[tuple[int, int], tuple[int, str]]) -> list[tuple[int, int]]:
    return [numbers for numbers in _numbers(asked.evidence) if numbers in lines]


def _numbers(names: Sequence[str]) -> list[tuple[int, int]]:
    """Return session and turn of each name; "D8:6; D9:17" is two, "D9:07" is D9:7."""
    return [(int(session), int(turn)) for name in names for session, turn in _TURN.findall(name)]


def _records(path: Path) -> list[Any]:
    text = read_text(path)
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: not JSON ({error}); expected the official LoCoMo file, a list of conversations"
        ) from error
    if not isinstance(records, list):
        raise DataError(f"{path}: expected a JSON list of conversations, found {type(records).__name__}")
    if not records:
        raise DataError(f"{path}: the list is empty; at least one conversation is needed")
    return records
