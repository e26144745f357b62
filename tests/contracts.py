"""What every backend of a protocol must do: subclass a class, give it its fixture, and pytest runs it.

A subclass of `LongTermMemoryContract` provides `store`, empty, opened for the user "ana" with a `HashEmbedder`.
A subclass of `EmbedderContract` provides `embedder`.
A subclass of `EnvironmentContract` provides `environment`, made with `max_steps` enough for its solution, never reset.
"""

from __future__ import annotations

import copy
import datetime
import itertools
import pickle
import threading
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from contracts_access import AsyncContract, ScopeContract
from contracts_retrieval import PastContract, RerankingContract, UniqueContract

from agemem_dspy.environments import Environment, Observation, StepResult
from agemem_dspy.errors import MemoryNotFound, MemoryStoreError, WorldError
from agemem_dspy.memory.filters import AnyOf, Range, Where
from agemem_dspy.memory.lexical import LEXICAL, shared
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.types import Embedder, NewMemory, Version

WHERE: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["a", "b", "c"]),
    ({"topic": "travel"}, ["a", "b"]),
    ({"topic": "travel", "turn": 2}, ["b"]),
    ({"turn": 1}, ["a"]),
    ({"turn": 1.0}, ["a"]),
    ({"turn": True}, []),
    ({"turn": 2**60}, ["c"]),
    ({"turn": 2**60 + 1}, []),
    ({"sure": True}, ["a"]),
    ({"sure": 1}, []),
    ({"price": 99.5}, ["c"]),
    ({"tags": "sun"}, ["c"]),
    ({"two words": "x"}, ["c"]),
    ({"a.b": "y"}, ["c"]),
    ({"topic": "Travel"}, []),
    ({"missing": "travel"}, []),
    ({"turn": Range(gte=1, lt=2)}, ["a"]),
    ({"turn": Range(gt=1)}, ["b", "c"]),
    ({"turn": Range(gt=1, lte=2)}, ["b"]),
    ({"price": Range(lt=100)}, ["c"]),
    ({"sure": Range(gte=0)}, []),
    ({"topic": Range(gte=0)}, []),
    ({"two words": Range(gte=0)}, []),
    ({"a.b": Range(gte=0)}, []),
    ({"nights": Range(gte=7)}, ["c"]),
    ({"topic": AnyOf(["food", "drinks"])}, ["c"]),
    ({"turn": AnyOf([1, 2.0, "2"])}, ["a", "b"]),
    ({"turn": AnyOf([True])}, []),
    ({"sure": AnyOf([True, 7])}, ["a"]),
    ({"tags": AnyOf(["sun", "snow"]), "turn": Range(gte=3)}, ["c"]),
    ({"long": "x" * 1000}, ["a"]),
    ({"long": "x" * 999}, []),
]


