"""Controls: the same questions over other memories."""

from __future__ import annotations

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_dspy.data import load_dataset
from agemem_dspy.data.controls import gold_support, shuffled_memory, with_distractors
from agemem_dspy.data.distractors import content_words
from agemem_dspy.errors import DataError

ROWS = load_dataset("assistant:test", limit=6)


@given(count=st.integers(2, 30), seed=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_nobody_keeps_its_own_memory_and_every_memory_is_used_once(count: int, seed: int) -> None:
    rows = [dspy.Example(id=str(n), messages=[f"message {n}"], question=f"{n}?") for n in range(count)]
    shuffled = shuffled_memory(rows, seed=seed)
    assert [row.id for row in shuffled] == [row.id for row in rows]
    assert all(one.messages != other.messages for one, other in zip(shuffled, rows, strict=True))
    assert sorted(row.messages for row in shuffled) == sorted(row.messages for row in rows)
    assert shuffled_memory(rows, seed=seed)[0].messages == shuffled[0].messages


def test_a_control_keeps_questions_inputs_and_the_rows_it_was_given() -> None:
    before = [row.toDict() for row in ROWS]
    for control in (shuffled_memory(ROWS), gold_support(ROWS), with_distractors(ROWS, 3)):
        assert [(row.question, row.answer) for row in control] == [(row.question, row.answer) for row in ROWS]
        assert all(set(row.inputs().keys()) == {"messages", "distractors", "question"} for row in control)
    assert [row.toDict() for row in ROWS] == before


def test_gold_support_is_all_there_is() -> None:
    for given_row, row in zip(gold_support(ROWS), ROWS, strict=True):
        assert (given_row.messages, given_row.distractors) == (row.support, [])


@pytest.mark.parametrize("n", [0, 3, 7])
def test_distractors_are_counted_drawn_once_and_unrelated(n: int) -> None:
    for row in with_distractors(ROWS, n, split="test"):
        assert len(set(row.distractors)) == n
        related = content_words(" ".join([*row.messages, row.question]))
        assert not any(content_words(text) & related for text in row.distractors)
    once, again = (with_distractors(ROWS, n) for _ in range(2))
    assert [row.distractors for row in once] == [row.distractors for row in again]


def test_what_cannot_be_controlled_is_said() -> None:
    with pytest.raises(DataError, match="needs two examples at least"):
        shuffled_memory(ROWS[:1])
    with pytest.raises(DataError, match="example 'x' has no 'support'"):
        gold_support([dspy.Example(id="x", messages=[], distractors=[])])
