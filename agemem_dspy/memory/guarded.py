"""GuardedMemory: a long-term memory behind guards, and its quarantine.

The guards stand before the store, not in the agent: the six tools, the command line, an import and library code all
reach the entries through the same methods, and whoever is handed a `GuardedMemory` has no other. A guard that the
agent held would be passed by everything that writes without an agent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from typing_extensions import override

from agemem_dspy.errors import MemoryNotFound, MemoryQuarantined, MemoryRejected, MemoryStoreError
from agemem_dspy.memory.checks import (
    MAX_TOP_K,
    Moment,
    SearchMode,
    checked_metadata,
    checked_moment,
    checked_text,
    checked_top_k,
    checked_versions,
)
from agemem_dspy.memory.filters import Range, Where
from agemem_dspy.memory.guards import Guard, read_guards, write_guards
from agemem_dspy.memory.guards.judges import Judges
from agemem_dspy.memory.guards.limits import AddLog
from agemem_dspy.memory.guards.verdict import Judgement
from agemem_dspy.memory.long_term import LongTermMemory, state_before
from agemem_dspy.memory.quarantine import Quarantine, Quarantined, is_set_aside, marks, set_aside, vouched
from agemem_dspy.memory.reranking import Reranking
from agemem_dspy.memory.scope import Scope
from agemem_dspy.types import Embedder, Entry, Memory, NewMemory, Provenance, Version

_T = TypeVar("_T")


class GuardedMemory(LongTermMemory):
    """Any store, behind guards: `GuardedMemory(LongTermMemory.open("memories/"))`.

    Write guards judge what `add`, `update` and `insert` would store and what `undo` and `restore` would bring back;
    what they reject is not stored and raises `MemoryRejected`. What they quarantine is stored out of sight and
    raises `MemoryQuarantined`; an update leaves the entry as it was meanwhile. Read guards judge what `search` has
    found: what they reject is not returned, what they quarantine is out of sight from then on, and the next best take
    its place. `all` and `get` are for the person whose memories these are, and not judged.

    Args:
        store: what is guarded; it is closed with this view.
        write: `guards.write_guards()` when left out.
        read: `guards.read_guards()` when left out.
        clock: seconds, for `RateLimit`.
        adds: how much was added, where views share it (see `scoped`).
    """

    def __init__(
        self,
        store: LongTermMemory,
        *,
        write: Iterable[Guard] | None = None,
        read: Iterable[Guard] | None = None,
        clock: Callable[[], float] = time.monotonic,
        adds: AddLog | None = None,
    ) -> None:
        self._store = store
        self._quarantine = Quarantine(store)
        self._clock = clock
        self._judges = Judges(
            write_guards() if write is None else tuple(write),
            read_guards() if read is None else tuple(read),
            adds or AddLog(clock),
        )

    @property
    @override
    def scope(self) -> Scope:
        return self._store.scope

    @property
    @override
    def embedder(self) -> Embedder:
        return self._store.embedder

    @property
    @override
    def reranking(self) -> Reranking:
        return self._store.reranking

    @override
    def add(
        self,
        content: str,
        metadata: Mapping[str, Any] | None = None,
        memory_type: str = "general",
        *,
        expires_at: Moment | None = None,
        by: Mapping[str, Any] | None = None,
        unique: bool = False,
    ) -> Memory:
        entry = NewMemory(content=content, metadata=metadata, memory_type=memory_type, expires_at=expires_at, by=by)
        found = self._judges.of_new(self.user_id, entry)
        if found.action == "quarantine":
            self._quarantine.hold(found)
        return self._store.add_many([_allowed(entry, found)], unique=unique)[0]

    @override
    def add_many(self, entries: Sequence[NewMemory], *, unique: bool = False) -> list[Memory]:
        """Store new entries, all of them or none; one that has to go into quarantine is refused here.

        Raises:
            MemoryDuplicate: with `unique`, as guards would have it stored, an entry's content is there already.
            MemoryRejected: a guard refused or would quarantine an entry, which `add` alone can do; none was added.
        """
        judgements: list[Judgement] = []
        for number, entry in enumerate(entries, 1):
            place = f"entry {number} of {len(entries)}; none was added"
            try:
                judgements.append(self._judges.of_new(self.user_id, entry))
            except MemoryRejected as error:
                raise MemoryRejected(error.guard, f"{error.reason} ({place})") from error
            except MemoryStoreError as error:
                raise MemoryStoreError(f"Entry {number} of {len(entries)}: {error} None was added.") from error
            if judgements[-1].action == "quarantine":
                raise MemoryRejected(judgements[-1].guard, f"{judgements[-1].reason} ({place})")
        allowed = [_allowed(entry, found) for entry, found in zip(entries, judgements, strict=True)]
        return self._store.add_many(allowed, unique=unique)

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
        before = self._store.get(id)
        until = before.expires_at if expires_at == "keep" else checked_moment(expires_at)
        new = dataclasses.replace(
            before, content=checked_text(content, "content"), metadata=checked_metadata(metadata), expires_at=until
        )
        found = self._judges.of_written("update", self.user_id, new, checked_metadata(by), before=before)
        if found.action == "quarantine":
            self._quarantine.hold(found, updates=before)
        return self._store.update(id, found.memory.content, found.memory.metadata, expires_at=expires_at, by=found.by)

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
        """Take an entry over; every version is judged, as coming from somewhere else, whatever it says of its maker.

        Raises:
            MemoryRejected: a version was refused; nothing was stored.
            MemoryQuarantined: a version was suspicious: the entry is stored with its history, out of sight.
        """
        kept: list[Version] = []
        worst: Judgement | None = None
        source = Provenance(channel="import")
        for version in checked_versions(versions):
            entry = Memory(id=id, content=version.content, metadata=version.metadata, memory_type=memory_type)
            found = self._judges.of_written("add", self.user_id, entry, version.by, source=source)
            worst = found if found.action == "quarantine" and worst is None else worst
            text = found.memory
            kept.append(dataclasses.replace(version, content=text.content, metadata=text.metadata, by=found.by))
        if worst is None or not kept[-1].live:
            return self._store.insert(id, kept, memory_type, agent_id=agent_id, session_id=session_id)
        kept.append(set_aside(kept[-1], worst, source))
        self._store.insert(id, kept, memory_type, agent_id=agent_id, session_id=session_id)
        raise MemoryQuarantined(worst.guard, worst.reason, id)

    @override
    def undo(self, id: str, *, changes: int = 1, by: Mapping[str, Any] | None = None) -> Memory | None:
        """Undo changes; what would come back into sight is judged as if it were written.

        Raises:
            MemoryRejected: a guard refuses it, or would set it aside.
            MemoryStoreError: it is in quarantine, or as for any store.
        """
        history = self._store.history(id)
        if is_set_aside(history[-1]):
            raise MemoryStoreError(f"The memory {id!r} is in quarantine: look at it and release it, or purge it.")
        former = state_before(history, changes)
        if former.live and not vouched(history, former.content):
            entry = Memory(id=id, content=former.content, metadata=former.metadata)
            found = self._judges.of_written("update", self.user_id, entry, former.by)
            if found.action != "allow" or found.memory != entry:
                reason = found.reason or "what would come back holds something that is not stored any more"
                raise MemoryRejected(found.guard or "the guards", reason)
        return self._store.undo(id, changes=changes, by=by)

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
        """Return what fits best and the guards let pass; only that is reranked.

        With `as_of`, what is in quarantine now is not found, and nothing is put there for what it was then.
        """
        limit, order = checked_top_k(top_k), reranking or self.reranking
        wanted = fetch = order.depth(limit)
        seen: dict[str, Memory | None] = {} if as_of is None else dict.fromkeys(self._quarantine.ids())
        while True:
            found = self._store.search(query, fetch, where, when=when, mode=mode, as_of=as_of, reranking=Reranking())
            for memory in found:
                if memory.id not in seen:
                    seen[memory.id] = self._shown(memory, query, past=as_of is not None)
            shown = [allowed for one in found if (allowed := seen[one.id]) is not None]
            if len(shown) >= wanted or len(found) < fetch or fetch == MAX_TOP_K:
                return order.best(self.embedder, query, shown[:wanted], limit, mode)
            fetch = min(2 * fetch, MAX_TOP_K)

    def quarantined(self) -> list[Quarantined]:
        """Return what waits for a person, oldest first."""
        return self._quarantine.waiting()

    def release(self, id: str, *, by: Mapping[str, Any] | None = None) -> Memory:
        """Bring an entry out of quarantine on a person's word: no guard is asked about this text again.

        An update that was set aside changes its entry now; where that is gone, it becomes an entry of its own.

        Raises:
            MemoryNotFound: as for `history`.
            MemoryStoreError: it is not in quarantine.
        """
        return self._quarantine.release(id, by or {})

    @override
    def scoped(self, user_id: str, *, agent_id: str | None = None, session_id: str | None = None) -> GuardedMemory:
        """Return another view, behind the same guards; the views count together what a user adds."""
        store = self._store.scoped(user_id, agent_id=agent_id, session_id=session_id)
        judges = self._judges
        return GuardedMemory(store, write=judges.write, read=judges.read, clock=self._clock, adds=judges.adds)

    @override
    def blank(self) -> GuardedMemory:
        judges = self._judges
        return GuardedMemory(self._store.blank(), write=judges.write, read=judges.read, clock=self._clock)

    @override
    def entries(self) -> Iterator[Entry]:
        return self._store.entries()

    @override
    def users(self) -> list[str]:
        return self._store.users()

    @override
    def delete(self, id: str, *, by: Mapping[str, Any] | None = None) -> None:
        self._store.delete(id, by=by)

    @override
    def history(self, id: str) -> list[Version]:
        return self._store.history(id)

    @override
    def removed(self) -> list[Memory]:
        return self._store.removed()

    @override
    def purge(self, id: str) -> None:
        self._store.purge(id)

    @override
    def purge_expired(self) -> int:
        return self._store.purge_expired()

    @override
    def forget_user(self) -> int:
        return self._store.forget_user()

    @override
    def get(self, id: str) -> Memory:
        return self._store.get(id)

    @override
    def all(self, *, as_of: Moment | None = None) -> list[Memory]:
        """Return every entry, oldest first; with `as_of`, none that is in quarantine now."""
        hidden = frozenset() if as_of is None else self._quarantine.ids()
        return [memory for memory in self._store.all(as_of=as_of) if memory.id not in hidden]

    @override
    def retrieved(self) -> frozenset[str] | None:
        return self._store.retrieved()

    @override
    def count(self) -> int:
        return self._store.count()

    @override
    def close(self) -> None:
        self._store.close()

    @override
    async def awaited(self, call: Callable[[], _T]) -> _T:
        return await self._store.awaited(call)

    def __repr__(self) -> str:
        return f"GuardedMemory({self._store!r})"

    def _shown(self, memory: Memory, query: str, *, past: bool) -> Memory | None:
        """Return a memory as the read guards let it be seen, None where they do not.

        Args:
            past: whether it is a former state, which says nothing about the entry as it is.
        """
        found = self._judges.of_read(self.user_id, memory, query)
        if found.action == "allow":
            return found.memory
        with contextlib.suppress(MemoryNotFound):  # another thread was quicker to delete or purge it
            if vouched(self._store.history(memory.id), memory.content):
                return memory
            if found.action == "quarantine" and not past:
                self._store.delete(memory.id, by=marks(found, memory.provenance))
        return None


def _allowed(entry: NewMemory, found: Judgement) -> NewMemory:
    """Return an entry as the guards let it be stored."""
    return dataclasses.replace(entry, content=found.memory.content, metadata=found.memory.metadata, by=found.by)
