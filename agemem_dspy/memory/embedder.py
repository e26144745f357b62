"""Embedders: texts to unit vectors, and the rules that every embedder is held to.

`BatchedEmbedder` is what the embedders on a model share. `HashEmbedder` compares spelling, not meaning; it is used
only where it is asked for, never in place of a model that is missing.
"""

from __future__ import annotations

import math
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agemem_dspy.errors import AgeMemError, ConfigurationError, MemoryStoreError
from agemem_dspy.memory.event_loop import off_loop
from agemem_dspy.types import Embedder

_BLANK = "."
_WORD = re.compile(r"\w+")
NORM_TOLERANCE = 1e-2  # by which the length of a unit row may be off


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


class BatchedEmbedder(ABC):
    """An embedder on a model, whose subclass embeds one batch.

    Equal texts are embedded once, texts of like length together (little padding), and rows are divided by their
    norms. A blank text has the vector of a dot: many models have none for it, or refuse it. A copy is the same object,
    since a model is not copied.
    """

    def __init__(self, name: str, dimension: int | None, batch_size: int) -> None:
        """Name it and size it.

        Args:
            dimension: found by embedding one text when it is None.

        Raises:
            ConfigurationError: a blank name, or a size that is no positive integer.
            MemoryStoreError: the dimension was to be found, and the model failed.
        """
        if not isinstance(name, str) or not name.strip():
            raise ConfigurationError(f"An embedder needs a name, by which a store knows its model, not {name!r}.")
        self.name = name
        self.batch_size = positive("batch_size", batch_size)
        if dimension is None:
            row = _float_array(name, self._embed_batch, ["How long is a vector?"])
            dimension = row.shape[-1] if row.ndim == 2 else 0
            if not dimension:
                raise MemoryStoreError(f"The embedder {name!r} returned the shape {row.shape} for one text.")
        self.dimension = positive("dimension", dimension)

    @abstractmethod
    def _embed_batch(self, texts: Sequence[str]) -> Any:
        """Return one row a text, of any length but zero, for at most `batch_size` texts."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit row a text, (n, dimension).

        Raises:
            MemoryStoreError: the model failed, or returned something else than finite rows of that dimension.
        """
        sent = [text if text.strip() else _BLANK for text in checked_texts(texts)]
        distinct = sorted(dict.fromkeys(sent), key=len)
        rows = np.empty((len(distinct), self.dimension), dtype=np.float32)
        for start in range(0, len(distinct), self.batch_size):
            batch = distinct[start : start + self.batch_size]
            raw = _shaped_rows(self, self._embed_batch, batch)
            _refuse_infinite(self, batch, raw)
            norms = np.linalg.norm(raw, axis=1, keepdims=True)
            if not norms.all():
                text = batch[int(norms.argmin())]
                raise MemoryStoreError(f"The embedder {self.name!r} returned nothing but zeros for {text[:80]!r}.")
            rows[start : start + len(batch)] = raw / norms
        place = {text: index for index, text in enumerate(distinct)}
        return rows[[place[text] for text in sent]]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


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
    rows = off_loop(_shaped_rows, embedder, embedder.embed, checked_texts(texts))
    for text, row in zip(texts, rows, strict=True):
        if not abs(math.sqrt(np.vdot(row, row)) - 1.0) <= NORM_TOLERANCE:  # NaN is no such length either
            _refuse_infinite(embedder, texts, rows)
            raise MemoryStoreError(
                f"The embedder {embedder.name!r} returned a vector of length {np.linalg.norm(row):.3g} for "
                f"{text[:80]!r}; divide each row by its L2 norm."
            )
    return rows


def _shaped_rows(
    embedder: Embedder, embed: Callable[[Sequence[str]], Any], texts: Sequence[str]
) -> NDArray[np.float32]:
    """Return what `embed` makes of the texts as float32, (n, dimension).

    Raises:
        MemoryStoreError: it raised or returned something else; the message names the embedder.
    """
    rows = _float_array(embedder.name, embed, texts)
    shape = (len(texts), embedder.dimension)
    if rows.ndim == 2 and len(rows) == len(texts) and rows.shape != shape:
        raise MemoryStoreError(
            f"The embedder {embedder.name!r} returned vectors of {rows.shape[1]} dimensions instead of "
            f"{embedder.dimension}: the model behind this name is not the one it was."
        )
    if rows.shape != shape:
        raise MemoryStoreError(f"The embedder {embedder.name!r} returned the shape {rows.shape} instead of {shape}.")
    return rows


def _refuse_infinite(embedder: Embedder, texts: Sequence[str], rows: NDArray[np.float32]) -> None:
    """Raise `MemoryStoreError` for the first text whose row has NaN or infinity."""
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        text = texts[int(np.flatnonzero(~finite)[0])]
        raise MemoryStoreError(f"The embedder {embedder.name!r} returned NaN or infinity for {text[:80]!r}.")


def _float_array(name: str, embed: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> NDArray[np.float32]:
    try:
        return np.asarray(embed(texts), dtype=np.float32)
    except AgeMemError:
        raise
    except Exception as error:
        raise MemoryStoreError(f"The embedder {name!r} failed on {len(texts)} texts: {error!r}.") from error


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


def positive(option: str, value: object) -> int:
    """Return `value` if it is a positive integer.

    Raises:
        ConfigurationError: it is not; the message names the option.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{option} must be a positive integer, not {value!r}.")
    return value


def _features(text: str) -> list[tuple[str, float]]:
    """List a text's words (weight 1) and each word's n-grams, which together weigh as much as the word."""
    features: list[tuple[str, float]] = []
    for word in _WORD.findall(text.lower()):
        features.append((word, 1.0))
        marked = f"<{word}>"
        grams = [marked[start : start + size] for size in (3, 4, 5) for start in range(len(marked) - size + 1)]
        features.extend((f"#{gram}", 1.0 / math.sqrt(len(grams))) for gram in grams)
    return features
