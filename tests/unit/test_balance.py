"""Balanced examples: nothing is lost, and every beginning has the kinds in equal shares while they last."""

from __future__ import annotations

from collections import Counter

import dspy
from hypothesis import given
from hypothesis import strategies as st

from agemem_dspy.data.assistant import generate
from agemem_dspy.optimizers.balance import balanced

_TOOLS = ("add_memory", "update_memory", "delete_memory")


def _kind(example: dspy.Example) -> frozenset[str]:
    return frozenset(operation["tool"] for operation in example.operations)


@given(st.lists(st.sets(st.sampled_from(_TOOLS)), max_size=40))
def test_each_turn_takes_one_of_every_kind_that_is_left(drawn: list[set[str]]) -> None:
    examples = [dspy.Example(id=str(i), operations=[{"tool": tool} for tool in tools]) for i, tools in enumerate(drawn)]
    found = balanced(examples)
    assert sorted(e.id for e in found) == sorted(e.id for e in examples)
    total = Counter(map(_kind, examples))
    for n in range(len(found) + 1):
        seen = Counter(_kind(e) for e in found[:n])
        most = max(seen.values(), default=0)
        assert all(seen[kind] >= min(most - 1, total[kind]) for kind in total)
    for kind in total:
        assert [e.id for e in found if _kind(e) == kind] == [e.id for e in examples if _kind(e) == kind]


def test_histories_with_a_forgetting_come_as_often_as_the_others() -> None:
    found = Counter(map(_kind, balanced(generate("train", 400, seed=1))[:60]))
    assert set(found.values()) == {20}
    assert len(found) == 3


def test_examples_without_gold_operations_keep_their_order() -> None:
    examples = [dspy.Example(id="b"), dspy.Example(id="a", operations=None), dspy.Example(id="c", operations=[])]
    assert [e.id for e in balanced(examples)] == ["b", "a", "c"]
