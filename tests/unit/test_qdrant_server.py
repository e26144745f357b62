"""The way to a Qdrant server: the contract over a socket, and what only servers have."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from contracts import LongTermMemoryContract
from fakes_qdrant import QdrantServer
from numpy.typing import NDArray

from agemem_dspy.errors import EmbedderMismatch, MemoryStoreError
from agemem_dspy.memory.embedder import HashEmbedder
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.qdrant import QdrantMemory

EMBEDDER = HashEmbedder()


@pytest.fixture
def server() -> Iterator[QdrantServer]:
    with QdrantServer() as server:
        yield server


class TestServerBackend(LongTermMemoryContract):
    @pytest.fixture
    def store(self, server: QdrantServer) -> Iterator[LongTermMemory]:
        with LongTermMemory.open(server.url, user_id="ana", embedder=EMBEDDER) as store:
            yield store


def test_what_every_request_filters_on_is_indexed_once(server: QdrantServer) -> None:
    for user_id in ("ana", "bob"):
        LongTermMemory.open(server.url, user_id=user_id, embedder=EMBEDDER).close()
    indexes = [body for method, path, body in server.requests if method == "PUT" and path.endswith("/index")]
    schemas = {body["field_name"]: body["field_schema"] for body in indexes}
    assert len(indexes) == len(schemas)
    assert schemas == {
        "user_id": {"type": "keyword", "is_tenant": True},
        "state": {"type": "keyword"},
        "labels": {"type": "keyword"},
        "seq": {"type": "integer", "lookup": False, "range": True},
        "created_at": {"type": "datetime"},
        "updated_at": {"type": "datetime"},
        "expires_at": {"type": "datetime"},
    }


def test_every_request_about_points_carries_the_user(server: QdrantServer) -> None:
    with LongTermMemory.open(server.url, user_id="ana", embedder=EMBEDDER) as store:
        memory = store.add("a fact")
        store.update(memory.id, "another fact")
        store.search("fact", where={"k": 1})
        store.get(memory.id)
        store.all()
        store.count()
        store.delete(memory.id)
        store.restore(memory.id)
        store.removed()
        store.purge(memory.id)
        store.purge_expired()
        store.forget_user()
    mine = {"key": "user_id", "match": {"value": "ana"}}
    about_points = [body for _, path, body in server.requests if "/points" in path]
    first_write = next(body for body in about_points if "points" in body)
    assert first_write["points"][0]["payload"]["user_id"] == "ana"
    about_points.remove(first_write)
    assert len(about_points) >= 9
    for request in about_points:
        for body in request.get("searches", [request]):
            condition = body["update_filter"] if "points" in body else body["filter"]
            assert mine in condition["must"]


def test_a_lost_connection_is_tried_again(server: QdrantServer) -> None:
    with LongTermMemory.open(server.url, embedder=EMBEDDER) as store:
        server.drop = 2
        memory = store.add("a fact")
        assert server.drop == 0
        assert store.all() == [memory]


def test_a_server_that_went_away_is_named(server: QdrantServer) -> None:
    with LongTermMemory.open(server.url, embedder=EMBEDDER) as store:
        server.drop = 10**6
        with pytest.raises(MemoryStoreError, match=f"Cannot reach the Qdrant server at {server.url}"):
            store.count()


def test_the_api_key_comes_from_the_environment() -> None:
    former = os.environ.pop("QDRANT_API_KEY", None)
    try:
        with QdrantServer(api_key="secret") as server, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Api key is used with an insecure connection")  # this socket is local
            with pytest.raises(MemoryStoreError, match=r"401 .*Set QDRANT_API_KEY"):
                LongTermMemory.open(server.url, embedder=EMBEDDER)
            os.environ["QDRANT_API_KEY"] = "secret"
            with LongTermMemory.open(server.url, embedder=EMBEDDER) as store:
                assert store.count() == 0
    finally:
        os.environ.pop("QDRANT_API_KEY", None)
        if former is not None:
            os.environ["QDRANT_API_KEY"] = former


def test_memories_of_another_model_are_not_hidden(server: QdrantServer) -> None:
    with LongTermMemory.open(server.url, user_id="ana", embedder=EMBEDDER) as store:
        store.add("made with 256 buckets")
    with pytest.raises(EmbedderMismatch, match=r"agemem-hash-ngram-256-256-.*'hash-ngram-64' \(64 "):
        LongTermMemory.open(server.url, user_id="ana", embedder=HashEmbedder(64))
    with LongTermMemory.open(server.url, user_id="bob", embedder=HashEmbedder(64)) as other:
        other.add("another user may use another model")
        with pytest.raises(EmbedderMismatch):
            other.scoped("ana")
        assert other.count() == 1


class Rivalled(HashEmbedder):
    """Lets somebody else act while the new content is embedded."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act: Callable[[], object] | None = act

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if list(texts) == ["new content"] and self.act is not None:
            act, self.act = self.act, None
            act()
        return super().embed(texts)


@pytest.mark.parametrize("how", ["delete", "purge"])
def test_an_entry_removed_meanwhile_does_not_come_back(server: QdrantServer, how: str) -> None:
    """A second process removes between our look and our write: the update must not insert it anew."""
    with (
        LongTermMemory.open(server.url, embedder=Rivalled(lambda: getattr(rival, how)(memory.id))) as store,
        LongTermMemory.open(server.url, embedder=EMBEDDER) as rival,
    ):
        memory = store.add("old content")
        with pytest.raises(MemoryStoreError, match=memory.id):
            store.update(memory.id, "new content")
        assert rival.count() == 0


def racing(store: LongTermMemory, rival: Callable[[], object], *, at: int) -> None:
    """Let somebody else act just before the store's request number `at` from now."""
    assert isinstance(store, QdrantMemory)
    points: Any = store._connection.points
    call, requests = points._call, []

    def slow(operation: Callable[[Any], Any]) -> Any:
        requests.append(operation)
        if len(requests) == at:
            rival()
        return call(operation)

    points._call = slow


def test_what_was_written_over_at_once_was_written(server: QdrantServer) -> None:
    """Another process changes the entry between our write and our look at whether it was written."""
    with (
        LongTermMemory.open(server.url, embedder=EMBEDDER) as store,
        LongTermMemory.open(server.url, embedder=EMBEDDER) as rival,
    ):
        memory = store.add("old content")
        racing(store, lambda: rival.update(memory.id, "theirs"), at=4)  # two looks, the write, another look
        store.update(memory.id, "ours")
        assert [version.content for version in rival.history(memory.id)] == ["old content", "ours", "theirs"]


def test_what_another_process_wrote_meanwhile_is_not_lost(server: QdrantServer) -> None:
    """It writes between the look at which we build the history and our write."""
    with (
        LongTermMemory.open(server.url, embedder=EMBEDDER) as store,
        LongTermMemory.open(server.url, embedder=EMBEDDER) as rival,
    ):
        memory = store.add("old content")
        racing(store, lambda: rival.update(memory.id, "theirs"), at=3)
        with pytest.raises(MemoryStoreError, match="changed by another process"):
            store.update(memory.id, "ours")
        assert [version.content for version in rival.history(memory.id)] == ["old content", "theirs"]
