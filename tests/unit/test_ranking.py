"""Search is exact: however deep an entry is in one ranking, it is found where the sum of both puts it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fakes_memory import InMemoryStore
from fakes_qdrant import QdrantServer

from agemem_dspy.memory import HashEmbedder, LongTermMemory, NewMemory
from agemem_dspy.memory.checks import SEARCH_MODES, SearchMode
from agemem_dspy.memory.edge_points import EdgePoints
from agemem_dspy.memory.lexical import ranking_weights, shared
from agemem_dspy.memory.point_store import Hit, Ranking
from agemem_dspy.memory.ranking import Shortcut

EMBEDDER = HashEmbedder(32)
WORDS = "hotel rome flight budget ana likes window seat train oslo dinner vegan monday sister project review".split()
CHOICE = random.Random(0)
TEXTS = [" ".join(CHOICE.choices(WORDS, k=CHOICE.randint(1, 6))) + f" {number}" for number in range(300)]
QUERIES = [" ".join(CHOICE.choices([*WORDS, "unknown", "7"], k=CHOICE.randint(1, 4))) for _ in range(25)]


@pytest.fixture(scope="module", params=["memory", "folder", "server"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LongTermMemory]:
    with QdrantServer() as server:
        where = {"memory": ":memory:", "folder": tmp_path_factory.mktemp("ranking"), "server": server.url}
        place: str | Path = where[request.param]
        with LongTermMemory.open(place, user_id="ana", embedder=EMBEDDER) as store:
            store.add_many([NewMemory(content=text) for text in TEXTS])
            yield store


@pytest.fixture(scope="module")
def oracle() -> LongTermMemory:
    store = InMemoryStore(EMBEDDER, "ana")
    store.add_many([NewMemory(content=text) for text in TEXTS])
    return store


@pytest.mark.parametrize("mode", SEARCH_MODES)
def test_the_best_are_the_best_of_all(store: LongTermMemory, oracle: LongTermMemory, mode: SearchMode) -> None:
    by_cosine, by_share = ranking_weights(mode)

    def scores(memory: LongTermMemory, query: str) -> list[float]:
        found = memory.search(query, top_k=5, mode=mode)
        return [by_cosine * (one.score or 0.0) + by_share * shared(query, one.content) for one in found]

    for query in QUERIES:
        assert scores(store, query) == pytest.approx(scores(oracle, query), abs=1e-5), query


def test_of_many_equals_the_oldest_come_first(store: LongTermMemory) -> None:
    with store.scoped("bob") as bobs:
        equals = bobs.add_many([NewMemory(content="the same fact")] * 150)
        for mode in SEARCH_MODES:
            found = bobs.search("the same fact", top_k=4, mode=mode)
            assert [one.id for one in found] == [one.id for one in equals[:4]], mode


def test_a_query_without_a_word_is_compared_by_meaning_alone(store: LongTermMemory) -> None:
    assert len(store.search("!?", top_k=3)) == 3
    assert store.search("!?", top_k=3, mode="lexical") == []


@pytest.mark.parametrize("mode", SEARCH_MODES)
def test_what_is_out_of_sight_takes_no_place(store: LongTermMemory, mode: SearchMode) -> None:
    with store.scoped("carl") as carls:
        kept = carls.add_many([NewMemory(content=f"seat by the window {number}") for number in range(30)])
        gone = carls.add_many([NewMemory(content="seat by the window")] * 40)
        for memory in gone[:20]:
            carls.delete(memory.id)
        for memory in gone[20:]:
            carls.update(memory.id, memory.content, expires_at="2001-01-01T00:00:00+00:00")
        ids = {memory.id for memory in kept}
        for _ in range(40):  # with and without the shortcut
            found = carls.search("seat by the window", top_k=5, mode=mode)
            assert len(found) == 5
            assert {memory.id for memory in found} <= ids
        carls.forget_user()


def test_a_shortcut_that_failed_pauses() -> None:
    shortcut = Shortcut(True)
    assert [shortcut.worth_trying() for _ in range(3)] == [True] * 3
    shortcut.failed()
    taken = [shortcut.worth_trying() for _ in range(20)]
    assert taken == [False] * 16 + [True] * 4
    assert not Shortcut(False).worth_trying()


def test_a_search_that_found_nothing_out_of_sight_asks_the_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    rank = EdgePoints.rank

    def counted(self: EdgePoints, rankings: Sequence[Ranking]) -> list[list[Hit]]:
        asked.append(len(rankings[0].condition.must) + len(rankings[0].condition.must_not))
        return rank(self, rankings)

    monkeypatch.setattr(EdgePoints, "rank", counted)
    with LongTermMemory.open(tmp_path, user_id="ana", embedder=EMBEDDER) as store:
        added = store.add_many([NewMemory(content=text) for text in TEXTS[:20]])
        store.search(TEXTS[0], mode="dense")
        assert asked == [1]  # the user, and nothing else
        store.delete(added[0].id)
        store.search(TEXTS[0], mode="dense")  # hasty, and wrong
        store.search(TEXTS[0], mode="dense")
        assert asked[1:] == [1, 3, 3]
