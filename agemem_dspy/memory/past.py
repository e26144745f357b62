"""Search in what was known at a time.

There is no index of former versions, and none is needed: what was known is read out of the histories, and ranked as
`memory.ranking` ranks what is known. An entry whose content is still the same is compared by its vector in the store;
only contents that were changed since are embedded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from agemem_dspy.memory.conditions import Condition, HasId, PointId, id_text
from agemem_dspy.memory.embedder import embed_checked
from agemem_dspy.memory.lexical import ranking_weights, shared
from agemem_dspy.memory.point_store import PointStore, Ranking, Record
from agemem_dspy.memory.points import memory_of, payload_at
from agemem_dspy.memory.ranking import DIGITS
from agemem_dspy.types import Embedder, Memory


def records_at(records: Iterable[Record], condition: Condition, moment: str) -> list[Record]:
    """Return entries as they were at a time, those that met the condition then, oldest first."""
    then = [(one, former) for one, payload in records if (former := payload_at(payload, moment)) is not None]
    kept = [(one, payload) for one, payload in then if condition.holds(one, payload)]
    return sorted(kept, key=lambda record: record[1]["seq"])


def stored_cosines(
    points: PointStore, vector: list[float], now: Iterable[Record], then: Iterable[Record]
) -> dict[PointId, float]:
    """Return how close a query is to the entries whose content is what it was then.

    Args:
        vector: the query's, of length 1.
        now: the entries as they are, of which nothing has been changed since they were read.
    """
    contents = {one: payload["content"] for one, payload in now}
    kept = {id_text(one): one for one, payload in then if contents[one] == payload["content"]}
    if not kept:
        return {}
    [hits] = points.rank([Ranking(Condition((HasId(tuple(kept)),)), len(kept), meaning=vector)])
    found = [(kept[id_text(one)], cosine, payload) for one, cosine, payload in hits]
    # Where a payload comes along, other processes may have written meanwhile.
    return {one: cosine for one, cosine, payload in found if payload is None or payload["content"] == contents[one]}


def best_memories_then(
    embedder: Embedder,
    query: str,
    vector: list[float],
    then: list[Record],
    cosines: Mapping[PointId, float],
    limit: int,
    mode: str,
) -> list[Memory]:
    """Return the `limit` former entries that fit a query best, best first, equals oldest first.

    Args:
        then: as `records_at` returned them.
        cosines: those that are known; the contents of the other entries are embedded.
    """
    by_cosine, by_share = ranking_weights(mode)
    shares = {one: shared(query, payload["content"]) for one, payload in then}
    if mode == "lexical":
        then = [(one, payload) for one, payload in then if shares[one] > 0.0]
    changed = [(one, payload["content"]) for one, payload in then if one not in cosines]
    if changed:
        rows = embed_checked(embedder, [content for _, content in changed]) @ np.asarray(vector, dtype=np.float32)
        cosines = {**cosines, **{one: float(row) for (one, _), row in zip(changed, rows, strict=True)}}
    scores = {one: round(by_cosine * cosines[one] + by_share * shares[one], DIGITS) for one, _ in then}
    best = sorted(then, key=lambda record: -scores[record[0]])[:limit]  # stable: equals stay oldest first
    return [memory_of(id_text(one), payload, min(1.0, max(-1.0, cosines[one]))) for one, payload in best]