class LongTermMemoryContract(AsyncContract, ScopeContract, PastContract, UniqueContract, RerankingContract):
    """The promises in the docstring of `LongTermMemory`."""

    def test_what_is_added_is_found_again_unchanged(self, store: LongTermMemory) -> None:
        metadata = {
            "topic": "travel",
            "nights": 3,
            "price": 99.5,
            "paid": False,
            "tags": ["sea", "sun"],
            "of": {"a": None},
        }
        added = store.add("  Ana likes café terraces. \n", metadata, "preference")
        assert store.get(added.id) == added
        assert added.content == "  Ana likes café terraces. \n"
        assert added.metadata == metadata
        assert added.memory_type == "preference"
        assert added.score is None

    def test_ids_are_distinct_uuid4_strings(self, store: LongTermMemory) -> None:
        ids = [store.add("same text").id for _ in range(5)]
        assert len(set(ids)) == 5
        assert all(str(uuid.UUID(id, version=4)) == id for id in ids)

    def test_times_are_utc_with_microseconds(self, store: LongTermMemory) -> None:
        before = datetime.datetime.now(datetime.UTC)
        memory = store.add("a fact")
        assert memory.created_at == memory.updated_at
        moment = datetime.datetime.fromisoformat(memory.created_at)
        assert moment.utcoffset() == datetime.timedelta(0)
        assert before <= moment <= datetime.datetime.now(datetime.UTC)
        assert "." in memory.created_at

    def test_update_keeps_id_type_place_and_birth_and_merges_metadata(self, store: LongTermMemory) -> None:
        first = store.add("Ana wants a window seat", {"topic": "flight", "sure": True}, "preference")
        second = store.add("Ana eats no fish")
        updated = store.update(first.id, "Ana wants an aisle seat", {"sure": False, "turn": 4})
        assert updated == store.get(first.id)
        assert (updated.id, updated.memory_type, updated.created_at) == (first.id, "preference", first.created_at)
        assert updated.metadata == {"topic": "flight", "sure": False, "turn": 4}
        assert updated.updated_at > first.updated_at
        assert [memory.id for memory in store.all()] == [first.id, second.id]

    def test_update_moves_the_vector(self, store: LongTermMemory) -> None:
        memory = store.add("blue bicycle")
        store.update(memory.id, "green umbrella")
        [found] = store.search("green umbrella", top_k=1)
        assert found.score == pytest.approx(1.0, abs=1e-5)
        assert found.content == "green umbrella"

    def test_deleted_is_gone(self, store: LongTermMemory) -> None:
        kept, lost = store.add("keep this"), store.add("lose this")
        store.delete(lost.id)
        assert store.all() == [kept]
        assert [memory.id for memory in store.search("lose this", top_k=5)] == [kept.id]
        for call in (store.get, store.delete, lambda id: store.update(id, "back again")):
            with pytest.raises(MemoryNotFound, match=lost.id):
                call(lost.id)
        assert store.count() == 1

    def test_every_change_is_kept(self, store: LongTermMemory) -> None:
        memory = store.add("Ana eats fish", {"sure": False}, by={"tool": "add_memory", "turn": 1})
        store.update(memory.id, "Ana eats no fish", {"sure": True}, by={"tool": "update_memory"})
        store.delete(memory.id, by={"said": "forget that"})
        added, updated, deleted = store.history(memory.id)
        assert (added.change, added.content, added.metadata, added.live) == (
            "add", "Ana eats fish", {"sure": False}, True,
        )  # fmt: skip
        assert (updated.change, updated.content, updated.metadata) == ("update", "Ana eats no fish", {"sure": True})
        assert (deleted.change, deleted.content, deleted.live) == ("delete", "Ana eats no fish", False)
        assert [one.by for one in (added, updated, deleted)] == [
            {"tool": "add_memory", "turn": 1}, {"tool": "update_memory"}, {"said": "forget that"},
        ]  # fmt: skip
        assert memory.created_at == added.at < updated.at < deleted.at

    def test_a_deleted_entry_can_be_restored(self, store: LongTermMemory) -> None:
        memory, other = store.add("a blue bicycle", {"k": 1}), store.add("a green umbrella")
        with pytest.raises(MemoryStoreError, match="not deleted"):
            store.restore(memory.id)
        store.delete(memory.id)
        assert [one.content for one in store.removed()] == ["a blue bicycle"]
        restored = store.restore(memory.id, by={"who": "Ana"})
        assert (restored.content, restored.metadata, restored.created_at) == (
            memory.content, memory.metadata, memory.created_at,
        )  # fmt: skip
        assert store.all() == [restored, other]
        assert store.removed() == []
        assert [one.id for one in store.search("a blue bicycle", top_k=1)] == [memory.id]
        assert store.history(memory.id)[-1].by == {"who": "Ana"}

    def test_an_entry_deleted_and_undone_to_nothing_can_be_restored(self, store: LongTermMemory) -> None:
        memory = store.add("Ana is vegan")
        store.delete(memory.id)
        assert store.undo(memory.id, changes=2) is None
        assert store.restore(memory.id).content == "Ana is vegan"
        assert [one.content for one in store.all()] == ["Ana is vegan"]

    def test_a_history_that_begins_out_of_sight_is_refused(self, store: LongTermMemory) -> None:
        at = "2026-01-01T00:00:00.000000+00:00"
        hidden = Version(change="delete", content="Ana is vegan", at=at, live=False)
        with pytest.raises(MemoryStoreError, match="first version of an entry is out of sight"):
            store.insert("1b671a64-40d5-491e-99b0-da01ff1f3341", [hidden])
        assert store.removed() == []

    def test_undo_goes_back_one_change_and_undone_twice_is_as_before(self, store: LongTermMemory) -> None:
        memory = store.add("blue bicycle", {"k": 1})
        store.update(memory.id, "green umbrella", {"k": 2})
        undone = store.undo(memory.id)
        assert undone == store.get(memory.id)
        assert (undone.content, undone.metadata) == ("blue bicycle", {"k": 1})
        [found] = store.search("blue bicycle", top_k=1)
        assert found.score == pytest.approx(1.0, abs=1e-5)
        again = store.undo(memory.id)
        assert again is not None
        assert (again.content, again.metadata) == ("green umbrella", {"k": 2})
        assert [one.change for one in store.history(memory.id)] == ["add", "update", "undo", "undo"]

    def test_several_changes_can_be_undone_as_one(self, store: LongTermMemory) -> None:
        memory = store.add("first")
        store.update(memory.id, "second")
        store.delete(memory.id)
        undone = store.undo(memory.id, changes=2)
        assert undone is not None
        assert undone.content == "first"
        assert [one.change for one in store.history(memory.id)] == ["add", "update", "delete", "undo"]
        assert store.undo(memory.id, changes=4) is None
        for changes in (0, 6):
            with pytest.raises(MemoryStoreError, match=f"{changes} cannot be undone"):
                store.undo(memory.id, changes=changes)

    def test_an_addition_can_be_undone(self, store: LongTermMemory) -> None:
        memory = store.add("a slip of the tongue")
        assert store.undo(memory.id) is None
        assert store.all() == []
        assert store.count() == 0
        with pytest.raises(MemoryNotFound):
            store.get(memory.id)
        assert store.undo(memory.id) == store.get(memory.id)

    def test_an_entry_can_be_taken_over_with_its_id_and_history(self, store: LongTermMemory) -> None:
        memory = store.add("blue bicycle", {"k": 1}, "thing", by={"who": "Ana"})
        store.update(memory.id, "green umbrella")
        hidden = store.add("hidden")
        store.delete(hidden.id)
        entries = [(one.id, one, store.history(one.id)) for one in (store.get(memory.id), hidden)]
        with store.scoped("bob") as bobs:
            for id, _, versions in entries:
                with pytest.raises(MemoryStoreError, match="is taken"):
                    bobs.insert(id, versions)
                with pytest.raises(MemoryStoreError, match="is taken"):
                    store.insert(id, versions)
            assert bobs.count() == 0
            store.forget_user()
            (first, expected, versions), (second, _, gone) = entries
            assert bobs.insert(first, versions, "thing") == expected
            assert bobs.insert(second, gone) is None
            assert [bobs.history(id) for id in (first, second)] == [versions, gone]
            [found] = bobs.search("green umbrella", top_k=1)
            assert found.id == first
            assert [one.id for one in bobs.removed()] == [second]
        with pytest.raises(MemoryStoreError):
            store.insert("m1", versions)
        with pytest.raises(MemoryStoreError, match="one version at least"):
            store.insert(str(uuid.uuid4()), [])
        for at in ("", "yesterday", "2027-01-31T12:00:00"):
            with pytest.raises(MemoryStoreError, match="time of a version"):
                store.insert(str(uuid.uuid4()), [Version(change="add", content="x", at=at)])

    def test_what_has_expired_is_out_of_sight_and_can_be_purged(self, store: LongTermMemory) -> None:
        now = datetime.datetime.now(datetime.UTC)
        soon = (now + datetime.timedelta(days=1)).astimezone(datetime.timezone(datetime.timedelta(hours=5)))
        kept = store.add("the code is 1234", expires_at=soon)
        assert kept.expires_at == soon.astimezone(datetime.UTC).isoformat(timespec="microseconds")
        assert store.get(kept.id) == kept
        over = store.add("the code was 4321", expires_at=(now - datetime.timedelta(seconds=1)).isoformat())
        for call in (store.get, store.delete, lambda id: store.update(id, "again")):
            with pytest.raises(MemoryNotFound, match=over.id):
                call(over.id)
        assert store.all() == [kept]
        assert store.count() == 1
        for mode in ("hybrid", "dense", "lexical"):
            assert [one.id for one in store.search("the code", mode=mode)] == [kept.id]  # type: ignore[arg-type]
        assert [version.expires_at for version in store.history(over.id)] == [over.expires_at]
        assert store.update(kept.id, "the code is 5678").expires_at == kept.expires_at
        assert store.update(kept.id, "the code is 5678", expires_at=None).expires_at is None
        assert store.purge_expired() == 1
        assert store.purge_expired() == 0
        with pytest.raises(MemoryNotFound):
            store.history(over.id)
        assert store.count() == 1

    @pytest.mark.parametrize("moment", ["tomorrow", "2027-01-31", datetime.datetime(2027, 1, 31), 12.5])
    def test_a_time_needs_a_zone(self, store: LongTermMemory, moment: Any) -> None:
        with pytest.raises(MemoryStoreError, match=r"2027-01-31T12:00:00\+00:00"):
            store.add("a fact", expires_at=moment)
        assert store.count() == 0

    def test_what_is_purged_leaves_nothing(self, store: LongTermMemory) -> None:
        seen, hidden, kept = store.add("seen"), store.add("hidden"), store.add("kept")
        store.delete(hidden.id)
        for one in (seen, hidden):
            store.purge(one.id)
            for call in (store.history, store.undo, store.restore, store.purge, store.get):
                with pytest.raises(MemoryNotFound, match=one.id):
                    call(one.id)
        assert store.removed() == []
        assert store.all() == [kept]

    def test_the_embedder_forgets_every_version_of_what_is_purged(
        self, store: LongTermMemory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        forgotten: list[str] = []
        monkeypatch.setattr(store.embedder, "forget", forgotten.extend, raising=False)
        changed, hidden = store.add("first"), store.add("hidden")
        store.add("kept")
        store.add("over", expires_at="2001-01-01T00:00:00Z")
        store.update(changed.id, "second")
        store.delete(hidden.id)
        assert forgotten == []
        store.purge(changed.id)
        assert set(forgotten) == {"first", "second"}
        store.purge_expired()
        assert set(forgotten) == {"first", "second", "over"}
        store.forget_user()
        assert set(forgotten) == {"first", "second", "over", "hidden", "kept"}

    def test_a_user_can_be_forgotten(self, store: LongTermMemory) -> None:
        mine = [store.add(f"fact {number}") for number in range(3)]
        store.delete(mine[0].id)
        store.update(mine[1].id, "another fact")
        with store.scoped("bob") as bobs:
            his = bobs.add("Bob's fact")
            assert store.forget_user() == 3
            assert (store.all(), store.removed(), store.count()) == ([], [], 0)
            for one in mine:
                with pytest.raises(MemoryNotFound):
                    store.history(one.id)
            assert bobs.all() == [his]
        assert store.forget_user() == 0

    def test_everything_that_was_can_be_taken_over_in_order(self, store: LongTermMemory) -> None:
        past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
        changed, over = store.add("blue bicycle", {"k": 1}, "thing"), store.add("over", expires_at=past)
        hidden, last = store.add("hidden"), store.add("last")
        store.update(changed.id, "green umbrella", by={"who": "Ana"})
        store.delete(hidden.id)
        with store.scoped("bob") as bobs:
            bobs.add("Bob's fact")
            entries = list(store.entries())
            assert [(one.id, one.memory_type) for one in entries] == [
                (changed.id, "thing"), (over.id, "general"), (hidden.id, "general"), (last.id, "general"),
            ]  # fmt: skip
            assert [list(one.versions) for one in entries] == [store.history(one.id) for one in entries]
            assert store.forget_user() == 4
            assert list(store.entries()) == []
            with store.scoped("carl") as carls:
                for one in entries:
                    carls.insert(one.id, one.versions, one.memory_type)
                assert list(carls.entries()) == entries
                assert [one.content for one in carls.all()] == ["green umbrella", "last"]

    def test_users_are_those_who_have_entries(self, store: LongTermMemory) -> None:
        assert store.users() == []
        hidden = store.add("Ana's fact")
        with store.scoped("Bob") as bobs:
            bobs.add("Bob's fact")
            assert store.users() == bobs.users() == ["Bob", "ana"]
            store.delete(hidden.id)
            assert store.users() == ["Bob", "ana"]
            store.purge(hidden.id)
            assert store.users() == ["Bob"]

    def test_many_are_added_as_one(self, store: LongTermMemory) -> None:
        first = store.add("first")
        soon = "2099-01-31T12:00:00.000000+00:00"
        many = [
            NewMemory(content="Ana likes tea", metadata={"topic": "drinks"}, memory_type="preference", by={"turn": 3}),
            NewMemory(content="Ana flies on Friday", expires_at=soon),
            *(NewMemory(content=f"fact {number}") for number in range(20)),
        ]
        added = store.add_many(many)
        assert store.all() == [first, *added]
        assert [one.content for one in added] == [one.content for one in many]
        assert (added[0].metadata, added[0].memory_type, added[1].expires_at) == (
            {"topic": "drinks"}, "preference", soon,
        )  # fmt: skip
        assert [version.by for version in store.history(added[0].id)] == [{"turn": 3}]
        assert store.search("Ana likes tea", top_k=1)[0].id == added[0].id
        assert store.add_many([]) == []

    @pytest.mark.parametrize(
        "bad",
        [NewMemory(content=" "), NewMemory(content="x", metadata={"k": {1}}), NewMemory(content="x", expires_at="")],
    )
    def test_many_are_added_all_or_none(self, store: LongTermMemory, bad: NewMemory) -> None:
        good = NewMemory(content="a fact")
        with pytest.raises(MemoryStoreError, match=r"^Entry 3 of 4: .* None was added\.$"):
            store.add_many([good, good, bad, good])
        assert store.all() == []

    def test_all_is_in_insertion_order(self, store: LongTermMemory) -> None:
        contents = [f"fact number {number}" for number in range(15)]
        for content in contents:
            store.add(content)
        assert [memory.content for memory in store.all()] == contents
        assert store.count() == 15

    def test_search_is_by_cosine_best_first(self, store: LongTermMemory) -> None:
        texts = ["Ana books a hotel in Rome", "a hotel in Paris", "the cat sleeps", "Rome has hotels and cats"]
        for text in texts:
            store.add(text)
        query = "a hotel in Rome"
        vectors = store.embedder.embed([query, *texts])
        expected = sorted(zip((vectors[1:] @ vectors[0]).tolist(), texts, strict=True), reverse=True)[:3]
        found = store.search(query, mode="dense")
        assert [memory.content for memory in found] == [text for _, text in expected]
        assert [memory.score for memory in found] == pytest.approx([score for score, _ in expected], abs=1e-5)

    def test_lexical_search_is_by_shared_words(self, store: LongTermMemory) -> None:
        texts = ["The flight is QU247.", "flight flight flight to Rome", "nothing in common", "Flüge nach Rom"]
        for text in texts:
            store.add(text)
        found = store.search("which flight, QU247?", top_k=10, mode="lexical")
        assert [memory.content for memory in found] == texts[:2]  # the others share no word
        assert [memory.content for memory in store.search("FLUGE", mode="lexical")] == texts[3:]
        vectors = store.embedder.embed(["which flight, QU247?", texts[0]])
        assert found[0].score == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)

    def test_hybrid_search_adds_what_is_shared_in_words_to_the_cosine(self, store: LongTermMemory) -> None:
        texts = [
            f"note {number}: {word} at the {place}"
            for number, (word, place) in enumerate(
                itertools.product(("meeting", "dinner", "swim", "flight"), ("harbour", "office", "airport"))
            )
        ]
        for text in texts:
            store.add(text)
        query = "dinner at the airport"
        vectors = store.embedder.embed([query, *texts])
        cosines = (vectors[1:] @ vectors[0]).tolist()
        sums = [cosine + LEXICAL * shared(query, text) for cosine, text in zip(cosines, texts, strict=True)]
        found = store.search(query, top_k=50)
        by_text = dict(zip(texts, zip(sums, cosines, strict=True), strict=True))
        assert [by_text[one.content][0] for one in found] == pytest.approx(sorted(sums, reverse=True), abs=1e-5)
        assert [one.score for one in found] == pytest.approx([by_text[one.content][1] for one in found], abs=1e-5)
        assert found[0].content.endswith("dinner at the airport")
        assert [one.id for one in store.search(query, top_k=3)] == [one.id for one in found[:3]]

    def test_a_changed_entry_is_found_by_its_new_words_alone(self, store: LongTermMemory) -> None:
        memory = store.add("blue bicycle")
        store.add("something else")
        store.update(memory.id, "green umbrella")
        assert [one.id for one in store.search("umbrella", mode="lexical")] == [memory.id]
        assert store.search("bicycle", mode="lexical") == []
        store.delete(memory.id)
        assert store.search("umbrella", mode="lexical") == []
        store.restore(memory.id)
        assert [one.id for one in store.search("umbrella", mode="lexical")] == [memory.id]

    def test_another_mode_is_refused(self, store: LongTermMemory) -> None:
        with pytest.raises(MemoryStoreError, match="hybrid, dense, lexical, not 'exact'"):
            store.search("a query", mode="exact")  # type: ignore[arg-type]

    def test_equal_scores_are_oldest_first_and_never_above_one(self, store: LongTermMemory) -> None:
        ids = [store.add("twice told tale").id for _ in range(3)]
        found = store.search("twice told tale", top_k=3)
        assert [memory.id for memory in found] == ids
        assert all(memory.score is not None and memory.score <= 1.0 for memory in found)
        for mode in ("hybrid", "dense", "lexical"):
            assert [one.id for one in store.search("twice told tale", top_k=1, mode=mode)] == ids[:1]  # type: ignore[arg-type]

    def test_search_of_an_empty_store_finds_nothing(self, store: LongTermMemory) -> None:
        assert store.search("anything") == []
        assert store.all() == []
        assert store.count() == 0

    def test_where_is_equality_of_metadata(self, store: LongTermMemory) -> None:
        store.add("a", {"topic": "travel", "turn": 1, "sure": True, "long": "x" * 1000})
        store.add("b", {"topic": "travel", "turn": 2, "sure": False})
        store.add(
            "c",
            {"topic": "food", "turn": 2**60, "price": 99.5, "tags": ["sea", "sun"], "two words": "x", "a.b": "y",
             "nights": [2, 7]},
        )  # fmt: skip
        for where, expected in WHERE:
            found = [memory.content for memory in store.search("a b c", top_k=10, where=where)]
            assert sorted(found) == expected, where

    def test_a_changed_entry_is_found_by_its_new_metadata_alone(self, store: LongTermMemory) -> None:
        memory = store.add("a fact", {"city": "Rome", "price": 10})
        store.update(memory.id, "a fact", {"city": "Oslo", "price": 20})
        asked: list[tuple[Where, int]] = [
            ({"city": "Rome"}, 0), ({"city": "Oslo"}, 1), ({"price": Range(lt=15)}, 0), ({"price": Range(gt=15)}, 1),
        ]  # fmt: skip
        for where, count in asked:
            assert len(store.search("a fact", where=where)) == count, where

    def test_when_is_about_the_times_of_an_entry(self, store: LongTermMemory) -> None:
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
        first = store.add("first", expires_at=soon)
        second = store.add("second")
        third = store.update(store.add("third").id, "third again")

        def found(**when: Range) -> list[str]:
            return sorted(one.content for one in store.search("first second third again", top_k=9, when=when))

        assert found(created_at=Range(gte=second.created_at)) == ["second", "third again"]
        assert found(created_at=Range(gt=first.created_at, lt=third.created_at)) == ["second"]
        assert found(created_at=Range(lte=first.created_at)) == ["first"]
        assert found(updated_at=Range(gt=third.created_at)) == ["third again"]
        assert found(expires_at=Range(lte=soon)) == ["first"]
        assert found(expires_at=Range(gt=soon)) == []
        later = soon.astimezone(datetime.timezone(datetime.timedelta(hours=-7))).isoformat()
        assert found(expires_at=Range(gte=later), created_at=Range(lt=soon)) == ["first"]

    @pytest.mark.parametrize(
        ("where", "when"),
        [
            ({"k": Range()}, None),
            ({"k": Range(gt="1")}, None),
            ({"k": Range(gt=True)}, None),
            ({"k": Range(gt=float("nan"))}, None),
            ({"k": AnyOf([])}, None),
            ({"k": AnyOf("Rome")}, None),  # type: ignore[arg-type]
            ({"k": AnyOf([None])}, None),  # type: ignore[list-item]
            ({"k": ["Rome"]}, None),
            (None, "yesterday"),
            (None, {"seen_at": Range(gt="2027-01-31T12:00:00+00:00")}),
            (None, {"created_at": Range()}),
            (None, {"created_at": Range(gt="2027-01-31")}),
            (None, {"created_at": Range(gt=12.5)}),
            (None, {"created_at": "2027-01-31T12:00:00+00:00"}),
        ],
    )
    def test_what_cannot_be_asked_for_is_refused(self, store: LongTermMemory, where: Any, when: Any) -> None:
        with pytest.raises(MemoryStoreError, match=r"Range|AnyOf|filter|bound|2027-01-31T12:00:00|no time"):
            store.search("a query", where=where, when=when)

    def test_where_is_applied_before_top_k(self, store: LongTermMemory) -> None:
        for number in range(10):
            store.add("hotel in Rome", {"turn": number})
        wanted = store.add("something else altogether", {"turn": 99})
        assert [memory.id for memory in store.search("hotel in Rome", top_k=1, where={"turn": 99})] == [wanted.id]

    def test_users_do_not_see_each_other(self, store: LongTermMemory) -> None:
        mine = store.add("Ana's secret", {"k": 1})
        with store.scoped("bob") as bobs:
            assert bobs.user_id == "bob"
            assert bobs.embedder is store.embedder
            assert (bobs.count(), bobs.all(), bobs.search("Ana's secret", where={"k": 1})) == (0, [], [])
            store.delete(mine.id)
            for call in (bobs.history, bobs.undo, bobs.restore, bobs.purge):
                with pytest.raises(MemoryNotFound, match="'bob'"):
                    call(mine.id)
            assert bobs.removed() == []
            mine = store.restore(mine.id)
            for call in (bobs.get, bobs.delete, lambda id: bobs.update(id, "taken over")):
                with pytest.raises(MemoryNotFound, match="'bob'"):
                    call(mine.id)
            his = bobs.add("Bob's secret")
            assert bobs.all() == [his]
        assert store.user_id == "ana"
        assert store.all() == [mine]
        with store.scoped("ana") as again:
            assert again.all() == [mine]

    def test_returned_metadata_is_a_snapshot(self, store: LongTermMemory) -> None:
        given = {"tags": ["sea"]}
        added = store.add("a fact", given)
        given["tags"].append("given")
        added.metadata["tags"].append("added")
        store.get(added.id).metadata["tags"].append("got")
        assert store.get(added.id).metadata == {"tags": ["sea"]}

    def test_tuples_come_back_as_lists(self, store: LongTermMemory) -> None:
        assert store.add("a fact", {"pair": (1, 2)}).metadata == {"pair": [1, 2]}

    def test_threads_may_share_it(self, store: LongTermMemory) -> None:
        start = threading.Barrier(8)

        def work(worker: int) -> None:
            start.wait()
            for number in range(4):
                memory = store.add(f"worker {worker} says {number}", {"worker": worker})
                store.search(f"worker {worker}", top_k=2)
                if number % 2:
                    store.delete(memory.id)
                else:
                    store.update(memory.id, f"worker {worker} repeats {number}")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        expected = {f"worker {worker} repeats {number}" for worker in range(8) for number in (0, 2)}
        assert {memory.content for memory in store.all()} == expected
        assert store.count() == 16

    def test_copies_share_the_store_and_pickles_are_refused(self, store: LongTermMemory) -> None:
        assert copy.deepcopy({"memory": store})["memory"] is store
        assert copy.copy(store) is store
        with pytest.raises(MemoryStoreError, match="LongTermMemory.open"):
            pickle.dumps(store)

    def test_closing_ends_this_view_and_no_other(self, store: LongTermMemory) -> None:
        memory = store.add("a fact")
        other = store.scoped("ana")
        store.close()
        store.close()
        calls: list[Callable[[], Any]] = [
            lambda: store.add("more"),
            lambda: store.add_many([NewMemory(content="more")]),
            lambda: store.update(memory.id, "more"),
            lambda: store.delete(memory.id),
            lambda: store.get(memory.id),
            lambda: store.search("fact"),
            store.all,
            store.removed,
            store.count,
            store.forget_user,
            store.purge_expired,
            lambda: store.history(memory.id),
            lambda: list(store.entries()),
            store.users,
            lambda: store.undo(memory.id),
            lambda: store.purge(memory.id),
            lambda: store.insert(
                str(uuid.uuid4()), [Version(change="add", content="x", at="2027-01-31T12:00:00+00:00")]
            ),
            lambda: store.scoped("bob"),
        ]
        for call in calls:
            with pytest.raises(MemoryStoreError, match="closed"):
                call()
        assert other.all() == [memory]
        other.close()


