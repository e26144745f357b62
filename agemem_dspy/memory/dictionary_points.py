"""Points in a dictionary: the engine behind ":memory:", gone with the process.

A store of an episode lives for seconds and has tens of entries: it is made in microseconds here, where an embedded
engine takes 40 ms for its files, and qdrant-client's own one 5. Like those it compares with every entry; from some
thousand on, a folder is the quicker one.
"""

from __future__ import annotations

import heapq
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agemem_dspy.memory.conditions import Condition, PointId, id_text
from agemem_dspy.memory.point_store import Hit, Point, PointStore, Ranking, Record


@dataclass(frozen=True, slots=True)
class _Entry:
    """A point; `text` is its payload as JSON, from which every reader gets a copy of its own."""

    payload: Mapping[str, Any]
    text: str
    meaning: NDArray[np.float32]
    words: Mapping[int, float]


class DictionaryPoints(PointStore):
    """Points that are in this object and nowhere else."""

    is_server = False

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.RLock()

    def scroll(self, condition: Condition, keys: Sequence[str] | None = None) -> list[Record]:
        found = self._under(condition)
        if keys is not None:
            return [(one, {key: entry.payload[key] for key in keys}) for one, entry in found]
        return [(one, json.loads(entry.text)) for one, entry in found]

    def fetch(self, ids: Sequence[PointId], condition: Condition) -> list[Record]:
        with self._lock:
            found = [(one, self._entries.get(id_text(one))) for one in ids]
        return [
            (one, json.loads(entry.text))
            for one, entry in found
            if entry is not None and condition.holds(one, entry.payload)
        ]

    def count(self, condition: Condition) -> int:
        return len(self._under(condition))

    def has(self, point_id: str) -> bool:
        with self._lock:
            return point_id in self._entries

    def rank(self, rankings: Sequence[Ranking]) -> list[list[Hit]]:
        return [self._ranked(ranking) for ranking in rankings]

    def insert(self, points: Iterable[Point]) -> None:
        new = {point.id: _entry(point) for point in points}
        with self._lock:
            for one, entry in new.items():
                self._entries.setdefault(one, entry)

    def replace(self, point: Point, condition: Condition) -> None:
        with self._lock:
            old = self._entries.get(point.id)
            if old is not None and condition.holds(point.id, old.payload):
                self._entries[point.id] = _entry(point)

    def overwrite(self, payload: Mapping[str, Any], condition: Condition) -> None:
        with self._lock:
            for one, entry in self._under(condition):
                self._entries[one] = replace(entry, **_copies(payload))

    def delete(self, condition: Condition) -> None:
        with self._lock:
            for one, _ in self._under(condition):
                del self._entries[one]

    def elsewhere(self, condition: Condition) -> str | None:
        return None

    def close(self) -> None:
        with self._lock:
            self._entries.clear()

    def _under(self, condition: Condition) -> list[tuple[str, _Entry]]:
        with self._lock:
            entries = list(self._entries.items())
        return [(one, entry) for one, entry in entries if condition.holds(one, entry.payload)]

    def _ranked(self, ranking: Ranking) -> list[Hit]:
        found = self._under(ranking.condition)
        if ranking.meaning is not None:
            rows = np.stack([entry.meaning for _, entry in found]) if found else np.empty((0, len(ranking.meaning)))
            scores = (rows @ np.asarray(ranking.meaning, dtype=np.float32)).tolist()
        else:
            words = (ranking.words or {}).items()
            scores = [sum(weight * entry.words.get(word, 0.0) for word, weight in words) for _, entry in found]
        hits = [(one, score, entry) for (one, entry), score in zip(found, scores, strict=True)]
        if ranking.words is not None:
            hits = [hit for hit in hits if hit[1] > 0.0]
        best = heapq.nlargest(ranking.limit, hits, key=lambda hit: hit[1])
        return [(one, score, json.loads(entry.text) if ranking.payloads else None) for one, score, entry in best]


def _entry(point: Point) -> _Entry:
    return _Entry(meaning=np.asarray(point.meaning, dtype=np.float32), words=point.words, **_copies(point.payload))


def _copies(payload: Mapping[str, Any]) -> dict[str, Any]:
    text = json.dumps(payload)
    return {"payload": json.loads(text), "text": text}
