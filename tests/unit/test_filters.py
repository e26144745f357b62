"""Filters on metadata: what the engines find is what a few lines of Python find."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes_memory import InMemoryStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agemem_dspy.memory import AnyOf, HashEmbedder, NewMemory, Range
from agemem_dspy.memory.conditions import label, live_entries_of, matching
from agemem_dspy.memory.qdrant import QdrantMemory
from agemem_dspy.memory.scope import Scope

EMBEDDER = HashEmbedder(16)
ANA = Scope(user_id="ana")
SCALARS: list[Any] = [0, 1, 2, -1, 1.0, 1.5, -0.0, 2**53, 2**53 + 1, 2**60, 1e300, True, False, "1", "true", "", "Rome"]
KEYS = ["k", "two words", "a.b", "ключ", "k=1"]
VALUES = [*SCALARS, None, [], [1, "Rome", True], ["Rome", [2]], {"k": 1}]
ENTRIES = [
    NewMemory(content=f"entry {number}", metadata={key: value, "other": number})
    for number, (key, value) in enumerate((key, value) for key in KEYS for value in VALUES)
]

# Numbers beyond 2**53 may count as their neighbours in a range: none of those that are near one another is a bound.
NEAR = (2**53, 2**53 + 1)
numbers = st.sampled_from([one for one in SCALARS if not isinstance(one, bool | str) and one not in NEAR])
ranges = st.builds(
    lambda bounds: Range(**bounds),
    st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), numbers, min_size=1, max_size=2),
)
any_of = st.builds(AnyOf, st.lists(st.sampled_from(SCALARS), min_size=1, max_size=3))
wanted = st.one_of(st.sampled_from(SCALARS), ranges, any_of)
filters = st.dictionaries(st.sampled_from([*KEYS, "other", "missing"]), wanted, min_size=1, max_size=2)


@pytest.fixture(scope="module", params=["memory", "folder"])
def stores(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[QdrantMemory, InMemoryStore]]:
    where: str | Path = ":memory:" if request.param == "memory" else tmp_path_factory.mktemp("filters") / "memories"
    oracle = InMemoryStore(EMBEDDER, "ana")
    oracle.add_many(ENTRIES)
    with QdrantMemory(where, scope=ANA, embedder=EMBEDDER) as store:
        store.add_many(ENTRIES)
        yield store, oracle


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=filters)
def test_an_engine_finds_what_the_oracle_finds(
    stores: tuple[QdrantMemory, InMemoryStore], where: dict[str, Any]
) -> None:
    store, oracle = stores
    expected = sorted(one.content for one in oracle.search("entry", top_k=1000, where=where, mode="dense"))
    assert sorted(one.content for one in store.search("entry", top_k=1000, where=where, mode="dense")) == expected
    condition = live_entries_of(ANA, *matching(where))
    everything = store._connection.points.scroll(live_entries_of(ANA))
    assert sorted(payload["content"] for one, payload in everything if condition.holds(one, payload)) == expected


@given(first=st.sampled_from(SCALARS), second=st.sampled_from(SCALARS))
def test_labels_are_equal_where_values_are(first: Any, second: Any) -> None:
    equal = first == second and isinstance(first, bool) == isinstance(second, bool)
    assert (label("k", first) == label("k", second)) == equal
    assert label("k", first) != label("other", first)
