"""What is about to be added: each entry as its first version, and none that is there already."""

from __future__ import annotations

from collections.abc import Sequence

from agemem_dspy.errors import MemoryDuplicate, MemoryStoreError
from agemem_dspy.memory.checks import checked_metadata, checked_moment, checked_text
from agemem_dspy.memory.conditions import Either, Equals, content_label, id_text, live_entries_of
from agemem_dspy.memory.point_store import CHUNK, PointStore
from agemem_dspy.memory.scope import Scope
from agemem_dspy.types import NewMemory, Version


def first_versions(entries: Sequence[NewMemory], at: str) -> list[tuple[Version, str]]:
    """Return the first version of each entry, and its type.

    Args:
        at: the time.

    Raises:
        MemoryStoreError: one cannot be stored; of several, the message tells which.
    """
    made: list[tuple[Version, str]] = []
    for number, entry in enumerate(entries, start=1):
        try:
            version = Version(
                change="add",
                content=checked_text(entry.content, "content"),
                metadata=checked_metadata(entry.metadata),
                expires_at=checked_moment(entry.expires_at),
                at=at,
                by=checked_metadata(entry.by),
            )
            made.append((version, checked_text(entry.memory_type, "memory_type")))
        except MemoryStoreError as error:
            if len(entries) == 1:
                raise
            raise MemoryStoreError(f"Entry {number} of {len(entries)}: {error} None was added.") from error
    return made


def refuse_repeated(contents: Sequence[str]) -> None:
    """Raise `MemoryDuplicate` if two contents are equal."""
    seen: set[str] = set()
    for content in contents:
        if content in seen:
            raise duplicate(content, "is given twice: give it once")
        seen.add(content)


def refuse_stored(points: PointStore, scope: Scope, contents: Sequence[str]) -> None:
    """Raise `MemoryDuplicate` if an entry of a scope that is in sight has one of these contents."""
    for start in range(0, len(contents), CHUNK):
        labels = tuple(Equals("labels", content_label(content)) for content in contents[start : start + CHUNK])
        found = points.scroll(live_entries_of(scope, Either(labels)))
        if found:
            one, payload = min(found, key=lambda record: record[1]["seq"])
            raise duplicate(payload["content"], f"is there already, as {id_text(one)}: update that one", id_text(one))


def duplicate(content: str, why: str, memory_id: str | None = None) -> MemoryDuplicate:
    """Return the error for a content that an entry has, or that is being added elsewhere."""
    shown = repr(content if len(content) <= 80 else f"{content[:79]}…")
    return MemoryDuplicate(f"The memory {shown} {why}. Nothing was added.", memory_id)
