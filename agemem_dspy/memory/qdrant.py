"""Long-term memory on an engine of points: Qdrant's embedded one in a folder, a Qdrant server, or a dictionary.

One collection per embedding model. Many users share it: `user_id` in the payload is the tenant key, agents and sessions
are among its labels, and every read, change and removal carries a condition on them, by-id ones too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from typing_extensions import override

from agemem_dspy.errors import EmbedderMismatch, MemoryStoreError
from agemem_dspy.memory.additions import first_versions, refuse_repeated, refuse_stored
from agemem_dspy.memory.checks import (
    Moment,
    SearchMode,
    checked_id,
    checked_metadata,
    checked_mode,
    checked_moment,
    checked_text,
    checked_top_k,
    checked_versions,
    now,
    taken,
)
from agemem_dspy.memory.conditions import (
    Condition,
    HasId,
    deleted,
    entries_of,
    expired,
    id_text,
    live,
    live_entries_of,
    matching,
    within,
)
from agemem_dspy.memory.connection import Clients, Connection, connect
from agemem_dspy.memory.embedder import embed_checked
from agemem_dspy.memory.event_loop import beside_loop
from agemem_dspy.memory.filters import Range, Where, checked_when, checked_where
from agemem_dspy.memory.long_term import LongTermMemory, state_before
from agemem_dspy.memory.past import best_memories_then, records_at, stored_cosines
from agemem_dspy.memory.point_store import CHUNK, PointStore, in_chunks
from agemem_dspy.memory.points import entry_of, memory_of, payload_of, versions_of
from agemem_dspy.memory.ranking import Shortcut, best_memories
from agemem_dspy.memory.reranking import Reranking
from agemem_dspy.memory.scope import Scope
from agemem_dspy.memory.scoped_points import ScopedPoints, point_of
from agemem_dspy.types import Embedder, Entry, Memory, NewMemory, Version

_T = TypeVar("_T")


class QdrantMemory(LongTermMemory):
    """A `LongTermMemory` on a `PointStore`; made by `LongTermMemory.open`."""

    def __init__(
        self,
        where: str | os.PathLike[str],
        *,
        scope: Scope,
        embedder: Embedder,
        reranking: Reranking | None = None,
        connection: Connection | None = None,
        clients: Clients | None = None,
    ) -> None:
        """Open `where`, through `clients` if given, or join `connection`, for which the caller has called `acquire`.

        Raises:
            MemoryStoreError: as `LongTermMemory.open`.
        """
        if not isinstance(embedder, Embedder):
            raise MemoryStoreError(f"{embedder!r} is no embedder: it needs `name`, `dimension` and `embed(texts)`.")
        self._scope = scope
        self._embedder = embedder
        self._reranking = reranking or Reranking()
        self._where = where
        self._connection = connection or connect(where, embedder, clients or Clients())
        self._shortcut = Shortcut(not self._connection.is_server)
        self._finalizer = weakref.finalize(self, self._connection.release)
        try:
            self._refuse_other_model()
        except BaseException:
            self.close()
            raise

    @property
    @override
    def scope(self) -> Scope:
        return self._scope

    @property
    @override
    def embedder(self) -> Embedder:
        return self._embedder

    @property
    @override
    def reranking(self) -> Reranking:
        return self._reranking

    @override
    def add_many(self, entries: Sequence[NewMemory], *, unique: bool = False) -> list[Memory]:
        first = first_versions(entries, now())
        connection, points = self._open_connection(), self._points()
        if not first:
            return []
        contents = [version.content for version, _ in first]
        if unique:
            refuse_repeated(contents)
            refuse_stored(points, self._scope, contents)  # now, to save the embedding, and when nobody else can add
        rows = embed_checked(self._embedder, contents)
        new = {
            str(uuid.uuid4()): payload_of(self._scope, kind, connection.tick(), [version]) for version, kind in first
        }
        made = (point_of(id, payload, row.tolist()) for (id, payload), row in zip(new.items(), rows, strict=True))
        with connection.adding(self._scope, contents) if unique else contextlib.nullcontext():
            if unique:
                refuse_stored(points, self._scope, contents)
            points.insert(made)
        return [memory_of(id, payload) for id, payload in new.items()]

    @override
    def insert(
        self,
        id: str,
        versions: Sequence[Version],
        memory_type: str = "general",
        *,
        agent_id: str | None = None,
        session_id: str | None = None,
    ) -> Memory | None:
        checked_id(id, self._scope)
        owner = self._scope.of_entry(agent_id, session_id)
        kept = checked_versions(versions)
        kind = checked_text(memory_type, "memory_type")
        points, vector = self._points(), self._embed(kept[-1].content)
        with self._connection.exclusive():
            if points.has(id):
                raise taken(id)
            payload = payload_of(owner, kind, self._connection.tick(), kept)
            points.insert([point_of(id, payload, vector)])
            if self._connection.retrieved is not None:
                self._connection.retrieved.expect([id])
            if points.is_server:  # where another process may have been quicker
                records = points.fetch([id], self._mine.under())
                if not records or versions_of(records[0][1]) != kept:
                    raise taken(id)
        return memory_of(id, payload) if kept[-1].live else None

    @override
    def update(
        self,
        id: str,
        content: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        expires_at: Moment | Literal["keep"] | None = "keep",
        by: Mapping[str, Any] | None = None,
    ) -> Memory:
        checked_text(content, "content")
        changes, maker = checked_metadata(metadata), checked_metadata(by)
        until = None if expires_at == "keep" else checked_moment(expires_at)
        self._mine.find(id)  # an unknown id should not cost an embedding
        vector = self._embed(content)
        with self._connection.exclusive():
            payload = self._mine.find(id)
            merged = {**payload["metadata"], **changes}
            end: str | None = payload["expires_at"] if expires_at == "keep" else until
            version = Version(change="update", content=content, metadata=merged, expires_at=end, at=now(), by=maker)
            return self._mine.change(id, payload, version, vector)

    @override
    def delete(self, id: str, *, by: Mapping[str, Any] | None = None) -> None:
        maker = checked_metadata(by)
        with self._connection.exclusive():
            payload = self._mine.find(id)
            version = dataclasses.replace(versions_of(payload)[-1], change="delete", live=False, at=now(), by=maker)
            self._mine.change(id, payload, version)

    @override
    def history(self, id: str) -> list[Version]:
        return versions_of(self._mine.find(id, removed=True))

    @override
    def removed(self) -> list[Memory]:
        return self._listed(self._mine.under(deleted()))

    @override
    def entries(self) -> Iterator[Entry]:
        points, mine = self._points(), self._mine.under()
        order = {id_text(one): payload["seq"] for one, payload in points.scroll(mine, ["seq"])}
        for batch in in_chunks(sorted(order, key=order.__getitem__), CHUNK):  # contents are read as they are asked for
            for one, payload in sorted(points.fetch(batch, mine), key=lambda record: order[id_text(record[0])]):
                yield entry_of(id_text(one), payload)

    @override
    def users(self) -> list[str]:
        return sorted({payload["user_id"] for _, payload in self._points().scroll(Condition(), ["user_id"])})

    @override
    def undo(self, id: str, *, changes: int = 1, by: Mapping[str, Any] | None = None) -> Memory | None:
        maker = checked_metadata(by)
        former = state_before(self.history(id), changes)
        vector = self._embed(former.content)
        with self._connection.exclusive():
            payload = self._mine.find(id, removed=True)
            before = state_before(versions_of(payload), changes)
            if before.content != former.content:
                raise MemoryStoreError(f"The memory {id!r} was changed meanwhile: nothing was undone, try again.")
            version = dataclasses.replace(before, change="undo", at=now(), by=maker)
            memory = self._mine.change(id, payload, version, vector)
            return memory if version.live else None

    @override
    def purge(self, id: str) -> None:
        with self._connection.exclusive():
            self._mine.find(id, removed=True)
            self._mine.remove(self._mine.under(HasId((id,))))

    @override
    def purge_expired(self) -> int:
        return self._mine.remove(self._mine.under(expired()))

    @override
    def forget_user(self) -> int:
        return self._mine.remove(self._mine.under())

    @override
    def get(self, id: str) -> Memory:
        return memory_of(id, self._mine.find(id))

    @override
    def search(
        self,
        query: str,
        top_k: int = 3,
        where: Where | None = None,
        *,
        when: Mapping[str, Range] | None = None,
        mode: SearchMode = "hybrid",
        as_of: Moment | None = None,
        reranking: Reranking | None = None,
    ) -> list[Memory]:
        checked_text(query, "query")
        limit, way = checked_top_k(top_k), checked_mode(mode)
        asked = (*matching(checked_where(where)), *within(checked_when(when)))
        moment, order = checked_moment(as_of, "as_of"), reranking or self._reranking
        depth, condition = order.depth(limit), entries_of(self._scope, *asked)
        points, vector = self._points(), self._embed(query)
        if moment is None:
            found = best_memories(points, query, vector, condition, depth, way, self._shortcut)
        else:
            with self._connection.exclusive():  # vectors are those of the contents that are read
                now = points.scroll(self._mine.under())
                then = records_at(now, live(condition, moment), moment)
                cosines = stored_cosines(points, vector, now, then)
            found = best_memories_then(self._embedder, query, vector, then, cosines, depth, way)
        best = order.best(self._embedder, query, found, limit, way)
        if self._connection.retrieved is not None:
            self._connection.retrieved.note(memory.id for memory in best)
        return best

    @override
    def retrieved(self) -> frozenset[str] | None:
        noted = self._open_connection().retrieved
        if noted is None:
            return None
        mine = self._points().scroll(self._mine.under(), ["seq"])
        return noted.ids().intersection(id_text(one) for one, _ in mine)

    @override
    def all(self, *, as_of: Moment | None = None) -> list[Memory]:
        moment = checked_moment(as_of, "as_of")
        condition = live_entries_of(self._scope, at=moment)
        if moment is None:
            return self._listed(condition)
        then = records_at(self._points().scroll(self._mine.under()), condition, moment)
        return [memory_of(id_text(one), payload) for one, payload in then]

    @override
    def count(self) -> int:
        return self._points().count(live_entries_of(self._scope))

    @override
    def scoped(self, user_id: str, *, agent_id: str | None = None, session_id: str | None = None) -> QdrantMemory:
        scope = self._scope.of_user(user_id, agent_id, session_id)
        return QdrantMemory(
            self._where,
            scope=scope,
            embedder=self._embedder,
            reranking=self._reranking,
            connection=self._open_connection().acquire(),
        )

    @override
    def close(self) -> None:
        self._finalizer()

    @override
    async def awaited(self, call: Callable[[], _T]) -> _T:
        return await (beside_loop(call) if self._connection.is_server else super().awaited(call))

    def __repr__(self) -> str:
        return f"QdrantMemory({str(self._where)!r}, {self._scope!r}, embedder={self._embedder.name!r})"

    def _open_connection(self) -> Connection:
        if not self._finalizer.alive:
            raise MemoryStoreError(f"The memory store {self._where} is closed: call LongTermMemory.open again.")
        return self._connection

    def _points(self) -> PointStore:
        return self._open_connection().points

    @property
    def _mine(self) -> ScopedPoints:
        return ScopedPoints(self._open_connection(), self._scope, self._embedder)

    def _listed(self, condition: Condition) -> list[Memory]:
        return [memory_of(id_text(one), payload) for one, payload in self._mine.records(condition)]

    def _embed(self, text: str) -> list[float]:
        vector: list[float] = embed_checked(self._embedder, [text])[0].tolist()
        return vector

    def _refuse_other_model(self) -> None:
        """On a server, refuse to hide memories of another model."""
        points = self._points()
        other = points.elsewhere(self._mine.under()) if points.is_server and not self.count() else None
        if other is not None:
            raise EmbedderMismatch(
                f"The memories of {self.user_id!r} at {self._where} are in the collection {other!r}, of another "
                f"embedding model or version, but this embedder is {self._embedder.name!r} "
                f"({self._embedder.dimension} dimensions). Open them with the former one, or export them with it, "
                "purge them, and import them with this one."
            )
