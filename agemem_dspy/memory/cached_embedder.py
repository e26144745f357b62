"""What was embedded is remembered: in the process, and on disk where that is asked for."""

from __future__ import annotations

import copy
import functools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agemem_dspy.memory.embedder import checked_texts, embed_checked, positive
from agemem_dspy.memory.embedding_cache import EmbeddingCache
from agemem_dspy.types import Embedder

Rows = dict[str, NDArray[np.float32]]


class CachedEmbedder:
    """An embedder that remembers the last `max_entries` texts; K rollouts embed the same ones, often at once.

    It has the name of the inner embedder, since it makes the same vectors. Threads may share it: what one of them is
    embedding, another one that asks for it waits for.
    """

    def __init__(self, inner: Embedder, max_entries: int = 50_000, *, disk: EmbeddingCache | None = None) -> None:
        """Put a cache before `inner`; an entry takes 4 bytes a dimension (1.5 kB for MiniLM).

        Args:
            disk: where vectors also outlive the process; nowhere when left out. Who can read that folder can tell
                from a vector roughly what its text says.

        Raises:
            ConfigurationError: `max_entries` is not positive.
        """
        self.inner = inner
        self.max_entries = positive("max_entries", max_entries)
        self.disk = disk
        self.name = inner.name
        self.dimension = inner.dimension
        self.hits = 0
        self.misses = 0  # texts that no cache knew
        self._rows: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._coming: dict[str, Future[Rows]] = {}  # what some thread is embedding; none of it if that failed
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit row a text, (n, dimension); only unseen texts reach the inner embedder, in one call.

        Raises:
            MemoryStoreError: the inner embedder failed or returned something else than unit rows.
        """
        rows: Rows = {}
        missing: list[str] = []
        elsewhere: list[Future[Rows]] = []
        mine: Future[Rows] = Future()
        with self._lock:
            for text in dict.fromkeys(checked_texts(texts)):
                row = self._rows.get(text)
                if row is not None:
                    self._rows.move_to_end(text)
                    rows[text] = row
                elif text in self._coming:
                    elsewhere.append(self._coming[text])
                else:
                    self._coming[text] = mine
                    missing.append(text)
            self.hits += len(texts) - len(missing)
        if missing:
            rows |= self._embed_missing(missing, mine)
        for other in dict.fromkeys(elsewhere):
            rows |= other.result()
        unmet = [text for text in dict.fromkeys(texts) if text not in rows]
        if unmet:  # the thread that was at it failed, perhaps on another text
            rows |= dict(zip(unmet, self.embed(unmet), strict=True))
        result = np.empty((len(texts), self.dimension), dtype=np.float32)
        for index, text in enumerate(texts):
            result[index] = rows[text]
        return result

    def forget(self, texts: Sequence[str]) -> None:
        """Remove what is remembered of some texts, on disk under whatever embedder it was made.

        Raises:
            MemoryStoreError: the folder on disk cannot be written.
        """
        with self._lock:
            for text in checked_texts(texts):
                self._rows.pop(text, None)
                self._coming.pop(text, None)  # so that what is on its way is not remembered either
            if self.disk is not None:
                self.disk.forget(texts)

    def _embed_missing(self, texts: list[str], mine: Future[Rows]) -> Rows:
        """Return the rows of unseen texts, remember them and give them to the threads that wait for `mine`."""
        rows: Rows = {}
        try:
            known = {} if self.disk is None else self.disk.get(self.name, self.dimension, texts)
            unknown = [text for text in texts if text not in known]
            made: Rows = {}
            if unknown:
                made = {text: row.copy() for text, row in zip(unknown, embed_checked(self.inner, unknown), strict=True)}
            with self._lock:
                self.hits += len(known)
                self.misses += len(unknown)
                kept = {text for text in texts if self._coming.get(text) is mine}
                if self.disk is not None:
                    self.disk.put(self.name, self.dimension, {text: made[text] for text in made if text in kept})
                rows = known | made
                self._rows.update((text, rows[text]) for text in texts if text in kept)
                while len(self._rows) > self.max_entries:
                    self._rows.popitem(last=False)
        finally:
            with self._lock:
                for text in texts:
                    if self._coming.get(text) is mine:
                        del self._coming[text]
            mine.set_result(rows)
        return rows

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(CachedEmbedder, copy.copy(self.inner), self.max_entries, disk=self.disk), ()


def forget_texts(embedder: Embedder, texts: Sequence[str]) -> None:
    """Remove what an embedder remembers of some texts; one that remembers texts has a method `forget`.

    Raises:
        MemoryStoreError: it cannot be removed.
    """
    forget = getattr(embedder, "forget", None)
    if forget is not None:
        forget(texts)
