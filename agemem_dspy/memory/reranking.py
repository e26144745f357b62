"""A second look at what a search has found: a reranker's scores, and diversity among the results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agemem_dspy.errors import ConfigurationError, MemoryStoreError
from agemem_dspy.memory.checks import MAX_TOP_K, SearchMode
from agemem_dspy.memory.embedder import embed_checked
from agemem_dspy.memory.event_loop import off_loop
from agemem_dspy.memory.lexical import ranking_weights, shared
from agemem_dspy.types import Embedder, Memory

_TIMES, _LEAST = 4, 32  # candidates: so many times `top_k`, and no fewer than this


class Reranker(Protocol):
    """Scores candidates against a query, such as a cross-encoder does; higher is better."""

    def __call__(self, query: str, memories: Sequence[Memory]) -> Sequence[float]:
        """Return one finite score a memory."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranking:
    """How the candidates of a search are ordered anew; with the defaults, not at all.

    The candidates are the best four times `top_k`, 32 at least. A memory keeps its cosine as `score`.

    Args:
        reranker: what scores the candidates; the search's own order when None.
        diversity: from 0 to 1, how much a result's likeness to those before it counts against it: maximal marginal
            relevance (Carbonell and Goldstein 1998), whose lambda is 1 less this. Each next result is the one with the
            greatest (1 - diversity) * relevance - diversity * (greatest cosine to a result before it). Relevance is
            the reranker's score, which then must be from 0 to 1, or the search's own, divided by the most it can be.
            The candidates are embedded for it, which an embedder with a cache does not do twice.

    Raises:
        ConfigurationError: a reranker that cannot be called, or a diversity outside 0..1.
    """

    reranker: Reranker | None = None
    diversity: float = 0.0

    def __post_init__(self) -> None:
        if self.reranker is not None and not callable(self.reranker):
            raise ConfigurationError(f"a reranker is called with a query and memories: {self.reranker!r} cannot be")
        if isinstance(self.diversity, bool) or not isinstance(self.diversity, int | float):
            raise ConfigurationError(f"diversity must be a number from 0 to 1, not {self.diversity!r}")
        if not 0.0 <= self.diversity <= 1.0:
            raise ConfigurationError(f"diversity must be from 0 to 1, not {self.diversity}")

    def depth(self, top_k: int) -> int:
        """Return how many candidates are needed for so many results."""
        off = self.reranker is None and not self.diversity
        return top_k if off else min(max(_TIMES * top_k, _LEAST), MAX_TOP_K)

    def best(
        self, embedder: Embedder, query: str, candidates: Sequence[Memory], top_k: int, mode: SearchMode
    ) -> list[Memory]:
        """Return the `top_k` best candidates, best first, equals in the order of the search.

        Args:
            candidates: as a search in this mode returned them.

        Raises:
            MemoryStoreError: the reranker raised, or its scores cannot be used.
        """
        if len(candidates) < 2 or (self.reranker is None and not self.diversity):
            return list(candidates[:top_k])
        reranker = self.reranker
        relevance = self._scores(reranker, query, candidates) if reranker else _relevance(query, candidates, mode)
        if not self.diversity:
            order = sorted(range(len(candidates)), key=lambda place: -relevance[place])
            return [candidates[place] for place in order[:top_k]]
        vectors = embed_checked(embedder, [memory.content for memory in candidates])
        likeness = (vectors @ vectors.T).tolist()
        left, nearest = list(range(len(candidates))), [0.0] * len(candidates)
        chosen: list[Memory] = []
        while left and len(chosen) < top_k:
            place = max(left, key=lambda one: (1 - self.diversity) * relevance[one] - self.diversity * nearest[one])
            left.remove(place)
            nearest = [
                likeness[place][one] if not chosen else max(nearest[one], likeness[place][one])
                for one in range(len(candidates))
            ]
            chosen.append(candidates[place])
        return chosen

    def _scores(self, reranker: Reranker, query: str, candidates: Sequence[Memory]) -> list[float]:
        name = getattr(reranker, "__name__", type(reranker).__name__)
        try:
            given = off_loop(reranker, query, list(candidates))
            scores = [float(score) for score in given]
        except Exception as error:
            raise MemoryStoreError(f"The reranker {name} failed: {type(error).__name__}: {error}.") from error
        if len(scores) != len(candidates) or not all(map(math.isfinite, scores)):
            raise MemoryStoreError(
                f"The reranker {name} must return one finite number for each of {len(candidates)} memories, "
                f"but it returned {len(scores)}: {str(scores)[:80]}."
            )
        if self.diversity and not all(0.0 <= score <= 1.0 for score in scores):
            raise MemoryStoreError(
                f"The reranker {name} must return scores from 0 to 1 where diversity is weighed against them, "
                f"but one is {max(scores, key=abs):g}: put them through a sigmoid."
            )
        return scores


def _relevance(query: str, memories: Sequence[Memory], mode: SearchMode) -> list[float]:
    """Return the scores by which a search has ranked, divided by the most that they can be."""
    by_cosine, by_share = ranking_weights(mode)
    return [
        (by_cosine * (memory.score or 0.0) + by_share * shared(query, memory.content)) / (by_cosine + by_share)
        for memory in memories
    ]
