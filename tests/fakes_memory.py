"""A second `LongTermMemory`: a dictionary and a dot product, small enough to be seen to be right."""

from __future__ import annotations

import dataclasses
import datetime
import operator
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory.additions import duplicate, first_versions, refuse_repeated
from agemem_dspy.memory.cached_embedder import forget_texts
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
    not_found,
    taken,
)
from agemem_dspy.memory.embedder import embed_checked, similarity
from agemem_dspy.memory.filters import AnyOf, Range, Where, checked_when, checked_where
from agemem_dspy.memory.lexical import ranking_weights, shared
from agemem_dspy.memory.long_term import LongTermMemory, state_before
from agemem_dspy.memory.reranking import Reranking
from agemem_dspy.memory.scope import Scope
from agemem_dspy.types import Embedder, Entry, Memory, NewMemory, Provenance, Version

Entries = dict[str, tuple[Memory, list[Version]]]


class InMemoryStore(LongTermMemory):
    """Entries in insertion order, one dictionary a user."""

    def __init__(
        self,
        embedder: Embedder,
        user_id: str = "default",
        users: dict[str, Entries] | None = None,
        lock: threading.RLock | None = None,
        *,
        agent_id: str | None = None,
        session_id: str | None = None,
    ) -> None:
        self._scope = Scope(user_id=user_id, agent_id=agent_id, session_id=session_id)
        self._embedder = embedder
        self._users = {} if users is None else users
        self._lock = lock or threading.RLock()
        self._closed = False

    @property
    def scope(self) -> Scope:
        return self._scope

    @property
    def embedder(self) -> Embedder:
        return self._embedder

    def add_many(self, entries: Sequence[NewMemory], *, unique: bool = False) -> list[Memory]:
        new = [(_first(self._scope, version, kind), version) for version, kind in first_versions(entries, _now())]
        if unique:
            refuse_repeated([memory.content for memory, _ in new])
        embed_checked(self._embedder, [memory.content for memory, _ in new])
        with self._lock:
            there = {memory.content: memory.id for memory in reversed(self.all())} if unique else {}
            for memory, _ in new:
                if (known := there.get(memory.content)) is not None:
                    raise duplicate(memory.content, f"is there already, as {known}", known)
            return [self._append(memory, [], first) for memory, first in new]

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
        memory = Memory(
            id=id,
            content=kept[-1].content,
            memory_type=checked_text(memory_type, "memory_type"),
            created_at=kept[0].at,
            agent_id=owner.agent_id,
            session_id=owner.session_id,
        )
        embed_checked(self._embedder, [memory.content])
        with self._lock:
            self._entries()
            if any(id in entries for entries in self._users.values()):
                raise taken(id)
            new = self._append(memory, kept[:-1], kept[-1])
        return new if kept[-1].live else None

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
        until = expires_at if expires_at == "keep" else checked_moment(expires_at)
        with self._lock:
            old = self.get(id)
            embed_checked(self._embedder, [content])
            merged = {**old.metadata, **changes}
            end = old.expires_at if until == "keep" else until
            version = Version(change="update", content=content, metadata=merged, expires_at=end, at=_now(), by=maker)
            return self._append(old, self.history(id), version)

    def delete(self, id: str, *, by: Mapping[str, Any] | None = None) -> None:
        maker = checked_metadata(by)
        with self._lock:
            old, versions = self.get(id), self.history(id)
            last = dataclasses.replace(versions[-1], change="delete", live=False, at=_now(), by=maker)
            self._append(old, versions, last)

    def history(self, id: str) -> list[Version]:
        return list(self._find(id)[1])

    def removed(self) -> list[Memory]:
        return [_copy(memory) for memory, versions in self._entries().values() if not versions[-1].live]

    def entries(self) -> Iterator[Entry]:
        for id, (memory, versions) in list(self._entries().items()):
            yield Entry(
                id=id,
                versions=tuple(versions),
                memory_type=memory.memory_type,
                agent_id=memory.agent_id,
                session_id=memory.session_id,
            )

    def users(self) -> list[str]:
        self._entries()
        return sorted(user for user, entries in self._users.items() if entries)

    def purge_expired(self) -> int:
        with self._lock:
            return self._remove([id for id, (memory, _) in self._entries().items() if _expired(memory)])

    def undo(self, id: str, *, changes: int = 1, by: Mapping[str, Any] | None = None) -> Memory | None:
        maker = checked_metadata(by)
        with self._lock:
            memory, versions = self._find(id)
            version = dataclasses.replace(state_before(versions, changes), change="undo", at=_now(), by=maker)
            undone = self._append(memory, versions, version)
            return undone if version.live else None

    def purge(self, id: str) -> None:
        with self._lock:
            self._find(id)
            self._remove([id])

    def forget_user(self) -> int:
        with self._lock:
            return self._remove(list(self._entries()))

    def _remove(self, ids: list[str]) -> int:
        for id in ids:
            _, versions = self._of_user()[id]
            forget_texts(self._embedder, [version.content for version in versions])
            del self._of_user()[id]
        return len(ids)

    def _append(self, memory: Memory, versions: list[Version], last: Version) -> Memory:
        new = _as(memory, last)
        with self._lock:
            self._of_user()[memory.id] = (new, [*versions, last])
        return _copy(new)

    def _find(self, id: str) -> tuple[Memory, list[Version]]:
        with self._lock:
            found = self._entries().get(checked_id(id, self._scope))
        if found is None:
            raise not_found(id, self._scope)
        return found

    def get(self, id: str) -> Memory:
        memory, versions = self._find(id)
        if not versions[-1].live or _expired(memory):
            raise not_found(id, self._scope)
        return _copy(memory)

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
        limit, wanted, way, times = checked_top_k(top_k), checked_where(where), checked_mode(mode), checked_when(when)
        kept = [
            memory
            for memory in self.all(as_of=as_of)
            if all(_has(memory, key, value) for key, value in wanted.items())
            and all(_within(getattr(memory, key), span) for key, span in times.items())
        ]
        cosines = similarity(self._embedder, query, [memory.content for memory in kept]).tolist()
        by_cosine, by_share = ranking_weights(way)
        shares = [shared(query, memory.content) for memory in kept]
        found = [
            (by_cosine * cosine + by_share * share, dataclasses.replace(memory, score=cosine))
            for memory, cosine, share in zip(kept, cosines, shares, strict=True)
            if way != "lexical" or share > 0
        ]
        found.sort(key=lambda one: -round(one[0], 6))  # stable: equals stay oldest first
        order = reranking or self.reranking
        best = [memory for _, memory in found[: order.depth(limit)]]
        return order.best(self._embedder, query, best, limit, way)

    def all(self, *, as_of: Moment | None = None) -> list[Memory]:
        moment = checked_moment(as_of, "as_of") or _now()
        then = []
        with self._lock:
            for memory, versions in self._entries().values():
                made = [version for version in versions if as_of is None or version.at <= moment]
                end = made[-1].expires_at if made else None
                if made and made[-1].live and (end is None or end > moment):
                    then.append(_copy(_as(memory, made[-1])))
        return then

    def count(self) -> int:
        return len(self.all())

    def scoped(self, user_id: str, *, agent_id: str | None = None, session_id: str | None = None) -> InMemoryStore:
        self._of_user()
        one = self._scope.of_user(user_id, agent_id, session_id)
        return InMemoryStore(
            self._embedder, one.user_id, self._users, self._lock, agent_id=one.agent_id, session_id=one.session_id
        )

    def close(self) -> None:
        self._closed = True

    def _entries(self) -> Entries:
        with self._lock:
            return {id: one for id, one in self._of_user().items() if self._sees(one[0])}

    def _of_user(self) -> Entries:
        if self._closed:
            raise MemoryStoreError("The memory store is closed.")
        return self._users.setdefault(self._scope.user_id, {})

    def _sees(self, memory: Memory) -> bool:
        named = {"agent_id": self._scope.agent_id, "session_id": self._scope.session_id}
        return all(name is None or getattr(memory, field) == name for field, name in named.items())


