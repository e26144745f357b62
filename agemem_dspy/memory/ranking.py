"""Search: two rankings, by meaning and by words, made one.

The first request ranks in both ways; the second one asks how the entries that only one ranking found fare in the
other, which makes every sum exact; payloads are read of the best alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from agemem_dspy.memory.checks import SearchMode
from agemem_dspy.memory.conditions import Condition, HasId
from agemem_dspy.memory.lexical import query_vector, ranking_score
from agemem_dspy.memory.point_store import PointStore, Ranking
from agemem_dspy.memory.points import memory_of
from agemem_dspy.types import Memory

_LOOKED_AT = 50  # least entries of each ranking that a search sorts


def best_memories(
    points: PointStore, query: str, vector: Sequence[float], condition: Condition, limit: int, mode: SearchMode
) -> list[Memory]:
    """Return the `limit` entries under a condition that fit a query best, best first, equals oldest first.

    Args:
        vector: the query's, of length 1.
    """
    looked_at = max(_LOOKED_AT, 4 * limit)
    words = query_vector(query)
    by_meaning = Ranking(condition, looked_at, meaning=vector) if mode != "lexical" else None
    by_words = Ranking(condition, looked_at, words=words) if words and mode != "dense" else None
    asked = [ranking for ranking in (by_meaning, by_words) if ranking is not None]
    if not asked:
        return []
    answers = points.rank(asked)
    payloads = {hit.id: hit.payload for answer in answers for hit in answer if hit.payload is not None}
    found = [{hit.id: hit.score for hit in answer} for answer in answers]
    cosines = found[0] if by_meaning else {}
    shares = found[-1] if by_words else {}

    without_cosine = tuple(shares.keys() - cosines.keys())
    # A ranking by words that is not full has every entry that shares one.
    without_share = tuple(cosines.keys() - shares.keys()) if len(shares) == looked_at else ()
    asked = []
    if without_cosine:
        asked.append(Ranking(condition.also(HasId(without_cosine)), len(without_cosine), meaning=vector))
    if without_share:
        asked.append(Ranking(condition.also(HasId(without_share)), len(without_share), words=words))
    if asked:
        found = [{hit.id: hit.score for hit in answer} for answer in points.rank(asked)]
        cosines |= found[0] if without_cosine else {}
        shares |= found[-1] if without_share else {}

    scores = {one: round(ranking_score(cosine, shares.get(one, 0.0), mode), 6) for one, cosine in cosines.items()}
    order = sorted(scores, key=scores.__getitem__, reverse=True)
    memories: list[tuple[float, int, Memory]] = []
    while order and len(memories) < limit:
        last = scores[order[min(limit - len(memories), len(order)) - 1]]
        chosen = [one for one in order if scores[one] >= last]  # with the equals of the last one
        order = order[len(chosen) :]
        missing = tuple(one for one in chosen if one not in payloads)
        if missing:  # what was removed meanwhile stays missing
            payloads |= dict(points.scroll(condition.also(HasId(missing)), len(missing)))
        for one in chosen:
            payload = payloads.get(one)
            if payload is not None:
                memory = memory_of(one, payload, min(1.0, max(-1.0, cosines[one])))
                memories.append((-scores[one], payload["seq"], memory))
    memories.sort(key=lambda ranked: ranked[:2])
    return [memory for _, _, memory in memories[:limit]]
