"""The way to a Qdrant server: the contract over a socket, and what only servers have."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from contracts import LongTermMemoryContract
from fakes_qdrant import QdrantServer
from numpy.typing import NDArray
from qdrant_client import AsyncQdrantClient, QdrantClient

from agemem_dspy.errors import EmbedderMismatch, MemoryStoreError
from agemem_dspy.memory.embedder import HashEmbedder
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.point_store import CHUNK
from agemem_dspy.memory.qdrant import QdrantMemory
from agemem_dspy.types import NewMemory

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


def test_without_a_place_the_server_of_the_environment_is_opened(
    server: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MemoryStoreError, match="set QDRANT_URL"):
        LongTermMemory.open(embedder=EMBEDDER)
    monkeypatch.setenv("QDRANT_URL", server.url)
    with LongTermMemory.open(embedder=EMBEDDER) as store:
        store.add("Ana flies from Lyon.")
    with LongTermMemory.open(server.url, embedder=EMBEDDER) as store:
        assert [memory.content for memory in store.all()] == ["Ana flies from Lyon."]


class Awaiting:
    """A store whose every call goes through its asynchronous twin, on an event loop in a thread."""

    def __init__(self, store: LongTermMemory, loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._loop = store, loop

    def __getattr__(self, name: str) -> Any:
        twin = getattr(self._store, f"a{name}", None)
        if twin is None:  # `entries`, and what is no call to the store
            return getattr(self._store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            done = asyncio.run_coroutine_threadsafe(twin(*args, **kwargs), self._loop).result(60)
            return Awaiting(done, self._loop) if isinstance(done, LongTermMemory) else done

        return call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class TestServerAwaited(LongTermMemoryContract):
    """The whole contract once more, as an event loop meets it."""

    @pytest.fixture
    def store(self, server: QdrantServer) -> Iterator[Any]:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        with Awaiting(LongTermMemory.open(server.url, user_id="ana", embedder=EMBEDDER), loop) as store:
            yield store
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    def test_copies_share_the_store_and_pickles_are_refused(self, store: LongTermMemory) -> None:
        """It is about the object, not about its calls."""


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


@pytest.mark.parametrize("failure", [500, 503])
def test_a_server_that_fails_is_asked_again(server: QdrantServer, failure: int) -> None:
    with LongTermMemory.open(server.url, embedder=EMBEDDER) as store:
        server.failure = failure
        for add in (store.add, lambda text: asyncio.run(store.aadd(text))):
            server.fail = 2
            memory = add("a fact")
            assert server.fail == 0
            assert store.all()[-1] == memory
        assert store.count() == 2


def test_a_bad_request_is_made_once(server: QdrantServer) -> None:
    with LongTermMemory.open(server.url, embedder=EMBEDDER) as store:
        server.failure = 400
        for add in (store.add, lambda text: asyncio.run(store.aadd(text))):
            server.fail = 2
            with pytest.raises(MemoryStoreError, match="400"):
                add("a fact")
            assert server.fail == 1
        server.fail = 0
        assert store.count() == 0


def test_a_lost_connection_is_tried_again_while_the_loop_goes_on(server: QdrantServer) -> None:
    with LongTermMemory.open(server.url, embedder=EMBEDDER) as store:

        async def main() -> int:
            server.drop, ticks = 2, 0
            adding = asyncio.create_task(store.aadd("a fact"))
            while not adding.done():
                await asyncio.sleep(0.001)
                ticks += 1
            await adding
            return ticks

        assert asyncio.run(main()) > 10
        assert store.count() == 1


def test_as_many_calls_as_there_are_wait_for_the_server_at_once(server: QdrantServer) -> None:
    """Far more than there are worker threads: each is answered when all have arrived."""
    with LongTermMemory.open(server.url, embedder=EMBEDDER) as store:
        memory = store.add("a fact")

        async def main() -> list[Any]:
            async with store:
                return list(await asyncio.gather(*(store.aget(memory.id) for _ in range(40))))

        server.meet = threading.Barrier(40)
        assert asyncio.run(main()) == [memory] * 40


def test_a_batch_that_is_cancelled_in_its_midst_is_taken_back(server: QdrantServer) -> None:
    with LongTermMemory.open(server.url, embedder=EMBEDDER) as store:
        before = store.add("before")

        async def main() -> None:
            adding = asyncio.create_task(
                store.aadd_many([NewMemory(content=f"fact {number}") for number in range(2 * CHUNK)])
            )
            while sum("points" in body for _, _, body in server.requests) < 2:  # the first chunk of the batch
                await asyncio.sleep(0.001)
            adding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await adding

        asyncio.run(main())
        assert store.all() == [before]


def test_clients_can_be_given_and_stay_open(server: QdrantServer) -> None:
    client = QdrantClient(url=server.url, check_compatibility=False)

    async def main() -> None:
        async_client = AsyncQdrantClient(url=server.url, check_compatibility=False)
        store = LongTermMemory.open(server.url, embedder=EMBEDDER, client=client, async_client=async_client)
        async with store:
            memory = await store.aadd("a fact")
            assert store.get(memory.id) == memory
        assert len((await async_client.get_collections()).collections) == 1
        await async_client.close()

    asyncio.run(main())
    assert len(client.get_collections().collections) == 1
    client.close()


def test_a_client_without_a_server_is_refused(server: QdrantServer, tmp_path: Path) -> None:
    client = QdrantClient(url=server.url, check_compatibility=False)
    for where in (":memory:", tmp_path):
        with pytest.raises(MemoryStoreError, match="give the server's URL"):
            LongTermMemory.open(where, embedder=EMBEDDER, client=client)
    client.close()


def test_a_grpc_server_that_is_not_there_is_named() -> None:
    client = QdrantClient(host="127.0.0.1", port=1, grpc_port=1, prefer_grpc=True, check_compatibility=False)
    with pytest.raises(MemoryStoreError, match="Cannot reach the Qdrant server at http://127.0.0.1:1"):
        LongTermMemory.open("http://127.0.0.1:1", embedder=EMBEDDER, client=client)
    client.close()


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
