"""LoCoMo's published answer score: F1 over stemmed words, by rules that differ between the categories.

Deviation from the published evaluation: to an adversarial question any answer that says it does not know is right,
not only one with the words "not mentioned" or "no information available", which were among the choices shown there.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from agemem_dspy.errors import MissingDependency
from agemem_dspy.scoring import abstains

INSTALL = 'pip install "agemem-dspy[locomo]"'
_ARTICLES = re.compile(r"\b(a|an|the|and)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NOTHING_THERE = ("not mentioned", "no information available")


def published() -> Mapping[str, Callable[[Any, str], float]]:
    """Return the published score by its name, once it is sure that it can be computed.

    Raises:
        MissingDependency: nltk, whose Porter stemmer the published numbers stem with, is not installed.
    """
    _stemmer()
    return {"f1": answer_f1}


def answer_f1(example: Any, answer: str) -> float:
    """Return the published score in [0, 1] of an answer to one of the reader's examples.

    "multi-hop": each part of the gold answer, between commas, counts with the best part of the answer.
    "adversarial": 1 for an answer that says there is none. Others: F1; of a gold answer of "open-domain" only what
    stands before a semicolon counts.
    """
    gold = example.answer
    match example.kind:
        case "adversarial":
            return float(abstains(answer) or any(words in answer.lower() for words in _NOTHING_THERE))
        case "multi-hop":
            ours = [_stems(part) for part in answer.split(",")]
            wanted = [_stems(part) for part in gold.split(",")]
            return sum(max(_f1(own, part) for own in ours) for part in wanted) / len(wanted)
        case "open-domain":
            gold = gold.partition(";")[0]
    return _f1(_stems(answer), _stems(gold))


def _f1(ours: Counter[str], theirs: Counter[str]) -> float:
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total()) if shared else 0.0


def _stems(text: str) -> Counter[str]:
    stem = _stemmer()
    return Counter(stem(word) for word in _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


@functools.cache
def _stemmer() -> Callable[[str], str]:
    try:
        from nltk.stem.porter import PorterStemmer
    except ImportError as error:
        raise MissingDependency(f"LoCoMo's F1 needs the package nltk: {INSTALL}") from error
    return functools.lru_cache(maxsize=4096)(PorterStemmer().stem)
