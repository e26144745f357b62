"""The points of one scope: every one that is found, changed or removed here is under the scope's condition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory.cached_embedder import forget_texts
from agemem_dspy.memory.checks import checked_id, not_found
from agemem_dspy.memory.conditions import Condition, Equals, HasId, Part, entries_of, id_text, live_entries_of
from agemem_dspy.memory.connection import Connection
from agemem_dspy.memory.lexical import text_vector
from agemem_dspy.memory.point_store import Point, Record
from agemem_dspy.memory.points import memory_of, payload_of, scope_of, versions_of
from agemem_dspy.memory.scope import Scope
from agemem_dspy.types import Embedder, Memory, Version


@dataclass(frozen=True, slots=True)
class ScopedPoints:
    """The entries of a scope, through a connection that is open."""

    connection: Connection
    scope: Scope
    embedder: Embedder

    def under(self, *parts: Part) -> Condition:
        """Return the condition of this scope's entries, in sight or not."""
        return entries_of(self.scope, *parts)

    def records(self, condition: Condition) -> list[Record]:
        """Return the points under a condition, oldest first."""
        return sorted(self.connection.points.scroll(condition), key=lambda record: record[1]["seq"])

    def find(self, memory_id: str, *, removed: bool = False) -> Mapping[str, Any]:
        """Return the payload of an entry in sight, or of any with `removed`.

        Raises:
            MemoryNotFound: there is none.
        """
        points = self.connection.points
        condition = self.under() if removed else live_entries_of(self.scope)
        records = points.fetch([checked_id(memory_id, self.scope)], condition)
        if not records:
            raise not_found(memory_id, self.scope)
        return records[0][1]

    def change(
        self, memory_id: str, payload: Mapping[str, Any], version: Version, vector: list[float] | None = None
    ) -> Memory:
        """Add a version to an entry, in one write, and return the entry.

        Args:
            payload: of the entry as it was found.
            vector: of the content; None where the content stays as it was.

        Raises:
            MemoryStoreError: another process has changed it since.
        """
        points = self.connection.points
        new = payload_of(
            scope_of(payload), payload["memory_type"], payload["seq"], [*versions_of(payload), version],
        )  # fmt: skip
        # What another process changed or purged meanwhile must not be written over, nor come back.
        unchanged = self.under(HasId((memory_id,)), Equals("updated_at", payload["updated_at"]))
        if vector is None:
            points.overwrite(new, unchanged)
        else:
            points.replace(point_of(memory_id, new, vector), unchanged)
        if points.is_server:  # it does not say whether it wrote
            stored = versions_of(self.find(memory_id, removed=True))
            if all(
                (one.at, one.change, one.content) != (version.at, version.change, version.content) for one in stored
            ):
                raise MemoryStoreError(f"The memory {memory_id!r} was changed by another process meanwhile: try again.")
        return memory_of(memory_id, new)

    def remove(self, condition: Condition) -> int:
        """Remove entries for good, and their texts from the embedder's caches; return how many."""
        points = self.connection.points
        with self.connection.exclusive():
            gone = {id_text(one): versions_of(payload) for one, payload in points.scroll(condition)}
            # First the caches and the note, which can be filled again: if they fail, nothing was removed.
            forget_texts(self.embedder, [version.content for versions in gone.values() for version in versions])
            noted = self.connection.retrieved
            if noted is not None:
                noted.forget(gone)
            try:
                points.delete(condition)
            except BaseException:
                if noted is not None:
                    noted.expect(gone)
                raise
        return len(gone)


def point_of(memory_id: str, payload: Mapping[str, Any], vector: list[float]) -> Point:
    """Return an entry as it is stored; `vector` is that of its content, of length 1."""
    return Point(memory_id, payload, vector, text_vector(payload["content"]))
