"""What every long-term store must do beside its plain search: the past, no duplicates, and reranking."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from agemem_dspy.errors import ConfigurationError, MemoryDuplicate, MemoryStoreError
from agemem_dspy.memory.checks import SEARCH_MODES
from agemem_dspy.memory.filters import Range
from agemem_dspy.memory.lexical import LEXICAL, shared
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.reranking import Reranking
from agemem_dspy.types import Memory, NewMemory, Version

DAYS = [f"2026-03-{day:02}T12:00:00.000000+00:00" for day in range(1, 32)]
ID = "1b671a64-40d5-491e-99b0-da01ff1f33{:02}"
QUERY = "where does Ana fly from"


def contents(memories: Sequence[Memory]) -> list[str]:
    return [memory.content for memory in memories]


def lived(store: LongTermMemory) -> LongTermMemory:
    """Fill a store with a month: an airport that changed, a code that expired, a slip that was deleted, undone."""
    airport = {"content": "Ana flies from Lyon", "metadata": {"sure": False, "price": 10}}
    store.insert(
        ID.format(1),
        [
            Version(change="add", at=DAYS[1], by={"who": "Ana"}, **airport),  # type: ignore[arg-type]
            Version(change="update", at=DAYS[9], content="Ana flies from Geneva", metadata={"sure": True, "price": 90}),
            Version(change="delete", at=DAYS[14], content="Ana flies from Geneva", metadata={"sure": True}, live=False),
            Version(change="undo", at=DAYS[19], content="Ana flies from Geneva", metadata={"sure": True, "price": 90}),
        ],
        "travel",
    )
    store.insert(ID.format(2), [Version(change="add", at=DAYS[3], content="the door code is 1234", expires_at=DAYS[7])])
    store.insert(
        ID.format(3),
        [
            Version(change="add", at=DAYS[4], content="Ana flies from the moon"),
            Version(change="delete", at=DAYS[5], content="Ana flies from the moon", live=False),
        ],
    )
    store.insert(ID.format(4), [Version(change="add", at=DAYS[2], content="Ana is vegan")])
    return store


class PastContract:
    """`as_of`: what was in sight at a time."""

    @pytest.mark.parametrize(
        ("day", "known"),
        [
            (0, []),
            (1, ["Ana flies from Lyon"]),
            (3, ["Ana flies from Lyon", "the door code is 1234", "Ana is vegan"]),
            (4, ["Ana flies from Lyon", "the door code is 1234", "Ana flies from the moon", "Ana is vegan"]),
            (6, ["Ana flies from Lyon", "the door code is 1234", "Ana is vegan"]),
            (7, ["Ana flies from Lyon", "Ana is vegan"]),
            (9, ["Ana flies from Geneva", "Ana is vegan"]),
            (15, ["Ana is vegan"]),
            (30, ["Ana flies from Geneva", "Ana is vegan"]),
        ],
    )
    def test_what_was_known_at_a_time_is_known_of_it(self, store: LongTermMemory, day: int, known: list[str]) -> None:
        lived(store)
        assert contents(store.all(as_of=DAYS[day])) == known
        assert sorted(contents(store.search(QUERY, top_k=9, as_of=DAYS[day]))) == sorted(known)
        with store.scoped("bob") as bobs:
            assert bobs.all(as_of=DAYS[day]) == []
            assert bobs.search(QUERY, as_of=DAYS[day]) == []

    def test_a_former_entry_is_as_it_was(self, store: LongTermMemory) -> None:
        [then] = lived(store).all(as_of=datetime.datetime.fromisoformat(DAYS[1]))
        assert (then.id, then.memory_type, then.metadata) == (ID.format(1), "travel", {"sure": False, "price": 10})
        assert (then.created_at, then.updated_at, then.score) == (DAYS[1], DAYS[1], None)
        [found] = store.search("Ana flies from Lyon", as_of=DAYS[1])
        assert found.score == pytest.approx(1.0, abs=1e-5)
        assert (found.id, found.content) == (then.id, then.content)

    def test_filters_are_asked_of_what_was(self, store: LongTermMemory) -> None:
        lived(store)

        def found(day: int, **filters: Any) -> list[str]:
            return contents(store.search(QUERY, top_k=9, as_of=DAYS[day], **filters))

        assert found(5, where={"sure": False}) == ["Ana flies from Lyon"]
        assert found(5, where={"sure": True}) == []
        assert found(5, where={"price": Range(lt=50)}) == ["Ana flies from Lyon"]
        assert found(10, where={"price": Range(lt=50)}) == []
        assert found(5, when={"updated_at": Range(gte=DAYS[3])}) == ["the door code is 1234"]
        assert found(6, when={"expires_at": Range(gt=DAYS[6])}) == ["the door code is 1234"]
        assert found(10, when={"updated_at": Range(gt=DAYS[8])}) == ["Ana flies from Geneva"]

    @pytest.mark.parametrize("mode", SEARCH_MODES)
    def test_the_past_is_ranked_as_the_present_was(self, store: LongTermMemory, mode: Any) -> None:
        texts = [f"{who} {does} from {place}" for who, does, place in itertools.product(
            ("Ana", "Bo"), ("flies", "walks"), ("Lyon", "Oslo", "Rome"))]  # fmt: skip
        added = store.add_many([NewMemory(content=text) for text in texts])
        before = store.search(QUERY, top_k=20, mode=mode)
        moment = datetime.datetime.now(datetime.UTC)
        for number, memory in enumerate(added):
            if number % 3 == 0:
                store.update(memory.id, "something else altogether")
            if number % 3 == 1:
                store.delete(memory.id)
        after = store.search(QUERY, top_k=20, mode=mode, as_of=moment)
        assert [one.id for one in after] == [one.id for one in before]
        assert [one.score for one in after] == pytest.approx([one.score for one in before], abs=1e-5)
        assert store.search(QUERY, top_k=2, mode=mode, as_of=moment)[0].content == before[0].content

    def test_what_was_purged_never_was(self, store: LongTermMemory) -> None:
        lived(store).purge(ID.format(1))
        assert contents(store.all(as_of=DAYS[2])) == ["Ana is vegan"]
        store.forget_user()
        assert store.all(as_of=DAYS[2]) == store.search(QUERY, as_of=DAYS[2]) == []

    @pytest.mark.parametrize("moment", ["yesterday", "2026-03-01", datetime.datetime(2026, 3, 1), 12.5])
    def test_no_time_is_refused(self, store: LongTermMemory, moment: Any) -> None:
        for call in (lambda: store.all(as_of=moment), lambda: store.search("x", as_of=moment)):
            with pytest.raises(MemoryStoreError, match="as_of must be a time with a zone"):
                call()


class UniqueContract:
    """`unique`: no second entry with the same content."""

    def test_a_content_that_is_there_is_not_added_again(self, store: LongTermMemory) -> None:
        first = store.add("Ana is vegan", unique=True)
        again = NewMemory(content="Ana is vegan", metadata={"k": 1}, memory_type="preference")
        for call in (
            lambda: store.add("Ana is vegan", {"k": 1}, unique=True),
            lambda: store.add_many([NewMemory(content="new"), again], unique=True),
        ):
            with pytest.raises(MemoryDuplicate, match=f"'Ana is vegan' is there already, as {first.id}") as refused:
                call()
            assert refused.value.id == first.id
        assert store.all() == [first]
        assert contents(store.add_many([NewMemory(content="Ana is Vegan"), NewMemory(content="x")], unique=True)) == [
            "Ana is Vegan", "x",
        ]  # fmt: skip
        assert contents([store.add("Ana is vegan")]) == ["Ana is vegan"]  # unless it is asked for

    def test_a_batch_has_no_content_twice(self, store: LongTermMemory) -> None:
        many = [NewMemory(content=content) for content in ("a fact", "another", "a fact")]
        with pytest.raises(MemoryDuplicate, match="'a fact' is given twice") as refused:
            store.add_many(many, unique=True)
        assert refused.value.id is None
        assert store.count() == 0

    def test_only_what_is_in_sight_of_this_user_counts(self, store: LongTermMemory) -> None:
        with store.scoped("bob") as bobs:
            bobs.add("a fact")
        store.add("a fact", expires_at="2001-01-01T00:00:00+00:00")
        gone, changed = store.add("a fact", unique=True), store.add("another")
        store.delete(gone.id)
        store.update(changed.id, "a new fact")
        assert store.add("a fact", unique=True).content == "a fact"
        assert store.add("another", unique=True).content == "another"
        with pytest.raises(MemoryDuplicate) as refused:
            store.add("a new fact", unique=True)
        assert refused.value.id == changed.id

    def test_of_threads_that_add_the_same_one_succeeds(self, store: LongTermMemory) -> None:
        def add(number: int) -> bool:
            try:
                store.add(f"fact {number % 3}", unique=True)
            except MemoryDuplicate:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(add, range(24))) == 3
        assert sorted(contents(store.all())) == ["fact 0", "fact 1", "fact 2"]


class RerankingContract:
    """`reranking`: another order of what was found."""

    def test_a_reranker_has_the_last_word(self, store: LongTermMemory) -> None:
        store.add_many([NewMemory(content=f"fact number {number}") for number in range(12)])
        asked: list[tuple[str, int]] = []

        def last_first(query: str, memories: Sequence[Memory]) -> list[float]:
            asked.append((query, len(memories)))
            return [float(memory.content.split()[-1]) for memory in memories]

        found = store.search("fact number 1", top_k=3, reranking=Reranking(reranker=last_first))
        assert contents(found) == ["fact number 11", "fact number 10", "fact number 9"]
        assert asked == [("fact number 1", 12)]
        assert all(memory.score is not None for memory in found)
        plain = store.search("fact number 1", top_k=3)
        equal = Reranking(reranker=lambda query, memories: [0.0] * len(memories))
        assert store.search("fact number 1", top_k=3, reranking=equal) == plain
        assert store.search("fact number 1", top_k=3, as_of="2001-01-01T00:00:00Z", reranking=equal) == []

    @pytest.mark.parametrize("diversity", [0.2, 0.5, 0.8, 1.0])
    def test_diversity_is_maximal_marginal_relevance(self, store: LongTermMemory, diversity: float) -> None:
        texts = ["a hotel in Rome", "a hotel in Rome!", "the hotel in Rome", "a hotel in Oslo", "trains to Rome", "tea"]
        store.add_many([NewMemory(content=text) for text in texts])
        query = "hotel in Rome"
        vectors = store.embedder.embed([query, *texts]).astype(float)
        cosines, likeness = vectors[1:] @ vectors[0], vectors[1:] @ vectors[1:].T
        shares = np.array([shared(query, text) for text in texts])
        relevance = (cosines + LEXICAL * shares) / (1 + LEXICAL)
        chosen = [int(relevance.argmax())]
        if diversity == 1.0:  # all are equal at first: the search's own best comes first
            chosen = [texts.index(store.search(query, top_k=1)[0].content)]
        while len(chosen) < 4:
            left = [one for one in range(len(texts)) if one not in chosen]
            marginal = [(1 - diversity) * relevance[one] - diversity * likeness[one, chosen].max() for one in left]
            chosen.append(left[int(np.argmax(marginal))])
        found = store.search(query, top_k=4, reranking=Reranking(diversity=diversity))
        assert contents(found) == [texts[one] for one in chosen]

    @pytest.mark.parametrize(
        ("scores", "diversity", "said"),
        [([1.0], 0.0, "one finite number"), ([float("nan")] * 3, 0.0, "one finite"), ([3.0, 1, 1], 0.5, "from 0 to 1")],
    )
    def test_a_reranker_that_fails_is_named(
        self, store: LongTermMemory, scores: list[float], diversity: float, said: str
    ) -> None:
        store.add_many([NewMemory(content=f"fact {number}") for number in range(3)])

        def broken(query: str, memories: Sequence[Memory]) -> list[float]:
            return scores

        def raising(query: str, memories: Sequence[Memory]) -> list[float]:
            raise ValueError("no model")

        with pytest.raises(MemoryStoreError, match=f"reranker broken.*{said}"):
            store.search("fact", reranking=Reranking(reranker=broken, diversity=diversity))
        with pytest.raises(MemoryStoreError, match="reranker raising failed: ValueError: no model"):
            store.search("fact", reranking=Reranking(reranker=raising))

    @pytest.mark.parametrize("wrong", [{"diversity": 1.5}, {"diversity": "much"}, {"diversity": True}, {"reranker": 3}])
    def test_what_cannot_be_is_refused(self, wrong: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"diversity|reranker"):
            Reranking(**wrong)
