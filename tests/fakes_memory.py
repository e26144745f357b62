"""A second `LongTermMemory`: a dictionary and a dot product, small enough to be seen to be right."""

from __future__ import annotations

import dataclasses
import datetime
import threading
import uuid
from collections.abc import Mapping
from typing import Any

from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory.embedder import embed_checked, similarity
from agemem_dspy.memory.long_term import (
    LongTermMemory,
    checked_id,
    checked_metadata,
    checked_text,
    checked_top_k,
    checked_where,
    not_found,
)
from agemem_dspy.types import Embedder, Memory


class InMemoryStore(LongTermMemory):
    """Entries in insertion order, one dictionary a user."""

    def __init__(
        self,
        embedder: Embedder,
        user_id: str = "default",
        users: dict[str, dict[str, Memory]] | None = None,
        lock: threading.RLock | None = None,
    ) -> None:
        self._user_id = checked_text(user_id, "user_id")
        self._embedder = embedder
        self._users = {} if users is None else users
        self._lock = lock or threading.RLock()
        self._closed = False

    @property
    def user_id(self) -> str:
        return self._user_id

    @property
    def embedder(self) -> Embedder:
        return self._embedder

    def add(self, content: str, metadata: Mapping[str, Any] | None = None, memory_type: str = "general") -> Memory:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        memory = Memory(
            id=str(uuid.uuid4()),
            content=checked_text(content, "content"),
            metadata=checked_metadata(metadata),
            memory_type=checked_text(memory_type, "memory_type"),
            created_at=now,
            updated_at=now,
        )
        embed_checked(self._embedder, [content])
        with self._lock:
            self._entries()[memory.id] = memory
        return _copy(memory)

    def update(self, id: str, content: str, metadata: Mapping[str, Any] | None = None) -> Memory:
        checked_text(content, "content")
        changes = checked_metadata(metadata)
        with self._lock:
            old = self.get(id)
            embed_checked(self._embedder, [content])
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
            new = dataclasses.replace(old, content=content, metadata={**old.metadata, **changes}, updated_at=now)
            self._entries()[id] = new
        return _copy(new)

    def delete(self, id: str) -> None:
        with self._lock:
            self.get(id)
            del self._entries()[id]

    def get(self, id: str) -> Memory:
        with self._lock:
            found = self._entries().get(checked_id(id, self._user_id))
        if found is None:
            raise not_found(id, self._user_id)
        return _copy(found)

    def search(self, query: str, top_k: int = 3, where: Mapping[str, Any] | None = None) -> list[Memory]:
        checked_text(query, "query")
        limit, wanted = checked_top_k(top_k), checked_where(where)
        kept = [memory for memory in self.all() if all(_has(memory, key, value) for key, value in wanted.items())]
        scores = similarity(self._embedder, query, [memory.content for memory in kept])
        scored = [dataclasses.replace(memory, score=float(score)) for memory, score in zip(kept, scores, strict=True)]
        return sorted(scored, key=lambda memory: -round(memory.score or 0.0, 6))[:limit]

    def all(self) -> list[Memory]:
        with self._lock:
            return [_copy(memory) for memory in self._entries().values()]

    def count(self) -> int:
        return len(self.all())

    def scoped(self, user_id: str) -> InMemoryStore:
        self._entries()
        return InMemoryStore(self._embedder, user_id, self._users, self._lock)

    def close(self) -> None:
        self._closed = True

    def _entries(self) -> dict[str, Memory]:
        if self._closed:
            raise MemoryStoreError("The memory store is closed.")
        return self._users.setdefault(self._user_id, {})


def _copy(memory: Memory) -> Memory:
    return dataclasses.replace(memory, metadata=checked_metadata(memory.metadata))


def _has(memory: Memory, key: str, value: Any) -> bool:
    held = memory.metadata.get(key)
    return any(
        item == value and isinstance(item, bool) == isinstance(value, bool)
        for item in (held if isinstance(held, list) else [held])
    )