def _first(scope: Scope, version: Version, memory_type: str) -> Memory:
    return Memory(
        id=str(uuid.uuid4()),
        content=version.content,
        memory_type=memory_type,
        created_at=version.at,
        agent_id=scope.agent_id,
        session_id=scope.session_id,
    )


def _as(memory: Memory, version: Version) -> Memory:
    return dataclasses.replace(
        memory,
        content=version.content,
        metadata=version.metadata,
        updated_at=version.at,
        expires_at=version.expires_at,
        provenance=Provenance.of(version.by),
    )


def _expired(memory: Memory) -> bool:
    return memory.expires_at is not None and memory.expires_at <= _now()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def _copy(memory: Memory) -> Memory:
    return dataclasses.replace(memory, metadata=checked_metadata(memory.metadata))


def _has(memory: Memory, key: str, wanted: Any) -> bool:
    held = memory.metadata.get(key)
    return any(_fits(item, wanted) for item in (held if isinstance(held, list) else [held]))


def _fits(item: Any, wanted: Any) -> bool:
    if isinstance(wanted, AnyOf):
        return any(_fits(item, value) for value in wanted.values)
    if isinstance(wanted, Range):
        return isinstance(item, int | float) and not isinstance(item, bool) and _within(item, wanted)
    return item == wanted and isinstance(item, bool) == isinstance(wanted, bool)


def _within(value: Any, span: Range) -> bool:
    compare = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}
    return value is not None and all(compare[name](value, bound) for name, bound in span.bounds().items())
