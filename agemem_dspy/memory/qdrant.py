"""Long-term memory in Qdrant: in the process, in a folder, or on a server.

One collection per embedding model, named after it. Many users share it: `user_id` in the payload is
the tenant key, and every read, change and removal carries a filter on it, by-id ones too.
Search is exact in the process (about 13 microseconds an entry): from some ten thousand entries on, use a server.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from qdrant_client import models
from typing_extensions import override

from agemem_dspy.errors import EmbedderMismatch, MemoryStoreError
from agemem_dspy.memory.cached_embedder import forget_texts
from agemem_dspy.memory.checks import (
    Moment,
    Scalar,
    SearchMode,
    checked_id,
    checked_metadata,
    checked_mode,
    checked_moment,
    checked_text,
    checked_top_k,
    checked_versions,
    checked_where,
    not_found,
    taken,
)
from agemem_dspy.memory.connection import QdrantConnection, connect
from agemem_dspy.memory.embedder import embed_checked
from agemem_dspy.memory.lexical import query_vector, ranking_score, shared, text_vector
from agemem_dspy.memory.long_term import LongTermMemory, state_before
from agemem_dspy.memory.points import (
    MEANING,
    PREFIX,
    WORDS,
    collection_name,
    condition,
    cosine_of,
    create_collection,
    expired,
    memory_of,
    payload_of,
    sparse,
    versions_of,
)
from agemem_dspy.types import Embedder, Entry, Memory, Version

_PAGE = 1000
_LOOKED_AT = 50  # least entries of each ranking that a search sorts


class QdrantMemory(LongTermMemory):
    """A `LongTermMemory` on Qdrant; made by `LongTermMemory.open`."""

    def __init__(
        self,
        where: str | os.PathLike[str],
        *,
        user_id: str,
        embedder: Embedder,
        connection: QdrantConnection | None = None,
    ) -> None:
        """Open `where`, or join `connection`, for which the caller has called `acquire`.

        Raises:
            MemoryStoreError: as `LongTermMemory.open`.
        """
        if not isinstance(embedder, Embedder):
            raise MemoryStoreError(f"{embedder!r} is no embedder: it needs `name`, `dimension` and `embed(texts)`.")
        self._user_id = checked_text(user_id, "user_id")
        self._embedder = embedder
        self._where = where
        self._collection = collection_name(embedder)
        self._connection = connection or connect(where, embedder)
        self._finalizer = weakref.finalize(self, self._connection.release)
        try:
            self._prepare(joined=connection is not None)
        except BaseException:
            self.close()
            raise

    @property
    @override
    def user_id(self) -> str:
        return self._user_id

    @property
    @override
    def embedder(self) -> Embedder:
        return self._embedder

    @override
    def add(
        self,
        content: str,
        metadata: Mapping[str, Any] | None = None,
        memory_type: str = "general",
        *,
        expires_at: Moment | None = None,
        by: Mapping[str, Any] | None = None,
    ) -> Memory:
        version = Version(
            change="add",
            content=checked_text(content, "content"),
            metadata=checked_metadata(metadata),
            expires_at=checked_moment(expires_at),
            at=_now(),
            by=checked_metadata(by),
        )
        kind = checked_text(memory_type, "memory_type")
        memory_id, vector = str(uuid.uuid4()), self._embed(content)
        first = {"memory_type": kind, "created_at": version.at, "seq": self._open_connection().tick()}
        return self._write(memory_id, first, [version], vector, new=True)

    @override
    def insert(self, id: str, versions: Sequence[Version], memory_type: str = "general") -> Memory | None:
        checked_id(id, self._user_id)
        kept = checked_versions(versions)
        kind = checked_text(memory_type, "memory_type")
        vector = self._embed(kept[-1].content)
        first = {"memory_type": kind, "created_at": kept[0].at}
        with self._open_connection().exclusive():
            known = self._connection.call(lambda client: client.retrieve(self._collection, [id], with_payload=False))
            if known:
                raise taken(id)
            memory = self._write(id, {**first, "seq": self._connection.tick()}, kept, vector, new=True)
            if self._connection.is_server:  # where another process may have been quicker
                records, _ = self._scroll(self._filter(id, removed=None))
                if not records or versions_of(records[0].payload or {}) != kept:
                    raise taken(id)
        return memory if kept[-1].live else None

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
        self._find(id)  # an unknown id should not cost an embedding
        vector = self._embed(content)
        with self._open_connection().exclusive():
            payload = self._find(id)
            merged = {**payload["metadata"], **changes}
            end: str | None = payload.get("expires_at") if expires_at == "keep" else until
            version = Version(change="update", content=content, metadata=merged, expires_at=end, at=_now(), by=maker)
            return self._write(id, payload, [*versions_of(payload), version], vector)

    @override
    def delete(self, id: str, *, by: Mapping[str, Any] | None = None) -> None:
        maker = checked_metadata(by)
        with self._open_connection().exclusive():
            payload = self._find(id)
            version = dataclasses.replace(versions_of(payload)[-1], change="delete", live=False, at=_now(), by=maker)
            self._write(id, payload, [*versions_of(payload), version])

    @override
    def history(self, id: str) -> list[Version]:
        return versions_of(self._find(id, removed=True))

    @override
    def removed(self) -> list[Memory]:
        return self._listed(self._filter(removed=True))

    @override
    def entries(self) -> Iterator[Entry]:
        for record in self._records(self._filter(removed=None)):
            payload = record.payload or {}
            yield Entry(id=str(record.id), versions=tuple(versions_of(payload)), memory_type=payload["memory_type"])

    @override
    def users(self) -> list[str]:
        return sorted({(record.payload or {})["user_id"] for record in self._records(None)})

    @override
    def undo(self, id: str, *, changes: int = 1, by: Mapping[str, Any] | None = None) -> Memory | None:
        maker = checked_metadata(by)
        former = state_before(self.history(id), changes)
        vector = self._embed(former.content)
        with self._open_connection().exclusive():
            payload = self._find(id, removed=True)
            versions = versions_of(payload)
            if state_before(versions, changes).content != former.content:
                raise MemoryStoreError(f"The memory {id!r} was changed meanwhile: nothing was undone, try again.")
            version = dataclasses.replace(state_before(versions, changes), change="undo", at=_now(), by=maker)
            memory = self._write(id, payload, [*versions, version], vector)
            return memory if version.live else None

    @override
    def purge(self, id: str) -> None:
        with self._open_connection().exclusive():
            self._find(id, removed=True)
            self._remove(self._filter(id, removed=None))

    @override
    def purge_expired(self) -> int:
        condition = self._filter(removed=None)
        condition.must = [*(condition.must or []), expired()]
        return self._remove(condition)

    @override
    def forget_user(self) -> int:
        return self._remove(self._filter(removed=None))

    @override
    def get(self, id: str) -> Memory:
        return memory_of(id, self._find(id))

    @override
    def search(
        self,
        query: str,
        top_k: int = 3,
        where: Mapping[str, Scalar] | None = None,
        *,
        mode: SearchMode = "hybrid",
    ) -> list[Memory]:
        checked_text(query, "query")
        limit, checked = checked_top_k(top_k), checked_mode(mode)
        condition = self._filter(where=checked_where(where))
        connection = self._open_connection()
        vector = self._embed(query)
        looked_at = max(_LOOKED_AT, 4 * limit)
        asked: dict[str, Any] = {MEANING: vector, WORDS: sparse(query_vector(query))}
        ways = {"hybrid": (MEANING, WORDS), "dense": (MEANING,), "lexical": (WORDS,)}[checked]
        requests = [
            models.QueryRequest(
                query=asked[way],
                using=way,
                filter=condition,
                limit=looked_at,
                with_payload=True,
                with_vector=[MEANING] if way == WORDS else False,
            )
            for way in ways
        ]
        answers = connection.call(lambda client: client.query_batch_points(self._collection, requests))
        found: dict[str, tuple[float, Memory, int]] = {}
        for way, answer in zip(ways, answers, strict=True):
            for point in answer.points:
                payload = point.payload or {}
                cosine = point.score if way == MEANING else cosine_of(vector, point.vector)
                share = shared(query, payload["content"]) if way == MEANING else point.score
                memory = memory_of(str(point.id), payload, min(1.0, max(-1.0, cosine)))
                found.setdefault(memory.id, (ranking_score(cosine, share, checked), memory, payload["seq"]))
        best = sorted(found.values(), key=lambda one: (-round(one[0], 6), one[2]))
        return [memory for _, memory, _ in best[:limit]]

    @override
    def all(self) -> list[Memory]:
        return self._listed(self._filter())

    @override
    def count(self) -> int:
        return self._count(self._filter())

    @override
    def scoped(self, user_id: str) -> QdrantMemory:
        checked_text(user_id, "user_id")
        return QdrantMemory(
            self._where, user_id=user_id, embedder=self._embedder, connection=self._open_connection().acquire()
        )

    @override
    def close(self) -> None:
        self._finalizer()

    def __repr__(self) -> str:
        return f"QdrantMemory({str(self._where)!r}, user_id={self._user_id!r}, embedder={self._embedder.name!r})"

    def _open_connection(self) -> QdrantConnection:
        if not self._finalizer.alive:
            raise MemoryStoreError(f"The memory store {self._where} is closed: call LongTermMemory.open again.")
        return self._connection

    def _embed(self, text: str) -> list[float]:
        vector: list[float] = embed_checked(self._embedder, [text])[0].tolist()
        return vector

    def _prepare(self, *, joined: bool) -> None:
        """Make the collection on first use; on a server, refuse to hide memories of another model."""
        connection = self._connection
        if not joined:
            with connection.exclusive():
                if not connection.call(lambda client: client.collection_exists(self._collection)):
                    size, server = self._embedder.dimension, connection.is_server
                    connection.call(lambda client: create_collection(client, self._collection, size, server=server))
                elif not connection.is_server:
                    connection.not_before(self._latest())
        if connection.is_server:
            self._refuse_other_model()

    def _latest(self) -> int:
        """Return the greatest sequence number of the folder, all users, since its order is one."""
        latest, offset = 0, None
        while True:
            page, offset = self._connection.call(
                lambda client, start=offset: client.scroll(  # type: ignore[misc]
                    self._collection, limit=_PAGE, offset=start, with_payload=["seq"]
                )
            )
            latest = max([latest, *(int((record.payload or {}).get("seq", 0)) for record in page)])
            if offset is None:
                return latest

    def _refuse_other_model(self) -> None:
        if self.count():
            return
        condition = self._filter()
        for found in self._connection.call(lambda client: client.get_collections().collections):
            name = found.name
            if not name.startswith(PREFIX) or name == self._collection:
                continue
            if self._connection.call(lambda client, other=name: client.count(other, count_filter=condition).count):  # type: ignore[misc]
                raise EmbedderMismatch(
                    f"The memories of {self._user_id!r} at {self._where} are in the collection {name!r}, of another "
                    f"embedding model or version, but this embedder is {self._embedder.name!r} "
                    f"({self._embedder.dimension} dimensions). Open them with the former one, or export them with it, "
                    "purge them, and import them with this one."
                )

    def _filter(self, memory_id: str | None = None, **asked: Any) -> models.Filter:
        """Return the condition that every call carries: this user, and what else is asked for; see `points`."""
        return condition(self._user_id, memory_id, **asked)

    def _scroll(self, condition: models.Filter | None, offset: Any = None) -> tuple[list[models.Record], Any]:
        return self._connection.call(
            lambda client: client.scroll(
                self._collection, scroll_filter=condition, limit=_PAGE, offset=offset, with_payload=True
            )
        )

    def _records(self, condition: models.Filter | None) -> list[models.Record]:
        """Return the points under a condition, oldest first."""
        records: list[models.Record] = []
        offset: Any = None
        with self._open_connection().exclusive():
            while True:
                page, offset = self._scroll(condition, offset)
                records.extend(page)
                if offset is None:
                    break
        return sorted(records, key=lambda record: (record.payload or {}).get("seq", 0))

    def _listed(self, condition: models.Filter) -> list[Memory]:
        return [memory_of(str(record.id), record.payload or {}) for record in self._records(condition)]

    def _count(self, condition: models.Filter) -> int:
        return self._open_connection().call(
            lambda client: client.count(self._collection, count_filter=condition, exact=True).count
        )

    def _find(self, memory_id: str, *, removed: bool = False) -> dict[str, Any]:
        """Return the payload of an entry in sight, or of any with `removed`."""
        self._open_connection()
        condition = self._filter(checked_id(memory_id, self._user_id), removed=None if removed else False)
        records, _ = self._scroll(condition)
        if not records:
            raise not_found(memory_id, self._user_id)
        return dict(records[0].payload or {})

    def _remove(self, condition: models.Filter) -> int:
        """Remove entries for good, and their texts from the embedder's caches; return how many."""
        selector = models.FilterSelector(filter=condition)
        with self._open_connection().exclusive():
            gone = [versions_of(record.payload or {}) for record in self._records(condition)]
            # First the caches, which can be filled again: if they fail, nothing was removed.
            forget_texts(self._embedder, [version.content for versions in gone for version in versions])
            self._connection.call(lambda client: client.delete(self._collection, selector, wait=True))
        return len(gone)

    def _write(
        self,
        memory_id: str,
        kept: Mapping[str, Any],
        versions: Sequence[Version],
        vector: list[float] | None = None,
        *,
        new: bool = False,
    ) -> Memory:
        """Write an entry as its last version says, in one operation, and return it.

        Args:
            kept: a payload with what no change touches: memory_type, created_at, seq.
            versions: all of them, oldest first.
            vector: of the content; None where the content stays as it was.
            new: nothing may have the id yet.
        """
        now = versions[-1]
        payload = payload_of(self._user_id, kept, versions)
        # What another process changed or purged meanwhile must not be written over, nor come back.
        seen = None if new else versions[-2].at
        unchanged = self._filter(memory_id, removed=None, updated_at=seen)
        if vector is None:
            self._connection.call(
                lambda client: client.overwrite_payload(self._collection, payload, points=unchanged, wait=True)
            )
        else:
            both: Any = {MEANING: vector, WORDS: sparse(text_vector(now.content))}
            point = models.PointStruct(id=memory_id, vector=both, payload=payload)
            guard: dict[str, Any] = {"update_mode": models.UpdateMode.INSERT_ONLY}
            if not new:
                guard = {"update_filter": unchanged, "update_mode": models.UpdateMode.UPDATE_ONLY}
            self._connection.call(lambda client: client.upsert(self._collection, [point], wait=True, **guard))
        if self._connection.is_server and not new:  # it does not say whether it wrote
            stored = versions_of(self._find(memory_id, removed=True))
            if all((one.at, one.change, one.content) != (now.at, now.change, now.content) for one in stored):
                raise MemoryStoreError(f"The memory {memory_id!r} was changed by another process meanwhile: try again.")
        return memory_of(memory_id, payload)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
