"""What a query and a text share in words: the lexical half of retrieval.

A text is the set of its words, a query weighs its own by the square of their length: long words are the rare ones, and
no count over anybody's texts is needed. Words are cut to their first letters in place of a stemmer, which treats
languages alike.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from functools import lru_cache

STEM = 6
LEXICAL = 0.7  # how much a full share of the words counts beside a cosine of 1; chosen on LoCoMo's conversations 1-3
_WORD = re.compile(r"\w+")


def words(text: str) -> set[str]:
    """Return the words of a text, case and accents folded, cut to their first letters."""
    kept = text.casefold()
    if not kept.isascii():
        plain = unicodedata.normalize("NFKD", kept)
        kept = "".join(character for character in plain if not unicodedata.combining(character))
    return {word[:STEM] for word in _WORD.findall(kept)}


@lru_cache(maxsize=2**16)
def index_of(word: str) -> int:
    """Return a word's index in a sparse vector, from 0 to 2**31 - 1."""
    return zlib.crc32(word.encode()) & 0x7FFFFFFF


def text_vector(text: str) -> dict[int, float]:
    """Return 1 for each word's index."""
    return dict.fromkeys(map(index_of, words(text)), 1.0)


def query_vector(query: str) -> dict[int, float]:
    """Return a weight for each word's index; together 1, or nothing where the query has no word.

    Its dot product with a `text_vector` is the share of the query that the text has.
    """
    weights = {index_of(word): float(len(word) ** 2) for word in words(query)}
    total = sum(weights.values())
    return {index: weight / total for index, weight in weights.items()}


def shared(query: str, text: str) -> float:
    """Return the share of a query's words that a text has, by weight, from 0 to 1."""
    weights = query_vector(query)
    return sum(weights.get(index, 0.0) for index in text_vector(text))


def ranking_weights(mode: str) -> tuple[float, float]:
    """Return how much the cosine and the share of words count in a mode."""
    return {"hybrid": (1.0, LEXICAL), "dense": (1.0, 0.0), "lexical": (0.0, 1.0)}[mode]
