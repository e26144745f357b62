"""Which entries a request is about: conditions on their payloads, in the words of no engine.

Every request carries one. Each engine translates the whole of this small language, case by case, in its own room.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agemem_dspy.memory.filters import AnyOf, Range, Scalar, Where

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
_LONG = 200  # characters of a label that is kept as it is


@dataclass(frozen=True, slots=True)
class HasId:
    """The entry has one of these ids."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Equals:
    """The field is this text, or a list that has it."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class NumberBetween:
    """The field is a number within the bounds, or a list that has one."""

    key: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True, slots=True)
class TimeBetween:
    """The field is a time within the bounds; all are ISO 8601."""

    key: str
    gt: str | None = None
    gte: str | None = None
    lt: str | None = None
    lte: str | None = None


@dataclass(frozen=True, slots=True)
class Either:
    """One of these holds, at least."""

    conditions: tuple[Part, ...]


Part = HasId | Equals | NumberBetween | TimeBetween | Either


@dataclass(frozen=True, slots=True)
class Condition:
    """All of `must` hold, and none of `must_not`."""

    must: tuple[Part, ...] = ()
    must_not: tuple[Part, ...] = ()

    def also(self, *parts: Part) -> Condition:
        """Return the condition that these hold too."""
        return replace(self, must=(*self.must, *parts))


def entries_of(user_id: str, *parts: Part) -> Condition:
    """Return the condition of a user's entries, in sight or not."""
    return Condition((*parts, Equals("user_id", user_id)))


def live_entries_of(user_id: str, *parts: Part) -> Condition:
    """Return the condition of a user's entries that are in sight."""
    return Condition((*parts, Equals("user_id", user_id), Equals("state", "live")), (expired(),))


def deleted() -> Equals:
    """Return the condition of entries that were deleted."""
    return Equals("state", "deleted")


def expired() -> TimeBetween:
    """Return the condition of entries whose time has passed by now."""
    return TimeBetween("expires_at", lte=datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"))


def within(when: Mapping[str, Range]) -> Iterable[Part]:
    """Yield what a checked `when` asks for."""
    for key, span in when.items():
        yield TimeBetween(key, **{bound: str(moment) for bound, moment in span.bounds().items()})


def matching(where: Where) -> Iterable[Part]:
    """Yield what a checked `where` asks for."""
    for key, wanted in where.items():
        if isinstance(wanted, Range):
            path = f"metadata.{key}" if _PLAIN_KEY.match(key) else f'metadata."{key}"'
            yield NumberBetween(path, **{bound: float(number) for bound, number in wanted.bounds().items()})
        elif isinstance(wanted, AnyOf):
            yield Either(tuple(Equals("labels", label(key, value)) for value in wanted.values))
        else:
            yield Equals("labels", label(key, wanted))


def labels_of(metadata: Mapping[str, Any]) -> list[str]:
    """Return what may be asked for of metadata by equality: a label for each scalar, and for each in a list."""
    found: list[str] = []
    for key, value in metadata.items():
        items = value if isinstance(value, list) else [value]
        found.extend(label(key, item) for item in items if isinstance(item, str | int | float))
    return found


def label(key: str, value: Scalar) -> str:
    """Return the text by which a key and a value are indexed, whatever its type; 1 and 1.0 have one, True another."""
    whole = isinstance(value, float) and value.is_integer()
    text = json.dumps([key, int(value) if whole else value], ensure_ascii=False)
    return text if len(text) <= _LONG else hashlib.sha256(text.encode()).hexdigest()
