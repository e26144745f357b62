"""Long-term memory in Qdrant: in the process, in a folder, or on a server.

One collection per embedding model, named after it. Many users share it: `user_id` in the payload is
the tenant key, and every read, change and removal carries a filter on it, by-id ones too.
Search is exact in the process (about 13 microseconds an entry): from some ten thousand entries on, use a server.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import uuid
import weakref
from collections.abc import Mapping
from typing import Any

from qdrant_client import models
from typing_extensions import override

from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory.connection import QdrantConnection, connect, mismatch
from agemem_dspy.memory.embedder import embed_checked
from agemem_dspy.memory.long_term import (
    LongTermMemory,
    Scalar,
    checked_id,
    checked_metadata,
    checked_text,
    checked_top_k,
    checked_where,
    not_found,
)
from agemem_dspy.types import Embedder, Memory

_PREFIX = "agemem-"
_PAGE = 1000
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


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
    def add(self, content: str, metadata: Mapping[str, Any] | None = None, memory_type: str = "general") -> Memory:
        now = _now()
        memory = Memory(
            id=str(uuid.uuid4()),
            content=checked_text(content, "content"),
            metadata=checked_metadata(metadata),
            memory_type=checked_text(memory_type, "memory_type"),
            created_at=now,
            updated_at=now,
        )
        vector = self._embed(content)
        self._write(memory, vector, self._open_connection().tick())
        return memory

    @override
    def update(self, id: str, content: str, metadata: Mapping[str, Any] | None = None) -> Memory:
        checked_text(content, "content")
        changes = checked_metadata(metadata)
        self._find(id)  # an unknown id should not cost an embedding
        vector = self._embed(content)
        with self._open_connection().exclusive():
            payload = self._find(id)
            old = _memory(id, payload)
            memory = Memory(
                id=id,
                content=content,
                metadata={**old.metadata, **changes},
                memory_type=old.memory_type,
                created_at=old.created_at,
                updated_at=_now(),
            )
            self._write(memory, vector, payload["seq"], replace=True)
        return memory

    @override
    def delete(self, id: str) -> None:
        with self._open_connection().exclusive():
            self._find(id)
            selector = models.FilterSelector(filter=self._filter(id))
            self._connection.call(lambda client: client.delete(self._collection, selector, wait=True))

    @override
    def get(self, id: str) -> Memory:
        return _memory(id, self._find(id))

    @override
    def search(self, query: str, top_k: int = 3, where: Mapping[str, Scalar] | None = None) -> list[Memory]:
        checked_text(query, "query")
        limit = checked_top_k(top_k)
        condition = self._filter(where=checked_where(where))
        connection = self._open_connection()
        vector = self._embed(query)
        found = connection.call(
            lambda client: client.query_points(
                self._collection, query=vector, query_filter=condition, limit=limit, with_payload=True
            )
        )
        points = sorted(found.points, key=lambda point: (-round(point.score, 6), (point.payload or {}).get("seq", 0)))
        return [_memory(str(point.id), point.payload or {}, min(1.0, max(-1.0, point.score))) for point in points]

    @override
    def all(self) -> list[Memory]:
        records: list[models.Record] = []
        offset: Any = None
        with self._open_connection().exclusive():
            while True:
                page, offset = self._scroll(self._filter(), offset)
                records.extend(page)
                if offset is None:
                    break
        records.sort(key=lambda record: (record.payload or {}).get("seq", 0))
        return [_memory(str(record.id), record.payload or {}) for record in records]

    @override
    def count(self) -> int:
        condition = self._filter()
        return self._open_connection().call(
            lambda client: client.count(self._collection, count_filter=condition, exact=True).count
        )

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
                    connection.call(self._create)
                elif not connection.is_server:
                    connection.not_before(self._latest())
        if connection.is_server:
            self._refuse_other_model()

    def _create(self, client: Any) -> None:
        vectors = models.VectorParams(size=self._embedder.dimension, distance=models.Distance.COSINE)
        try:
            client.create_collection(self._collection, vectors_config=vectors)
        except Exception:
            if not client.collection_exists(self._collection):  # else another process was quicker: good
                raise
        if self._connection.is_server:
            tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
            client.create_payload_index(self._collection, "user_id", field_schema=tenant, wait=True)

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
            if not name.startswith(_PREFIX) or name == self._collection:
                continue
            if self._connection.call(lambda client, other=name: client.count(other, count_filter=condition).count):  # type: ignore[misc]
                raise mismatch(str(self._where), f"of the collection {name!r}", self._embedder)

    def _filter(self, memory_id: str | None = None, where: Mapping[str, Scalar] | None = None) -> models.Filter:
        """Return the condition that every call carries: this user, and what else is asked for."""
        conditions: list[Any] = [] if memory_id is None else [models.HasIdCondition(has_id=[memory_id])]
        conditions.append(models.FieldCondition(key="user_id", match=models.MatchValue(value=self._user_id)))
        conditions.extend(_equals(key, value) for key, value in (where or {}).items())
        return models.Filter(must=conditions)

    def _scroll(self, condition: models.Filter, offset: Any = None) -> tuple[list[models.Record], Any]:
        return self._connection.call(
            lambda client: client.scroll(
                self._collection, scroll_filter=condition, limit=_PAGE, offset=offset, with_payload=True
            )
        )

    def _find(self, memory_id: str) -> dict[str, Any]:
        self._open_connection()
        records, _ = self._scroll(self._filter(checked_id(memory_id, self._user_id)))
        if not records:
            raise not_found(memory_id, self._user_id)
        return dict(records[0].payload or {})

    def _write(self, memory: Memory, vector: list[float], seq: int, *, replace: bool = False) -> None:
        payload = {
            "user_id": self._user_id,
            "seq": seq,
            "content": memory.content,
            "metadata": memory.metadata,
            "memory_type": memory.memory_type,
            "created_at": memory.created_at,
            "updated_at": memory.updated_at,
        }
        point = models.PointStruct(id=memory.id, vector=vector, payload=payload)
        # An entry that another process removed meanwhile must not come back, nor another user's be hit.
        guard: dict[str, Any] = (
            {"update_filter": self._filter(), "update_mode": models.UpdateMode.UPDATE_ONLY} if replace else {}
        )
        self._connection.call(lambda client: client.upsert(self._collection, [point], wait=True, **guard))


def collection_name(embedder: Embedder) -> str:
    """Return the collection of an embedding model: readable, and unique by a hash of name and dimension."""
    slug = re.sub(r"[^a-z0-9]+", "-", embedder.name.lower()).strip("-")[:48]
    digest = hashlib.sha256(f"{embedder.name}\n{embedder.dimension}".encode()).hexdigest()[:8]
    return f"{_PREFIX}{slug}-{embedder.dimension}-{digest}"


def _equals(key: str, value: Scalar) -> models.FieldCondition:
    path = f"metadata.{key}" if _PLAIN_KEY.match(key) else f'metadata."{key}"'
    if isinstance(value, bool | str) or (isinstance(value, int) and abs(value) > 2**53):  # a range would round it
        return models.FieldCondition(key=path, match=models.MatchValue(value=value))
    return models.FieldCondition(key=path, range=models.Range(gte=value, lte=value))  # 1 and 1.0 are equal


def _memory(memory_id: str, payload: Mapping[str, Any], score: float | None = None) -> Memory:
    return Memory(
        id=memory_id,
        content=payload["content"],
        metadata=dict(payload["metadata"]),
        memory_type=payload["memory_type"],
        created_at=payload["created_at"],
        updated_at=payload["updated_at"],
        score=score,
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
