"""What long-term memory asks of an engine: a handful of operations on points, each under a condition.

A point is an entry: its payload and two vectors, one of its meaning, one of its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from agemem_dspy.memory.conditions import Condition, PointId

_Item = TypeVar("_Item")
CHUNK = 500  # entries written at once: about 1 MB of a log, 4 MB of a request
MEANING, WORDS = "meaning", "words"  # the vectors of a point
TENANT, KEYWORD, INTEGER, DATETIME = "tenant", "keyword", "integer", "datetime"
INDEXES = {  # what conditions name and order goes by
    "user_id": TENANT,
    "state": KEYWORD,
    "labels": KEYWORD,
    "seq": INTEGER,
    "created_at": DATETIME,
    "updated_at": DATETIME,
    "expires_at": DATETIME,
}


@dataclass(frozen=True, slots=True)
class Point:
    """An entry as it is stored: `meaning` has length 1, `words` are weights by word index."""

    id: str
    payload: Mapping[str, Any]
    meaning: list[float]
    words: Mapping[int, float]


Record = tuple[PointId, Mapping[str, Any]]  # a stored entry without its vectors
# A place in a ranking: a cosine by meaning, a dot product by words, and the payload where it came along.
Hit = tuple[PointId, float, Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The request for the `limit` entries under a condition that fit best.

    `meaning` (a unit vector) or `words` (weights by index, one at least) is what they are compared with.
    """

    condition: Condition
    limit: int
    meaning: list[float] | None = None
    words: Mapping[int, float] | None = None
    payloads: bool = False  # whether they are wanted along


def in_chunks(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Yield items in lists of `size`, the last one shorter; each is taken when it is asked for."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


class PointStore(Protocol):
    """The points of one embedding model in one place. Threads may share it; every failure is a `MemoryStoreError`.

    A write that returns has been made, for the whole of its points.
    """

    is_server: bool
    """Whether other processes may write too, and every call is a journey."""

    def scroll(self, condition: Condition, keys: Sequence[str] | None = None) -> list[Record]:
        """Return all entries that meet the condition, in no order; with `keys`, only these of their payloads."""
        ...

    def fetch(self, ids: Sequence[PointId], condition: Condition) -> list[Record]:
        """Return those of some entries that meet the condition, in no order."""
        ...

    def count(self, condition: Condition) -> int:
        """Return how many entries there are, exactly."""
        ...

    def has(self, point_id: str) -> bool:
        """Tell whether an id is taken, by whomever."""
        ...

    def rank(self, rankings: Sequence[Ranking]) -> list[list[Hit]]:
        """Return the answer to each request, best first; a server always sends payloads, which saves a journey."""
        ...

    def insert(self, points: Iterable[Point]) -> None:
        """Write new entries, in chunks, all or none; one whose id is taken stays as it was."""
        ...

    def replace(self, point: Point, condition: Condition) -> None:
        """Write an entry anew, if it is there and meets the condition."""
        ...

    def overwrite(self, payload: Mapping[str, Any], condition: Condition) -> None:
        """Write the payload of the entries that meet the condition anew; vectors stay."""
        ...

    def delete(self, condition: Condition) -> None:
        """Remove the entries that meet the condition."""
        ...

    def elsewhere(self, condition: Condition) -> str | None:
        """Return the name of another model's or layout's collection in this place that has such entries."""
        ...

    def close(self) -> None:
        """Let go of the engine."""
        ...
