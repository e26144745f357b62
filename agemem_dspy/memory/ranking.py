"""Search: two rankings, by meaning and by words, made one.

The first request ranks in both ways. The second one asks how an entry that only one ranking found fares in the other,
if it may still be among the best: it cannot do better there than the last one found. Payloads are read of the
best alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

from agemem_dspy.memory.checks import SearchMode
from agemem_dspy.memory.conditions import Condition, HasId, PointId, id_text
from agemem_dspy.memory.lexical import query_vector, ranking_weights
from agemem_dspy.memory.point_store import PointStore, Ranking
from agemem_dspy.memory.points import memory_of
from agemem_dspy.types import Memory

_LOOKED_AT = 50  # least entries of each ranking that a search sorts
_DIGITS = 6  # to which scores are equal


def best_memories(
    points: PointStore, query: str, vector: Sequence[float], condition: Condition, limit: int, mode: SearchMode
) -> list[Memory]:
    """Return the `limit` entries under a condition that fit a query best, best first, equals oldest first.

    Args:
        vector: the query's, of length 1.
    """
    by_cosine, by_share = ranking_weights(mode)
    words = query_vector(query)
    looked_at = max(_LOOKED_AT, 4 * limit)
    payloads: dict[PointId, Mapping[str, Any]] = {}

    def ranked(by_meaning: Ranking | None, by_words: Ranking | None) -> tuple[dict[PointId, float], ...]:
        """Return the scores in each of two rankings, asked for in one request."""
        asked = [ranking for ranking in (by_meaning, by_words) if ranking is not None]
        answers = iter(points.rank(asked) if asked else [])
        found: tuple[dict[PointId, float], ...] = ({}, {})
        for scores, ranking in zip(found, (by_meaning, by_words), strict=True):
            for one, score, payload in next(answers) if ranking is not None else ():
                scores[one] = score
                if payload is not None:
                    payloads[one] = payload
        return found

    cosines, shares = ranked(
        Ranking(condition, looked_at, meaning=vector) if by_cosine else None,
        Ranking(condition, looked_at, words=words) if by_share and words else None,
    )
    # What an entry has at most in a ranking that did not find it; one that is not full found all there are.
    most_cosine = min(cosines.values(), default=0.0)
    most_share = min(shares.values()) if len(shares) == looked_at else 0.0

    known = {one: by_cosine * cosine + by_share * shares.get(one, 0.0) for one, cosine in cosines.items()}
    known |= {one: by_share * share - by_cosine for one, share in shares.items() if one not in cosines}
    bar = min(heapq.nlargest(limit, known.values()), default=0.0) - 10.0**-_DIGITS
    contenders = [
        one
        for one, least in known.items()
        if least >= bar
        or (one not in shares and least + by_share * most_share >= bar)
        or (one not in cosines and least + by_cosine * (1.0 + most_cosine) >= bar)
    ]
    without_cosine = tuple(one for one in contenders if one not in cosines)
    without_share = tuple(one for one in contenders if one not in shares) if most_share else ()
    more_cosines, more_shares = ranked(
        Ranking(condition.also(HasId(without_cosine)), len(without_cosine), meaning=vector) if without_cosine else None,
        Ranking(condition.also(HasId(without_share)), len(without_share), words=words) if without_share else None,
    )
    cosines |= more_cosines
    shares |= more_shares
    scores = {
        one: round(by_cosine * cosines[one] + by_share * shares.get(one, 0.0), _DIGITS)
        for one in contenders
        if one in cosines  # what was removed meanwhile is not
    }
    last = min(heapq.nlargest(limit, scores.values()), default=0.0)
    chosen = [one for one, score in scores.items() if score >= last]
    missing = [one for one in chosen if one not in payloads]
    payloads |= dict(points.fetch(missing, condition)) if missing else {}
    best = sorted((one for one in chosen if one in payloads), key=lambda one: (-scores[one], payloads[one]["seq"]))
    return [memory_of(id_text(one), payloads[one], min(1.0, max(-1.0, cosines[one]))) for one in best[:limit]]
