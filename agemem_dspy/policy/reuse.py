"""Keys and values that were computed before and can serve again."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray

TokenIds = NDArray[np.int64]


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
        self._bytes += _held(tensor)
        while self._bytes > self.max_bytes and len(self._entries) > 1:
            _, (_, dropped) = self._entries.popitem(last=False)
            self._bytes -= _held(dropped)


def _held(tensor: torch.Tensor) -> int:
    """Return the bytes that a tensor keeps in memory: those of what it is a view of, room for more tokens included."""
    return tensor.untyped_storage().nbytes()


def common_prefix(a: TokenIds, b: TokenIds) -> int:
    """Return how many leading tokens two sequences share."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n
