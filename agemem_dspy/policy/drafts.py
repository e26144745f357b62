"""Drafts: tokens that are likely to come next, so that one pass can check several.

Two sources are asked for each token: the row itself, which copies from what it was told, and the latest completions of
all rows, which repeat their form. How often a source was right is counted by how much it recognised. The more promising
one is believed, for as long as the draft so far is likely enough to be worth its computation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MAX_DRAFT = 12  # most tokens that are guessed at once
_ORDER = 6  # most tokens that a phrasebook recognises
_LONGEST, _LATEST = 12, 8  # most tokens of a repetition that are compared, and most repetitions that are
_NEXT = 16  # most tokens that a phrasebook knows to follow the same ones
_PASS = 32  # what a pass costs beside the tokens computed in it, in tokens: about right for two CPU cores

Evidence = tuple[int, int, int]  # the source, how many tokens it recognised, how clear it is (0 to 4)
_ITSELF, _PHRASES = 0, 1


@dataclass(slots=True)
class Draft:
    """Guessed tokens, and what each guess rests on."""

    tokens: list[int] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)


class Phrasebook:
    """What followed the last one to six tokens in the latest completions, and how often which guesses were right.

    Guesses hold for any weights. Contexts that were met longest ago are dropped.
    """

    def __init__(self, max_contexts: int = 1 << 15) -> None:
        self.max_contexts = max_contexts
        self._following: dict[tuple[int, ...], dict[int, int]] = {}  # how often each token did, the latest last
        self._judged: dict[Evidence, tuple[int, int]] = {}  # right, all

    def learn(self, ids: Sequence[int], start: int) -> None:
        """Note what came before each of `ids` from `start` on."""
        for i in range(max(start, 1), len(ids)):
            for n in range(1, min(_ORDER, i) + 1):
                context = tuple(ids[i - n : i])
                counts = self._following.pop(context, {})
                counts[ids[i]] = counts.pop(ids[i], 0) + 1
                if len(counts) > _NEXT:
                    del counts[next(iter(counts))]
                self._following[context] = counts
        while len(self._following) > self.max_contexts:
            del self._following[next(iter(self._following))]

    def likely(self, ids: Sequence[int]) -> tuple[int, Evidence] | None:
        """Return what followed most often, the latest of equals, the longest context known; None if all is new."""
        for n in range(min(_ORDER, len(ids)), 0, -1):
            counts = self._following.get(tuple(ids[-n:]))
            if counts is not None:
                token, count = max(reversed(counts.items()), key=lambda one: one[1])
                return token, (_PHRASES, n, int(5 * count / (sum(counts.values()) + 0.5)))
        return None

    def chance(self, evidence: Evidence) -> float:
        """Return how likely such a guess is right; a half where none was judged."""
        right, judged = self._judged.get(evidence, (0, 0))
        return (right + 1) / (judged + 2)

    def judge(self, draft: Draft, right: int) -> None:
        """Note how many tokens of a draft were right; the one after them, if there is one, was wrong."""
        for i, evidence in enumerate(draft.evidence[: right + 1]):
            known = self._judged.get(evidence, (0, 0))
            self._judged[evidence] = known[0] + (i < right), known[1] + 1

    def dump(self) -> dict[str, NDArray[np.int64]]:
        """Return all that is known: contexts filled up with -1, a token, its count; evidence, right, all. In order."""
        following = [
            [*context, *[-1] * (_ORDER - len(context)), token, count]
            for context, counts in self._following.items()
            for token, count in counts.items()
        ]
        judged = [[*evidence, *found] for evidence, found in self._judged.items()]
        return {
            "following": np.array(following, dtype=np.int64).reshape(-1, _ORDER + 2),
            "judged": np.array(judged, dtype=np.int64).reshape(-1, 5),
        }

    def load(self, known: Mapping[str, NDArray[np.int64]]) -> None:
        """Know what `dump` returned, and nothing else."""
        self._following, self._judged = {}, {}
        for *context, token, count in known["following"].tolist():
            own = self._following.setdefault(tuple(one for one in context if one >= 0), {})
            own[token] = count
        for source, recognised, clear, right, judged in known["judged"].tolist():
            self._judged[source, recognised, clear] = right, judged


class History:
    """A row's tokens, and where each of them was followed by which."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids: list[int] = []
        self._after: dict[int, list[int]] = {}  # token -> where what followed it is
        for token in ids:
            self.append(token)

    def append(self, token: int) -> None:
        """Add a token."""
        if self.ids:
            self._after.setdefault(self.ids[-1], []).append(len(self.ids))
        self.ids.append(token)

    def repetition(self) -> tuple[int, int]:
        """Return where a repetition of the last tokens goes on, and how many of them it has; 0 where there is none.

        Of the latest few, it is the longest, or the latest of equals.
        """
        ids, best, longest = self.ids, 0, 0
        for at in self._after.get(ids[-1], [])[: -_LATEST - 1 : -1]:
            n = 1
            while n < min(at, _LONGEST) and ids[at - 1 - n] == ids[-1 - n]:
                n += 1
            if n > longest:
                best, longest = at, n
        return best, longest

    def draft(self, phrases: Phrasebook, most: int, *, rows: int, stop_ids: frozenset[int]) -> Draft:
        """Guess up to `most` tokens, none after a stop token, for a pass over so many rows."""
        worth = 1 / (1 + _PASS / rows)  # a token that is right saves its row a pass, of which it bears its share
        at, recognised = self.repetition()
        recent, result, chance = self.ids[-_ORDER:], Draft(), 1.0
        while len(result.tokens) < most:
            n = len(result.tokens)
            found = [phrases.likely(recent)]
            if recognised and at + n < len(self.ids):
                found.append((self.ids[at + n], (_ITSELF, min(recognised + n, _LONGEST), 0)))
            guesses = [(phrases.chance(guess[1]), *guess) for guess in found if guess is not None]
            if not guesses:
                break
            own, token, evidence = max(guesses)
            chance *= own
            if chance < worth:
                break
            result.tokens.append(token)
            result.evidence.append(evidence)
            if token in stop_ids:
                break
            recognised = recognised if self.ids[at + n : at + n + 1] == [token] else 0
            recent = [*recent, token][-_ORDER:]
        return result