class EmbedderContract:
    """The promises in the docstring of `Embedder`."""

    def test_it_is_named_and_sized(self, embedder: Embedder) -> None:
        assert isinstance(embedder, Embedder)
        assert embedder.name
        assert embedder.dimension > 0

    def test_rows_are_unit_float32(self, embedder: Embedder) -> None:
        texts = ["Ana likes tea", "", "   ", "ünï©ode 東京 🙂", "x" * 5000, "word " * 1000, "tab\tand\nline"]
        rows = embedder.embed(texts)
        assert rows.dtype == np.float32
        assert rows.shape == (len(texts), embedder.dimension)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)

    def test_no_texts_no_rows(self, embedder: Embedder) -> None:
        assert embedder.embed([]).shape == (0, embedder.dimension)

    def test_a_text_has_one_vector_whatever_surrounds_it(self, embedder: Embedder) -> None:
        texts = ["short", "a somewhat longer sentence about hotels", "tea " * 60]
        together = embedder.embed(texts)
        alone = np.concatenate([embedder.embed([text]) for text in texts])
        np.testing.assert_allclose(together, alone, atol=1e-4)

    def test_shared_words_are_nearer_than_none(self, embedder: Embedder) -> None:
        query, near, far = embedder.embed(
            ["the hotel in Rome is booked", "we booked the hotel in Rome", "quarterly tax forms"]
        )
        assert query @ near > 0.6
        assert query @ far < 0.3

    def test_it_does_not_hand_out_its_own_rows(self, embedder: Embedder) -> None:
        first = embedder.embed(["a text"])
        kept = first.copy()
        first[:] = 0.0
        np.testing.assert_array_equal(embedder.embed(["a text"]), kept)

    def test_threads_may_share_it(self, embedder: Embedder) -> None:
        texts = [f"sentence number {number}" for number in range(12)]
        expected = embedder.embed(texts)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: embedder.embed(texts), range(8)))
        for rows in results:
            np.testing.assert_allclose(rows, expected, atol=1e-4)

    @pytest.mark.parametrize("bad", ["a bare string", 3, None, ["ok", None], [b"bytes"]])
    def test_what_is_no_list_of_strings_is_refused(self, embedder: Embedder, bad: Any) -> None:
        with pytest.raises(MemoryStoreError, match="strings"):
            embedder.embed(bad)

    def test_it_can_be_copied(self, embedder: Embedder) -> None:
        twin = copy.deepcopy(embedder)
        np.testing.assert_array_equal(twin.embed(["a text"]), embedder.embed(["a text"]))


