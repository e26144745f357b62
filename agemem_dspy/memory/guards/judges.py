"""The guards of a store: who is asked about what is written and what is read, and what they are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agemem_dspy.errors import MemoryRejected
from agemem_dspy.memory.checks import checked_metadata, checked_moment, checked_text
from agemem_dspy.memory.event_loop import off_loop
from agemem_dspy.memory.guards.limits import AddLog
from agemem_dspy.memory.guards.verdict import Guard, GuardContext, Judgement, Operation, judged
from agemem_dspy.types import Memory, NewMemory, Provenance


@dataclass(frozen=True, slots=True)
class Judges:
    """Guards before writing and before reading, and the log of what was added, which views share."""

    write: tuple[Guard, ...]
    read: tuple[Guard, ...]
    adds: AddLog

    def of_new(self, user_id: str, entry: NewMemory) -> Judgement:
        """Ask the write guards about an entry that is not stored yet.

        Raises:
            MemoryRejected: one refuses.
            MemoryStoreError: it cannot be stored.
        """
        self.adds.note(user_id)
        new = Memory(
            id="",
            content=checked_text(entry.content, "content"),
            metadata=checked_metadata(entry.metadata),
            memory_type=checked_text(entry.memory_type, "memory_type"),
            expires_at=checked_moment(entry.expires_at),
        )
        return self.of_written("add", user_id, new, checked_metadata(entry.by))

    def of_written(
        self,
        operation: Operation,
        user_id: str,
        memory: Memory,
        by: Mapping[str, Any],
        *,
        before: Memory | None = None,
        source: Provenance | None = None,
    ) -> Judgement:
        """Ask the write guards.

        Args:
            source: where the words come from, whatever `by` says of it.

        Raises:
            MemoryRejected: one refuses.
        """
        context = GuardContext(
            operation=operation,
            user_id=user_id,
            provenance=source or Provenance.of(by),
            by=by,
            before=before,
            added=lambda seconds: self.adds.count(user_id, seconds),
        )
        found = off_loop(judged, self.write, memory, context)
        if found.action == "reject":
            raise MemoryRejected(found.guard, found.reason)
        return found

    def of_read(self, user_id: str, memory: Memory, query: str) -> Judgement:
        """Ask the read guards."""
        context = GuardContext(
            operation="retrieve", user_id=user_id, provenance=memory.provenance, before=memory, query=query
        )
        return off_loop(judged, self.read, memory, context)
