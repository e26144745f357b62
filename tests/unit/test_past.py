"""The past is exact: whatever was done to a store, `as_of` gives what was there after each step."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agemem_dspy.errors import MemoryNotFound
from agemem_dspy.memory import HashEmbedder, LongTermMemory, Reranking
from agemem_dspy.types import Embedder, Memory

EMBEDDER: Embedder = HashEmbedder(32)
CONTENTS = ("Ana flies from Lyon", "Ana flies from Oslo", "Bo is vegan", "the code is 1234")
STEPS = st.tuples(st.sampled_from(["add", "update", "delete", "undo", "expire"]), st.integers(0, 5), st.integers(0, 3))


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def changed(store: LongTermMemory, step: str, entry: int, content: int) -> None:
    """Do something to a store, if it can be done."""
    there = store.all()
    if step == "add" or not there:
        store.add(CONTENTS[content], {"content": content})
        return
    memory = there[entry % len(there)]
    with contextlib.suppress(MemoryNotFound):  # it has expired since we looked
        if step == "update":
            store.update(memory.id, CONTENTS[content], {"content": content})
        elif step == "delete":
            store.delete(memory.id)
        elif step == "undo":
            store.undo(memory.id)
        else:
            store.update(memory.id, memory.content, expires_at=now() + datetime.timedelta(milliseconds=1))


def without_scores(memories: list[Memory]) -> list[Memory]:
    return [dataclasses.replace(memory, score=None) for memory in memories]


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STEPS, max_size=12), only=st.integers(0, 3))
def test_the_past_is_what_the_present_was(steps: list[tuple[str, int, int]], only: int) -> None:
    query, where = "where does Ana fly from", {"content": only}
    with LongTermMemory.open(":memory:", embedder=EMBEDDER) as store:
        seen: list[tuple[datetime.datetime, list[Memory], list[Memory]]] = [(now(), [], [])]
        for step in steps:
            changed(store, *step)
            while True:  # nothing expires while we look
                before, everything, found, after = now(), store.all(), store.search(query, 9, where), now()
                if everything == store.all(as_of=before) == store.all(as_of=after):
                    seen += [(before, everything, found), (after, everything, found)]
                    break
                assert any(before <= _end(memory) <= after for memory in [*everything, *store.all(as_of=before)])
        for moment, everything, found in seen:
            assert store.all(as_of=moment) == everything
            again = store.search(query, 9, where, as_of=moment)
            assert without_scores(again) == without_scores(found)
            assert [one.score for one in again] == pytest.approx([one.score for one in found], abs=1e-6)


def _end(memory: Memory) -> datetime.datetime:
    return datetime.datetime.fromisoformat(memory.expires_at or "9999-01-01T00:00:00+00:00")


def test_only_what_was_changed_since_is_embedded_again(tmp_path: Path) -> None:
    embedded: list[str] = []

    class Counting(HashEmbedder):
        def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            embedded.extend(texts)
            return super().embed(texts)

    with LongTermMemory.open(tmp_path, embedder=Counting(32)) as store:
        ids = [store.add(f"fact {number}").id for number in range(20)]
        moment = now()
        store.update(ids[3], "another fact")
        store.delete(ids[4])
        embedded.clear()
        assert len(store.search("fact", top_k=30, as_of=moment)) == 20
        assert embedded == ["fact", "fact 3"]


def test_a_store_is_opened_with_its_reranking_and_hands_it_on() -> None:
    last = Reranking(reranker=lambda query, memories: list(range(len(memories))))
    with LongTermMemory.open(":memory:", embedder=EMBEDDER, reranking=last) as store, store.blank() as other:
        for memory in (store, store.scoped("bob"), other):
            assert memory.reranking is last
            worst = [memory.add(content) for content in ("Ana", "Bo")][1]
            assert [one.id for one in memory.search("Ana", top_k=1)] == [worst.id]
            assert [one.content for one in memory.search("Ana", top_k=1, reranking=Reranking())] == ["Ana"]