class EnvironmentContract:
    """The promises in the docstring of `Environment`."""

    seed = 7

    def begin(self, environment: Environment) -> Observation:
        return environment.reset(self.seed)

    def replay(self, environment: Environment, actions: Iterable[str]) -> list[StepResult]:
        self.begin(environment)
        return [environment.step(action) for action in actions]

    def test_it_says_what_it_is(self, environment: Environment) -> None:
        assert ":" in environment.name
        assert environment.rules
        assert all(rule == rule.strip() and rule.endswith(".") for rule in environment.rules)
        assert self.begin(environment).text.strip()
        assert environment.goal.strip()

    def test_the_experts_actions_reach_the_goal(self, environment: Environment) -> None:
        first = self.begin(environment)
        before = environment.last
        assert (before.observation, before.reward, before.done, environment.steps) == (first, 0.0, False, 0)
        assert 0.0 <= before.progress < 1.0
        actions = environment.solution()
        assert environment.last is before
        results = self.replay(environment, actions)
        assert results[-1].success
        assert results[-1].done
        assert not any(result.success or result.done for result in results[:-1])
        shares = [before.progress, *(result.progress for result in results)]
        assert shares == sorted(shares)
        assert environment.last is results[-1]
        assert environment.steps == len(actions)

    def test_a_seed_gives_the_same_episode_again(self, environment: Environment) -> None:
        first = self.begin(environment)
        goal, actions = environment.goal, environment.solution()
        results = self.replay(environment, actions)
        assert self.begin(environment) == first
        assert (environment.goal, environment.solution()) == (goal, actions)
        assert self.replay(environment, actions) == results

    def test_an_action_that_there_is_not_changes_nothing(self, environment: Environment) -> None:
        self.begin(environment)
        actions = environment.solution()
        expected = self.replay(environment, actions)
        for result, wrong in zip(
            self.replay(environment, ["xyzzy", "", "go to the \x00 moon", "look " * 500]),
            ["xyzzy", "''", "moon", "look"],
            strict=True,
        ):
            assert "not possible" in result.observation.text
            assert wrong in result.observation.text
            assert (result.reward, result.progress, result.done) == (0.0, environment.last.progress, False)
            assert not result.possible
        assert environment.last.observation.admissible == self.begin(environment).admissible
        environment.step("xyzzy")
        assert [environment.step(action) for action in actions] == expected

    def test_what_is_admissible_is_possible(self, environment: Environment) -> None:
        for action in self.begin(environment).admissible[:20]:
            self.begin(environment)
            assert environment.step(action).possible

    def test_blanks_do_not_matter(self, environment: Environment) -> None:
        self.begin(environment)
        action, *_ = environment.solution()
        expected = self.replay(environment, [action])
        assert self.replay(environment, [f"  {action.replace(' ', '   ')}\n"]) == expected

    def test_the_limit_ends_an_episode(self, environment: Environment) -> None:
        environment.max_steps = 2
        first, second = self.replay(environment, ["xyzzy", "xyzzy"])
        assert (first.done, second.done, second.success) == (False, True, False)

    def test_out_of_turn_is_an_error(self, environment: Environment) -> None:
        for use in (lambda: environment.step("look"), lambda: environment.goal, environment.solution):
            with pytest.raises(WorldError, match="call reset"):
                use()
        self.begin(environment)
        self.replay(environment, environment.solution())
        with pytest.raises(WorldError, match="is over: call reset"):
            environment.step("look")

    def test_a_closed_world_refuses(self, environment: Environment) -> None:
        with environment as same:
            assert same is environment
            self.begin(environment)
        environment.close()
        for use in (lambda: environment.reset(1), lambda: environment.step("look"), lambda: environment.goal):
            with pytest.raises(WorldError, match="closed"):
                use()
