"""Quarantine: how an entry that a guard set aside is kept in any store, and known again.

It is an entry out of sight whose last change says which guard did it and why, so a store needs nothing new, an export
carries it, and releasing it is undoing that change.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agemem_dspy.memory.guards.verdict import Judgement
from agemem_dspy.types import Memory, Provenance, Version

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


def now() -> str:
    """Return the time, as versions have it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
