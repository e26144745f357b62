"""Which entries a request is about: conditions on their payloads, in the words of no engine.

Every request carries one. Each engine translates the whole of this small language, case by case, in its own room.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from agemem_dspy.memory.checks import now
from agemem_dspy.memory.filters import AnyOf, Range, Scalar, Where
from agemem_dspy.memory.scope import Scope

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
_LONG = 200  # characters of a label that is kept as it is


PointId = str | int  # of an entry: its id, or the number that this UUID is, which is quicker to look up


@dataclass(frozen=True, slots=True)
class HasId:
    """The entry has one of these ids."""

    ids: tuple[PointId, ...]


@dataclass(frozen=True, slots=True)
class Equals:
    """The field is this text, or a list that has it."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class NumberBetween:
    """The metadata has a number within the bounds under the key, or a list that has one."""

    key: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None

    @property
    def path(self) -> str:
        """Return the way to the number in a payload, as engines write it."""
        return f"metadata.{self.key}" if _PLAIN_KEY.match(self.key) else f'metadata."{self.key}"'


@dataclass(frozen=True, slots=True)
class TimeBetween:
    """The field is a time within the bounds; all are ISO 8601, in UTC, with microseconds."""

    key: str
    gt: str | None = None
    gte: str | None = None
    lt: str | None = None
    lte: str | None = None


@dataclass(frozen=True, slots=True)
class Either:
    """One of these holds, at least."""

    conditions: tuple[Part, ...]


_LIVE = Equals("state", "live")
Part = HasId | Equals | NumberBetween | TimeBetween | Either


@dataclass(frozen=True, slots=True)
class Condition:
    """All of `must` hold, and none of `must_not`."""

    must: tuple[Part, ...] = ()
    must_not: tuple[Part, ...] = ()

    def also(self, *parts: Part) -> Condition:
        """Return the condition that these hold too."""
        return Condition((*parts, *self.must), self.must_not)

    def holds(self, point_id: PointId, payload: Mapping[str, Any]) -> bool:
        """Tell whether an entry meets it."""
        return all(_holds(part, point_id, payload) for part in self.must) and not any(
            _holds(part, point_id, payload) for part in self.must_not
        )


def _holds(part: Part, point_id: PointId, payload: Mapping[str, Any]) -> bool:
    if isinstance(part, Equals):
        held = payload.get(part.key)
        return part.value in held if isinstance(held, list) else held == part.value
    if isinstance(part, TimeBetween):
        held = payload.get(part.key)
        return held is not None and _between(held, part)  # such texts are in the order of their times
    if isinstance(part, HasId):
        return id_text(point_id) in map(id_text, part.ids)
    if isinstance(part, Either):
        return any(_holds(one, point_id, payload) for one in part.conditions)
    held = payload["metadata"].get(part.key)
    numbers = [one for one in (held if isinstance(held, list) else [held]) if isinstance(one, int | float)]
    return any(_between(float(one), part) for one in numbers if not isinstance(one, bool))


def _between(value: Any, span: Any) -> bool:
    return bool(
        (span.gt is None or value > span.gt)
        and (span.gte is None or value >= span.gte)
        and (span.lt is None or value < span.lt)
        and (span.lte is None or value <= span.lte)
    )


def id_text(point_id: PointId) -> str:
    """Return the id of an entry."""
    return point_id if isinstance(point_id, str) else str(uuid.UUID(int=point_id))


def entries_of(scope: Scope, *parts: Part) -> Condition:
    """Return the condition of a scope's entries, in sight or not."""
    return Condition((*parts, *_owned(scope)))


@lru_cache(maxsize=1024)
def _owned(scope: Scope) -> tuple[Equals, ...]:
    return Equals("user_id", scope.user_id), *(Equals("labels", one) for one in scope_labels(scope))


def live_entries_of(scope: Scope, *parts: Part, at: str | None = None) -> Condition:
    """Return the condition of a scope's entries that are in sight, now or at a time."""
    return live(entries_of(scope, *parts), at)


def live(condition: Condition, at: str | None = None) -> Condition:
    """Return the condition that an entry also is in sight, now or at a time."""
    return Condition((*condition.must, _LIVE), (*condition.must_not, expired(at)))


def is_live(payload: Mapping[str, Any], at: str) -> bool:
    """Tell whether an entry is in sight at a time."""
    return payload["state"] == "live" and (payload["expires_at"] is None or payload["expires_at"] > at)


def deleted() -> Equals:
    """Return the condition of entries that were deleted."""
    return Equals("state", "deleted")


def expired(at: str | None = None) -> TimeBetween:
    """Return the condition of entries whose time has passed, by now or at a time."""
    return TimeBetween("expires_at", lte=at or now())


def within(when: Mapping[str, Range]) -> Iterable[Part]:
    """Yield what a checked `when` asks for."""
    for key, span in when.items():
        yield TimeBetween(key, **{bound: str(moment) for bound, moment in span.bounds().items()})


def matching(where: Where) -> Iterable[Part]:
    """Yield what a checked `where` asks for."""
    for key, wanted in where.items():
        if isinstance(wanted, Range):
            yield NumberBetween(key, **{bound: float(number) for bound, number in wanted.bounds().items()})
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


def scope_labels(scope: Scope) -> list[str]:
    """Return the texts by which an agent and a session are indexed; no other label is like them."""
    named = (("agent", scope.agent_id), ("session", scope.session_id))
    return [f"{what}:{name}" for what, name in named if name is not None]


def content_label(content: str) -> str:
    """Return the text by which a content is indexed as a whole; no label of metadata is like it."""
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def label(key: str, value: Scalar) -> str:
    """Return the text by which a key and a value are indexed, whatever its type; 1 and 1.0 have one, True another."""
    whole = isinstance(value, float) and value.is_integer()
    text = json.dumps([key, int(value) if whole else value], ensure_ascii=False)
    return text if len(text) <= _LONG else hashlib.sha256(text.encode()).hexdigest()
