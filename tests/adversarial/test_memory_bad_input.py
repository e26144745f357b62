"""Bad input to long-term memory: a message that says how to mend it, and a store that did not change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from fakes_memory import InMemoryStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agemem_dspy.errors import AgeMemError, MemoryNotFound, MemoryStoreError
from agemem_dspy.memory.embedder import HashEmbedder
from agemem_dspy.memory.long_term import LongTermMemory

EMBEDDER = HashEmbedder(32)
CIRCULAR: dict[str, Any] = {}
CIRCULAR["self"] = CIRCULAR

TEXTS = [
    ("", "empty"),
    (" \n\t", "empty"),
    (None, "must be a string, not NoneType"),
    (7, "must be a string, not int"),
    (b"bytes", "must be a string, not bytes"),
    (["list"], "must be a string, not list"),
    ("with\x00nul", "NUL"),
    ("lone \ud800 surrogate", "Unicode at character 5"),
]
METADATA = [
    ("topic", "must be a mapping"),
    ([("topic", "x")], "must be a mapping"),
    ({1: "x"}, "keys must be strings"),
    ({"k\x00": "x"}, "NUL"),
    ({"k": "\x00"}, "NUL"),
    ({"k": object()}, "'k' cannot be written as JSON"),
    ({"k": {1, 2}}, "a set"),
    ({"k": b"x"}, "a bytes"),
    ({"k": math.nan}, "NaN"),
    ({"k": [1, {"deep": math.inf}]}, "Infinity"),
    ({"k": 2**63}, "9223372036854775808"),
    ({"k": {"deep": {2: 3}}}, "keys must be strings"),
    (CIRCULAR, "contains itself"),
]


@pytest.fixture(params=["qdrant", "dictionary"])
def store(request: pytest.FixtureRequest) -> Iterator[LongTermMemory]:
    opened = (
        LongTermMemory.open(":memory:", user_id="ana", embedder=EMBEDDER)
        if request.param == "qdrant"
        else InMemoryStore(EMBEDDER, "ana")
    )
    with opened as store:
        store.add("the one entry", {"k": 1})
        yield store


@pytest.mark.parametrize(("text", "message"), TEXTS)
def test_texts(store: LongTermMemory, text: Any, message: str) -> None:
    [entry] = store.all()
    with pytest.raises(MemoryStoreError, match=f"content .*{message}"):
        store.add(text)
    with pytest.raises(MemoryStoreError, match=f"content .*{message}"):
        store.update(entry.id, text)
    with pytest.raises(MemoryStoreError, match=f"memory_type .*{message}"):
        store.add("fine", {}, text)
    with pytest.raises(MemoryStoreError, match=f"query .*{message}"):
        store.search(text)
    with pytest.raises(MemoryStoreError, match=f"user_id .*{message}"):
        store.scoped(text)
    assert store.all() == [entry]


@pytest.mark.parametrize(("metadata", "message"), METADATA)
def test_metadata(store: LongTermMemory, metadata: Any, message: str) -> None:
    [entry] = store.all()
    with pytest.raises(MemoryStoreError, match=message):
        store.add("fine", metadata)
    with pytest.raises(MemoryStoreError, match=message):
        store.update(entry.id, "fine", metadata)
    assert store.all() == [entry]


@pytest.mark.parametrize("top_k", [0, -1, 10_001, 1.0, "3", None, True, math.nan])
def test_top_k(store: LongTermMemory, top_k: Any) -> None:
    with pytest.raises(MemoryStoreError, match="from 1 to 10000"):
        store.search("entry", top_k=top_k)


@pytest.mark.parametrize(
    "where",
    ["k", ["k"], {1: 2}, {"k": None}, {"k": [1]}, {"k": {"a": 1}}, {"k": math.nan}, {"": 1}, {'a"b': 1}, {"a[0]": 1}],
)
def test_filters(store: LongTermMemory, where: Any) -> None:
    with pytest.raises(MemoryStoreError, match=r"filter|keys must be strings|JSON"):
        store.search("entry", where=where)


@pytest.mark.parametrize(
    "unknown",
    ["", "m1", "1", None, 7, "00000000-0000-4000-8000-000000000000", "x" * 36, "../../etc", "\x00", "\ud800", b"x"],
)
def test_unknown_ids(store: LongTermMemory, unknown: Any) -> None:
    entries = store.all()
    for call in (store.get, store.delete, lambda memory_id: store.update(memory_id, "fine")):
        with pytest.raises(MemoryNotFound, match="has no memory with the id") as caught:
            call(unknown)
        assert isinstance(caught.value, KeyError)
        assert str(caught.value).startswith("User 'ana'")
    assert store.all() == entries


def test_an_id_must_be_spelled_as_it_was_returned(store: LongTermMemory) -> None:
    [entry] = store.all()
    for spelling in (entry.id.upper(), entry.id.replace("-", ""), f"{{{entry.id}}}", f" {entry.id}"):
        with pytest.raises(MemoryNotFound):
            store.get(spelling)


@pytest.mark.parametrize(
    "where", ["", "  ", None, 7, b"bytes", "a\x00b", "ftp://host", "qdrant://host:6333", "http://", "http://[::1"]
)
def test_places(where: Any) -> None:
    with pytest.raises(MemoryStoreError, match=r"Cannot open|no server address|Cannot reach"):
        LongTermMemory.open(where, embedder=EMBEDDER)


@pytest.mark.parametrize("user_id", [text for text, _ in TEXTS])
def test_users(user_id: Any) -> None:
    with pytest.raises(MemoryStoreError, match="user_id"):
        LongTermMemory.open(":memory:", user_id=user_id, embedder=EMBEDDER)


@pytest.mark.parametrize("embedder", ["all-MiniLM-L6-v2", object(), 3])
def test_what_is_no_embedder(embedder: Any) -> None:
    with pytest.raises(MemoryStoreError, match="no embedder"):
        LongTermMemory.open(":memory:", embedder=embedder)


class FlakyEmbedder(HashEmbedder):
    """Fails while it is told to."""

    failing = False

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.failing:
            raise RuntimeError("the accelerator is on fire")
        return super().embed(texts)


def test_an_embedder_that_fails_changes_nothing() -> None:
    embedder = FlakyEmbedder(32)
    with LongTermMemory.open(":memory:", embedder=embedder) as store:
        entry = store.add("an entry")
        embedder.failing = True
        for call in (lambda: store.add("new"), lambda: store.update(entry.id, "new"), lambda: store.search("new")):
            with pytest.raises(MemoryStoreError, match=r"'hash-ngram-32'.*on fire"):
                call()
        assert store.all() == [entry]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.text(max_size=30), metadata=st.dictionaries(st.text(max_size=5), JSON, max_size=3))
def test_whatever_is_given_is_stored_whole_or_refused(
    store: LongTermMemory, content: str, metadata: dict[str, Any]
) -> None:
    before = store.count()
    try:
        added = store.add(content, metadata)
    except AgeMemError:
        assert store.count() == before
    else:
        assert store.get(added.id) == added
        assert (added.content, added.metadata) == (content, metadata)
        assert store.count() == before + 1
