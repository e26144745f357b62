"""Quarantine: how an entry that a guard set aside is kept in any store, and known again.

It is an entry out of sight whose last change says which guard did it and why, so a store needs nothing new, an export
carries it, and releasing it is undoing that change.
"""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from agemem_dspy.errors import MemoryNotFound, MemoryQuarantined, MemoryStoreError
from agemem_dspy.memory.checks import now
from agemem_dspy.memory.guards.verdict import Judgement
from agemem_dspy.types import Memory, Provenance, Version

if TYPE_CHECKING:
    from agemem_dspy.memory.long_term import LongTermMemory

QUARANTINE, RELEASED = "quarantine", "released"  # channels, as in `Provenance`


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """An entry that waits for a person: what it says, which guard set it aside and why.

    `updates` is the id of the entry that it would change; None where it would be, or was, one of its own.
    """

    memory: Memory
    guard: str
    reason: str
    updates: str | None = None


@dataclass(frozen=True, slots=True)
class Quarantine:
    """What is set aside in a store."""

    store: LongTermMemory

    def waiting(self) -> list[Quarantined]:
        """Return what waits for a person, oldest first."""
        aside = [memory for memory in self.store.removed() if memory.provenance.channel == QUARANTINE]
        return [quarantined(memory, self.store.history(memory.id)[-1].by) for memory in aside]

    def ids(self) -> frozenset[str]:
        """Return the ids of what waits."""
        return frozenset(one.memory.id for one in self.waiting())

    def hold(self, found: Judgement, *, updates: Memory | None = None) -> NoReturn:
        """Store what was judged out of sight, in one write, and tell.

        Args:
            updates: the entry that it would change, of whose agent and session it is then.

        Raises:
            MemoryQuarantined: always.
        """
        memory, id = found.memory, str(uuid.uuid4())
        version = Version(
            change="add",
            content=memory.content,
            metadata=memory.metadata,
            expires_at=memory.expires_at,
            at=now(),
            by=found.by,
        )
        hidden = set_aside(version, found, Provenance.of(found.by), updates=updates.id if updates else "")
        owner = {"agent_id": updates.agent_id, "session_id": updates.session_id} if updates else {}
        self.store.insert(id, [version, hidden], memory.memory_type, **owner)
        raise MemoryQuarantined(found.guard, found.reason, id)

    def release(self, id: str, by: Mapping[str, Any]) -> Memory:
        """Bring an entry back, as `GuardedMemory.release` says.

        Raises:
            MemoryNotFound: as for `history`.
            MemoryStoreError: it is not in quarantine.
        """
        history = self.store.history(id)
        if not is_set_aside(history[-1]):
            raise MemoryStoreError(f"The memory {id!r} is not in quarantine: there is nothing to release.")
        maker = {**by, **Provenance(role="user", channel=RELEASED, trust="trusted").by()}
        target, text = history[-1].by.get("updates"), history[-1]
        if target:
            with contextlib.suppress(MemoryNotFound):
                changed = self.store.update(target, text.content, text.metadata, expires_at=text.expires_at, by=maker)
                self.store.purge(id)
                return changed
        return self.store.restore(id, by=maker)


def marks(found: Judgement, source: Provenance, updates: str = "") -> dict[str, Any]:
    """Return the `by` of the change that sets an entry aside."""
    where = dataclasses.replace(source, channel=QUARANTINE).by()
    return {**where, "guard": found.guard, "reason": found.reason, "updates": updates}


def set_aside(version: Version, found: Judgement, source: Provenance, updates: str = "") -> Version:
    """Return the change by which a version goes out of sight."""
    return dataclasses.replace(version, change="delete", live=False, at=now(), by=marks(found, source, updates))


def is_set_aside(version: Version) -> bool:
    """Tell whether an entry with this last version is in quarantine."""
    return not version.live and version.by.get("channel") == QUARANTINE


def quarantined(memory: Memory, by: Mapping[str, Any]) -> Quarantined:
    """Return an entry that is in quarantine with what its last change says; a file may have said anything."""
    guard, reason, updates = (str(by.get(name) or "") for name in ("guard", "reason", "updates"))
    return Quarantined(
        memory=memory, guard=guard or "unknown", reason=reason or "no reason was given", updates=updates or None
    )


def vouched(history: Sequence[Version], content: str) -> bool:
    """Tell whether a person has released this text."""
    return any(one.by.get("channel") == RELEASED and one.content == content for one in history)
