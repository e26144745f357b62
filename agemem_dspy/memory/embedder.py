"""Embedders: texts to unit vectors, and the rules that every embedder is held to.

`default_embedder` is MiniLM (see `minilm.py`) behind a cache, one for the process. `HashEmbedder` compares
spelling, not meaning; it is used only where it is asked for, never in place of a model that is missing.
"""

from __future__ import annotations

import copy
import math
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agemem_dspy.errors import AgeMemError, ConfigurationError, MemoryStoreError
from agemem_dspy.types import Embedder

_WORD = re.compile(r"\w+")
_NORM_TOLERANCE = 1e-2


class HashEmbedder:
    """Words and their character 3- to 5-grams, hashed to signed buckets: no model, no files, the same everywhere.

    It sees that two texts share words or parts of words. It does not see that "flight" and "plane" are related.
    """

    def __init__(self, dimension: int = 256) -> None:
        """Make one with vectors of `dimension` buckets.

        Raises:
            ConfigurationError: fewer than 8 buckets.
        """
        if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < 8:
            raise ConfigurationError(f"A HashEmbedder needs a dimension of at least 8, not {dimension!r}.")
        self.dimension = dimension
        self.name = f"hash-ngram-{dimension}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit row a text, (n, dimension)."""
        rows = np.zeros((len(checked_texts(texts)), self.dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for feature, weight in _features(text):
                code = zlib.crc32(feature.encode("utf-8", "surrogatepass"))
                row[(code >> 1) % self.dimension] += weight if code & 1 else -weight
            norm = float(np.linalg.norm(row))
            if norm == 0.0:  # nothing to hash, or all of it cancelled out
                row[0] = norm = 1.0
            row /= norm
        return rows


class CachedEmbedder:
    """An embedder that remembers the last `max_entries` texts; K rollouts embed the same ones.

    It has the name of the inner embedder, since it makes the same vectors. Threads may share it.
    """

    def __init__(self, inner: Embedder, max_entries: int = 50_000) -> None:
        """Put a cache before `inner`; an entry takes 4 bytes a dimension (1.5 kB for MiniLM).

        Raises:
            ConfigurationError: `max_entries` is not positive.
        """
        if isinstance(max_entries, bool) or not isinstance(max_entries, int) or max_entries < 1:
            raise ConfigurationError(f"max_entries must be a positive integer, not {max_entries!r}.")
        self.inner = inner
        self.max_entries = max_entries
        self.name = inner.name
        self.dimension = inner.dimension
        self.hits = 0
        self.misses = 0
        self._rows: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit row a text, (n, dimension); only unseen texts reach the inner embedder, in one call.

        Raises:
            MemoryStoreError: the inner embedder failed or returned something else than unit rows.
        """
        rows: dict[str, NDArray[np.float32]] = {}
        with self._lock:
            for text in checked_texts(texts):
                row = self._rows.get(text)
                if row is not None:
                    self._rows.move_to_end(text)
                    rows[text] = row
            missing = list(dict.fromkeys(text for text in texts if text not in rows))
            self.misses += len(missing)
            self.hits += len(texts) - len(missing)
        if missing:
            fresh = embed_checked(self.inner, missing)
            with self._lock:
                for text, row in zip(missing, fresh, strict=True):
                    rows[text] = self._rows[text] = row.copy()
                while len(self._rows) > self.max_entries:
                    self._rows.popitem(last=False)
        result = np.empty((len(texts), self.dimension), dtype=np.float32)
        for index, text in enumerate(texts):
            result[index] = rows[text]
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[CachedEmbedder], tuple[Embedder, int]]:
        return CachedEmbedder, (copy.copy(self.inner), self.max_entries)


_default_lock = threading.Lock()


def default_embedder() -> CachedEmbedder:
    """Return MiniLM behind a cache, the same object for the whole process; the first call loads it (0.3 s).

    Raises:
        MissingDependency: onnxruntime, tokenizers or the model's package is not installed.
    """
    with _default_lock:
        return _make_default()


@lru_cache(maxsize=1)
def _make_default() -> CachedEmbedder:
    from agemem_dspy.memory.minilm import MiniLMEmbedder

    return CachedEmbedder(MiniLMEmbedder())


def similarity(embedder: Embedder, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the cosine of the query with each text, shape (n,), in one embedding call.

    Raises:
        MemoryStoreError: the embedder failed or returned something else than unit rows.
    """
    vectors = embed_checked(embedder, [query, *checked_texts(texts)])
    cosines: NDArray[np.float32] = np.clip(vectors[1:] @ vectors[0], -1.0, 1.0)
    return cosines


def embed_checked(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return `embedder.embed(texts)` as float32, (n, dimension), once it is seen to be n finite unit rows.

    Raises:
        MemoryStoreError: it raised or returned something else; the message names the embedder.
    """
    checked_texts(texts)
    try:
        rows = np.asarray(embedder.embed(texts), dtype=np.float32)
    except AgeMemError:
        raise
    except Exception as error:
        raise MemoryStoreError(f"The embedder {embedder.name!r} failed on {len(texts)} texts: {error!r}.") from error
    shape = (len(texts), embedder.dimension)
    if rows.shape != shape:
        raise MemoryStoreError(f"The embedder {embedder.name!r} returned the shape {rows.shape} instead of {shape}.")
    norms = np.linalg.norm(rows, axis=1)
    if not np.isfinite(norms).all():
        index = int(np.flatnonzero(~np.isfinite(norms))[0])
        raise MemoryStoreError(f"The embedder {embedder.name!r} returned NaN or infinity for {texts[index][:80]!r}.")
    if norms.size and float(np.abs(norms - 1.0).max()) > _NORM_TOLERANCE:
        index = int(np.abs(norms - 1.0).argmax())
        raise MemoryStoreError(
            f"The embedder {embedder.name!r} returned a vector of length {norms[index]:.3g} for {texts[index][:80]!r}; "
            "divide each row by its L2 norm."
        )
    return rows


def checked_texts(texts: Sequence[str]) -> Sequence[str]:
    """Return `texts` if it is a sequence of strings.

    Raises:
        MemoryStoreError: a bare string, no sequence, or an item that is no string.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise MemoryStoreError(f"An embedder takes a list of strings, not {type(texts).__name__}.")
    for text in texts:
        if not isinstance(text, str):
            raise MemoryStoreError(f"An embedder takes strings, not {type(text).__name__}: {text!r}.")
    return texts


def _features(text: str) -> list[tuple[str, float]]:
    """List a text's words (weight 1) and each word's n-grams, which together weigh as much as the word."""
    features: list[tuple[str, float]] = []
    for word in _WORD.findall(text.lower()):
        features.append((word, 1.0))
        marked = f"<{word}>"
        grams = [marked[start : start + size] for size in (3, 4, 5) for start in range(len(marked) - size + 1)]
        features.extend((f"#{gram}", 1.0 / math.sqrt(len(grams))) for gram in grams)
    return features
