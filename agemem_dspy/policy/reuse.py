"""What was computed or said before and can serve again: keys and values of prefixes, likely continuations."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

TokenIds = NDArray[np.int64]

MAX_DRAFT = 8  # most tokens that are guessed at once
NGRAM = 3


class PrefixPool:
    """Keys and values of token sequences already computed, least recently used first out.

    Entries belong to one version of the weights: `clear` when the weights change.
    """

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[bytes, tuple[TokenIds, torch.Tensor]] = OrderedDict()
        self._bytes = 0

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._bytes = 0

    def match(self, ids: TokenIds) -> tuple[int, torch.Tensor | None]:
        """Return the longest known prefix of `ids`: its length and the (L, 2, H, T, D) tensor holding it."""
        best, found, key_found = 0, None, b""
        for key, (known, tensor) in self._entries.items():
            length = common_prefix(known, ids)
            if length > best:
                best, found, key_found = length, tensor, key
        if key_found:
            self._entries.move_to_end(key_found)
        return best, found

    def put(self, ids: TokenIds, tensor: torch.Tensor) -> None:
        """Keep (L, 2, H, T, D) `tensor` for the T tokens `ids`."""
        key = ids.tobytes()
        if key in self._entries:
            self._entries.move_to_end(key)
            return
        self._entries[key] = (ids, tensor)
        self._bytes += tensor.nbytes
        while self._bytes > self.max_bytes and len(self._entries) > 1:
            _, (_, dropped) = self._entries.popitem(last=False)
            self._bytes -= dropped.nbytes


def common_prefix(a: TokenIds, b: TokenIds) -> int:
    """Return how many leading tokens two sequences share."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


class Phrasebook:
    """What followed each trigram in the latest completions, oldest out; a guess, which holds for any weights."""

    def __init__(self, max_entries: int = 1 << 14) -> None:
        self.max_entries = max_entries
        self._following: dict[tuple[int, ...], tuple[int, ...]] = {}

    def learn(self, ids: Sequence[int], start: int) -> None:
        """Note what followed the trigrams before each of `ids` from `start` on."""
        for i in range(max(start, NGRAM), len(ids)):
            key = tuple(ids[i - NGRAM : i])
            self._following.pop(key, None)
            self._following[key] = tuple(ids[i : i + MAX_DRAFT])
        while len(self._following) > self.max_entries:
            del self._following[next(iter(self._following))]

    def after(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return what followed the last trigram of `ids`, nothing where it is new."""
        return self._following.get(tuple(ids[-NGRAM:]), ())

    def dump(self) -> TokenIds:
        """Return the entries, oldest first, as rows of a trigram and what followed it, filled up with -1."""
        rows = [[*key, *then, *[-1] * (MAX_DRAFT - len(then))] for key, then in self._following.items()]
        return np.array(rows, dtype=np.int64).reshape(-1, NGRAM + MAX_DRAFT)

    def load(self, entries: TokenIds) -> None:
        """Know what `dump` returned, and nothing else."""
        self._following = {
            tuple(row[:NGRAM]): tuple(token for token in row[NGRAM:] if token >= 0) for row in entries.tolist()
        }
