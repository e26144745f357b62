"""Search: two rankings, by meaning and by words, made one, exactly.

This is the threshold algorithm (Fagin, Lotem and Naor 2001). Both rankings are read from the top until no entry below
can be among the best: an entry that neither has found is no better than the sum of their last ones. An entry that only
one has found is looked up in the other, if it may be among the best. Payloads are read of the best alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

from agemem_dspy.memory.checks import SearchMode, now
from agemem_dspy.memory.conditions import Condition, HasId, PointId, id_text, is_live, live
from agemem_dspy.memory.lexical import query_vector, ranking_weights
from agemem_dspy.memory.point_store import PointStore, Ranking
from agemem_dspy.memory.points import memory_of
from agemem_dspy.types import Memory

_FIRST_DEPTH, _MOST_DEPTH = 24, 4096  # how far down each ranking is read
DIGITS = 6  # to which scores are equal
_Found = tuple[str, Mapping[str, Any], float]  # an id, a payload, a cosine


class Shortcut:
    """Whether a search first goes without the conditions that nearly every entry meets: to be in sight, not expired.

    They are a fifth of its time. An entry found so that does not meet them costs a second search, so after one the
    next searches take no chance.
    """

    _PAUSE = 16  # searches

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._pause = 0

    def worth_trying(self) -> bool:
        """Tell whether the next search takes the chance."""
        if self._pause:
            self._pause -= 1
            return False
        return self._wanted

    def failed(self) -> None:
        """Take no chance for a while."""
        self._pause = self._PAUSE


def best_memories(
    points: PointStore,
    query: str,
    vector: list[float],
    condition: Condition,
    limit: int,
    mode: SearchMode,
    shortcut: Shortcut,
) -> list[Memory]:
    """Return the `limit` entries in sight under a condition that fit a query best, best first, equals oldest first.

    Args:
        vector: the query's, of length 1.
        condition: without that of being in sight.
    """
    moment = now()
    if shortcut.worth_trying():
        found = _best(points, query, vector, condition, limit, mode)
        if all(is_live(payload, moment) for _, payload, _ in found):
            return [memory_of(*one) for one in found]
        shortcut.failed()
    found = _best(points, query, vector, live(condition, moment), limit, mode)
    return [memory_of(*one) for one in found]


def _best(
    points: PointStore, query: str, vector: list[float], condition: Condition, limit: int, mode: SearchMode
) -> list[_Found]:
    if mode == "dense":
        return _nearest(points, vector, condition, limit)
    rankings = _Rankings(points, condition, vector, query_vector(query), ranking_weights(mode))
    depth = max(4 * limit, _FIRST_DEPTH)
    while not rankings.read(depth, limit) and depth < max(_MOST_DEPTH, 4 * limit):
        depth *= 4
    scores, cosines, payloads = rankings.completed(), rankings.cosines, rankings.payloads
    last = _last_of_best(scores.values(), limit)
    chosen = [one for one, score in scores.items() if score >= last]
    missing = [one for one in chosen if one not in payloads]
    payloads |= dict(points.fetch(missing, condition)) if missing else {}
    kept = [one for one in chosen if one in payloads]  # what was removed meanwhile is not
    kept.sort(key=lambda one: (-scores[one], payloads[one]["seq"]))
    return [(id_text(one), payloads[one], _cosine(cosines[one])) for one in kept[:limit]]


def _nearest(points: PointStore, vector: list[float], condition: Condition, limit: int) -> list[_Found]:
    """Return the best by meaning alone: one ranking, read until it is below all that equal the last of them."""
    depth = limit + 1
    while True:
        [hits] = points.rank([Ranking(condition, depth, meaning=vector, payloads=True)])
        whole = len(hits) < depth or round(hits[-1][1], DIGITS) < round(hits[limit - 1][1], DIGITS)
        if whole or depth >= max(_MOST_DEPTH, 4 * limit):
            break
        depth *= 4
    order = [(-round(cosine, DIGITS), payload["seq"], one, cosine, payload) for one, cosine, payload in hits if payload]
    order.sort(key=itemgetter(0, 1))
    return [(id_text(one), payload, _cosine(cosine)) for _, _, one, cosine, payload in order[:limit]]


def _last_of_best(scores: Iterable[float], limit: int) -> float:
    best = sorted(scores, reverse=True)[:limit]
    return best[-1] if best else 0.0


def _cosine(score: float) -> float:
    return min(1.0, max(-1.0, score))


class _Rankings:
    """What is known of the entries so far: cosines and shares of words, and who may be among the best."""

    def __init__(
        self,
        points: PointStore,
        condition: Condition,
        vector: list[float],
        words: Mapping[int, float],
        weights: tuple[float, float],
    ) -> None:
        self.points, self.condition = points, condition
        self.vector, self.words = vector, words
        self.by_cosine, self.by_share = weights
        self.cosines: dict[PointId, float] = {}
        self.shares: dict[PointId, float] = {}
        self.payloads: dict[PointId, Mapping[str, Any]] = {}
        self.contenders: list[PointId] = []
        self.most_share = 0.0  # of an entry that the ranking by words has not found

    def read(self, depth: int, limit: int) -> bool:
        """Read both rankings down to a depth; tell whether the `limit` best are among those found."""
        by_cosine, by_share = self.by_cosine, self.by_share
        self.cosines, self.shares = self._scores(
            Ranking(self.condition, depth, meaning=self.vector) if by_cosine else None,
            Ranking(self.condition, depth, words=self.words) if by_share and self.words else None,
        )
        cosines, shares = self.cosines, self.shares
        most_cosine = min(cosines.values(), default=0.0)
        # A ranking that is not as long as was asked for has all there are; what it lacks shares no word.
        self.most_share = most_share = min(shares.values()) if len(shares) == depth else 0.0
        least = {one: by_cosine * cosine + by_share * shares.get(one, 0.0) for one, cosine in cosines.items()}
        least |= {one: by_share * share - by_cosine for one, share in shares.items() if one not in cosines}
        bar = _last_of_best(least.values(), limit) - 10.0**-DIGITS
        self.contenders = [
            one
            for one, score in least.items()
            if score >= bar
            or (one not in shares and score + by_share * most_share >= bar)
            or (one not in cosines and score + by_cosine * (1.0 + most_cosine) >= bar)
        ]
        everything = len(cosines if by_cosine else shares) < depth
        return everything or (len(least) >= limit and bar > by_cosine * most_cosine + by_share * most_share)

    def completed(self) -> dict[PointId, float]:
        """Look the contenders up where they are missing; return their scores."""
        no_cosine = tuple(one for one in self.contenders if one not in self.cosines)
        no_share = tuple(one for one in self.contenders if one not in self.shares) if self.most_share else ()
        cosines, shares = self._scores(
            Ranking(self.condition.also(HasId(no_cosine)), len(no_cosine), meaning=self.vector) if no_cosine else None,
            Ranking(self.condition.also(HasId(no_share)), len(no_share), words=self.words) if no_share else None,
        )
        self.cosines |= cosines
        self.shares |= shares
        return {
            one: round(self.by_cosine * self.cosines[one] + self.by_share * self.shares.get(one, 0.0), DIGITS)
            for one in self.contenders
            if one in self.cosines
        }

    def _scores(
        self, by_meaning: Ranking | None, by_words: Ranking | None
    ) -> tuple[dict[PointId, float], dict[PointId, float]]:
        """Return the scores in two rankings, asked for in one request; keep the payloads that a server sends."""
        asked = [ranking for ranking in (by_meaning, by_words) if ranking is not None]
        answers = self.points.rank(asked) if asked else []
        if self.points.is_server:
            for answer in answers:
                self.payloads |= {one: payload for one, _, payload in answer if payload is not None}
        found: list[Iterable[Any]] = list(answers)
        cosines = {one: score for one, score, _ in found.pop(0)} if by_meaning else {}
        return cosines, {one: score for one, score, _ in found.pop(0)} if by_words else {}
