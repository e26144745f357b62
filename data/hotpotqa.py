"""HotpotQA (distractor setting) as three-stage tasks: each paragraph is a message of stage 1.

Facts and gold operations are the supporting sentences, added at their paragraph's turn. The
reader takes the official JSON file or the hub's rows.

Deviations from the paper:
1. Some official supporting facts point past the end of their paragraph; those are left out.
2. Sentences are joined by one space, so that both sources give the same text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import dspy
from pydantic import BaseModel, Field, ValidationError

from agemem_dspy.data.distractors import make_distractors
from agemem_dspy.data.files import INPUTS, check_limit, explain, read_text
from agemem_dspy.errors import DataError, MissingDependency

HUB_NAME = "hotpotqa/hotpot_qa"
_HUB_SPLITS = {"hub": "validation", "hub:validation": "validation", "hub:train": "train"}
_MOST_KEY_ITEMS = 8
_NUMBER = r"\d[\d,.:]*\d"
_CAPITALISED = r"[A-Z\u00c0-\u00de][\w'-]*"
_ITEM = re.compile(rf"{_NUMBER}|{_CAPITALISED}(?: (?:(?:of|the|de|van|von) ){{0,2}}{_CAPITALISED})*")
# Words that a sentence may begin with and that are no names.
_OPENERS = """
a an the he she it they his her its their this that these those in on at of for from by with as and but or both
after before during since while when where who which there i we you also although however some one two
"""


class HotpotRow(BaseModel):
    """One official record: titles and sentences, and which sentences support the answer."""

    id: str = Field(alias="_id", min_length=1)
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    supporting_facts: list[tuple[str, int]]
    context: list[tuple[str, list[str]]] = Field(min_length=1)
    type: str = "unknown"


def load(where: str | Path, *, limit: int | None = None, seed: int = 0, n_distractors: int = 5) -> list[dspy.Example]:
    """Read the first `limit` tasks of `where`: a path to the official JSON, "hub" or "hub:train".

    `seed` draws the distractors, once for each task; "hub" alone is the validation split.

    Raises:
        DataError: a file or row that is not in the official format; names line or row and field.
        MissingDependency: the hub was asked for and `datasets` is not installed.
    """
    check_limit(limit)
    if n_distractors < 0:
        raise DataError(f"n_distractors must be 0 or more, not {n_distractors}")
    split = _HUB_SPLITS.get(str(where))
    if split is None and str(where).startswith("hub:"):
        raise DataError(f"unknown hub split {str(where)!r}; choose one of {', '.join(_HUB_SPLITS)}")
    records = _read_file(Path(where)) if split is None else _read_hub(split)
    place = f"{where}" if split is None else f"{HUB_NAME} ({split})"
    examples = []
    for number, record in enumerate(islice(records, limit), start=1):
        examples.append(to_example(record, place=f"{place}, row {number}", seed=seed, n_distractors=n_distractors))
    return examples


def to_example(record: Any, *, place: str = "record", seed: int = 0, n_distractors: int = 5) -> dspy.Example:
    """Turn one official record into a task; `place` names the record in errors.

    Raises:
        DataError: a field is missing or of the wrong type, or no supporting sentence exists.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"{place}: expected a JSON object, found {type(record).__name__}")
    try:
        row = HotpotRow.model_validate(record)
    except ValidationError as error:
        raise DataError(f"{place}: {explain(error)}") from error
    support = _supporting_sentences(row)
    if not support:
        raise DataError(
            f"{place}: supporting_facts: none of the {len(row.supporting_facts)} points to a sentence of the context; "
            "use the distractor setting, fullwiki files often lack the gold paragraphs"
        )
    facts = list(support)
    titles = [title for title, _ in row.supporting_facts]
    distractors = make_distractors(
        n_distractors, seed=f"{seed}/{row.id}", avoid=[row.question, row.answer, *titles, *facts]
    )
    return dspy.Example(
        id=row.id,
        kind=row.type,
        messages=[f"{title}: {_join(sentences)}" for title, sentences in row.context],
        distractors=distractors,
        question=row.question.strip(),
        answer=row.answer.strip(),
        facts=facts,
        operations=[{"turn": turn, "tool": "add_memory", "content": fact} for fact, turn in support.items()],
        support=list(facts),
        key_items=key_items(facts, row.answer),
    ).with_inputs(*INPUTS)


def from_hub(record: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a row of the hub's schema (columns inside the row) into an official record.

    Raises:
        DataError: the row has not the hub's schema.
    """
    try:
        facts, context = record["supporting_facts"], record["context"]
        return {
            "_id": record["id"],
            "question": record["question"],
            "answer": record["answer"],
            "type": record.get("type", "unknown"),
            "supporting_facts": list(zip(facts["title"], facts["sent_id"], strict=True)),
            "context": list(zip(context["title"], context["sentences"], strict=True)),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"not a row of {HUB_NAME}: {error!r}; expected id, question, answer, "
            "supporting_facts {title, sent_id} and context {title, sentences}"
        ) from error


def key_items(facts: Iterable[str], answer: str) -> list[str]:
    """Return at most eight names and numbers of the facts, in order, the answer first if they hold it."""
    facts = list(facts)
    items: dict[str, None] = {}
    if any(answer.strip() in fact for fact in facts) and answer.strip().lower() not in ("yes", "no"):
        items[answer.strip()] = None
    # One item of each fact in turn: a long first sentence must not take all the places.
    waiting = [_items(fact) for fact in facts]
    while len(items) < _MOST_KEY_ITEMS and any(waiting):
        for found in waiting:
            if found and len(items) < _MOST_KEY_ITEMS:
                items[found.pop(0)] = None
    return list(items)


def _items(fact: str) -> list[str]:
    found: dict[str, None] = {}
    openers = _OPENERS.split()
    for item in _ITEM.findall(fact):
        words = item.split()
        while words and words[0].lower() in openers:
            words = words[1:]
        if words:
            found[" ".join(words).removesuffix("'s")] = None
    return list(found)


def _supporting_sentences(row: HotpotRow) -> dict[str, int]:
    """Return the supporting sentences with their paragraph's turn, in the order of reading."""
    turns: dict[str, int] = {}
    for turn, (title, _) in enumerate(row.context):
        turns.setdefault(title, turn)
    found: dict[str, int] = {}
    for turn, at in sorted({(turns[title], at) for title, at in row.supporting_facts if title in turns}):
        sentences = row.context[turn][1]
        if 0 <= at < len(sentences) and sentences[at].strip():
            found.setdefault(" ".join(sentences[at].split()), turn)
    return found


def _join(sentences: Iterable[str]) -> str:
    return " ".join(" ".join(sentences).split())


def _read_file(path: Path) -> Iterator[Any]:
    text = read_text(path)
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: not JSON ({error}); expected the official HotpotQA file, a list"
        ) from error
    if not isinstance(records, list):
        raise DataError(f"{path}: expected a JSON list of records, found {type(records).__name__}")
    if not records:
        raise DataError(f"{path}: the list is empty; at least one record is needed")
    return iter(records)


def _read_hub(split: str) -> Iterator[Any]:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency('reading from the hub needs `datasets`; run: pip install "datasets>=3"') from error
    try:
        rows = datasets.load_dataset(HUB_NAME, "distractor", split=split)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{HUB_NAME} cannot be read from the hub ({error}); download the official JSON and give its path"
        ) from error
    return (from_hub(row) for row in rows)
