"""Text scores: does an answer match, does a text carry a fact, is a key item still there.

Deviations from the paper, which asks an LM judge for all of this:
1. An answer scores max(exact match, token F1) with SQuAD normalisation; a judge is optional.
2. Yes/no answers are decided by their first word, so that "yes no" earns nothing by hedging.
3. "I don't know" is right only when the gold answer says so, and then no other answer is.
4. A fact "attribute: value" is carried only by a text that holds the whole value: token recall
   alone would let "diet: vegan" pass as "diet: vegetarian". A cosine never decides for this form.
5. A fact that replaced another (its rival) is carried only by a text that is at least as close to
   its own distinctive words as to the rival's: a stale entry does not carry the new fact.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from agemem_dspy.types import Embedder

RECALL = 0.5
COSINE = 0.75
_LONGEST_HEAD, _LONGEST_VALUE = 8, 12
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
_POSSESSIVE = re.compile(r"'s\b")
_WORD = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+")
_ABSTENTION = ("dont know", "do not know", "unknown", "not sure")
_ABSTAINED = frozenset(start + phrase for phrase in _ABSTENTION for start in ("", "i ", "im "))
_FUNCTION_WORDS = frozenset(
    ("and", "are", "as", "at", "be", "been", "by", "for", "from", "her", "his", "in", "is")
) | frozenset(("it", "its", "of", "on", "or", "their", "to", "was", "were", "with"))


def normalize(text: str) -> str:
    """Lower the case, drop punctuation and articles, join on single spaces (SQuAD)."""
    lowered = text.translate(_QUOTES).casefold().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", lowered).split())


def words(text: str) -> list[str]:
    """Split into lower-case words and numbers, without articles and possessive endings.

    "1,200" and "7:30" stay whole; "Ana's" is "ana".
    """
    flat = _POSSESSIVE.sub("", unicodedata.normalize("NFKC", text).translate(_QUOTES).casefold()).replace("'", "")
    return [token.replace(",", "") for token in _WORD.findall(flat) if token not in ("a", "an", "the")]


def token_f1(answer: str, gold: str) -> float:
    """Return the F1 of the normalised tokens of two answers, in [0, 1]."""
    ours, theirs = normalize(answer).split(), normalize(gold).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def exact_match(answer: str, gold: str) -> float:
    """Return HotpotQA's EM, 0 or 1: its script's normalisation, which unlike `normalize` leaves curly quotes."""
    return float(_hotpotqa(answer) == _hotpotqa(gold))


def hotpotqa_f1(answer: str, gold: str) -> float:
    """Return HotpotQA's F1 in [0, 1] as its script computes it: a yes, no or "noanswer" is right or wrong."""
    ours, theirs = _hotpotqa(answer), _hotpotqa(gold)
    if ours != theirs and {ours, theirs} & {"yes", "no", "noanswer"}:
        return 0.0
    shared = sum((Counter(ours.split()) & Counter(theirs.split())).values())
    return 2 * shared / (len(ours.split()) + len(theirs.split())) if shared else 0.0


def abstains(text: str) -> bool:
    """Tell whether an answer says that it does not know."""
    flat = normalize(text)
    return any(phrase in flat for phrase in _ABSTENTION)


def answer_score(answer: str, gold: str) -> float:
    """Score an answer against one gold answer, in [0, 1] (deviations 1 to 3)."""
    ours, theirs = normalize(answer), normalize(gold)
    if theirs in _ABSTAINED:
        return float(abstains(answer))
    if ours == theirs:
        return 1.0
    if abstains(answer) and not abstains(gold):
        return 0.0
    if theirs in ("yes", "no"):
        return float(ours.split()[:1] == [theirs])
    return token_f1(answer, gold)


def recall(fact: str, text: str) -> float:
    """Return the share of the fact's words that the text holds, in [0, 1]; 0 for an empty fact."""
    wanted = words(fact)
    held = set(words(text))
    return sum(word in held for word in wanted) / len(wanted) if wanted else 0.0


def value_of(fact: str) -> str | None:
    """Return the value of a short "attribute: value" fact, None for a plain sentence."""
    head, colon, value = fact.rpartition(": ")
    short = 0 < len(words(head)) <= _LONGEST_HEAD and 0 < len(words(value)) <= _LONGEST_VALUE
    return value.strip() if colon and short else None


def carries(fact: str, text: str, *, rivals: Iterable[str] = (), embedder: Embedder | None = None) -> bool:
    """Tell whether a text states a fact (spec 6.3, deviations 4 and 5).

    `rivals` are the contents that this fact replaced or was replaced by. With an embedder a
    plain sentence is also carried at cosine >= 0.75.
    """
    if not all(_nearer(fact, rival, text) for rival in rivals):
        return False
    value = value_of(fact)
    if value is not None:
        return set(words(value)) <= set(words(text)) and recall(fact, text) >= RECALL
    return recall(fact, text) >= RECALL or (embedder is not None and cosine(fact, text, embedder) >= COSINE)


def cosine(one: str, other: str, embedder: Embedder) -> float:
    """Return the cosine similarity of two texts, in [-1, 1]; 0 when either is blank."""
    if not one.strip() or not other.strip():
        return 0.0
    vectors = embedder.embed([one, other])
    return float(vectors[0] @ vectors[1])


def mentions(item: str, texts: Sequence[str]) -> bool:
    """Tell whether one of the texts holds the item word for word; "3" is not in "13"."""
    wanted = f" {' '.join(words(item))} "
    return bool(wanted.strip()) and any(wanted in f" {' '.join(words(text))} " for text in texts)


def _hotpotqa(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _nearer(fact: str, rival: str, text: str) -> bool:
    own, other, held = set(words(fact)) - _FUNCTION_WORDS, set(words(rival)) - _FUNCTION_WORDS, set(words(text))
    mine, yours = own - other, other - own
    if not mine or not yours:
        return True
    hits, misses = len(mine & held) / len(mine), len(yours & held) / len(yours)
    return hits > 0 and hits >= misses
