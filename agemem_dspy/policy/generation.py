"""Batched sampling with a reusable key/value cache: the inner loop of every rollout.

One call of `generate` serves a batch of prompts under one set of weights. A prompt's longest
prefix that was computed before, by the same weights, is copied in rather than computed again.
Layout: rows are left-padded to one length; the last S tokens of every row are computed (S is the
longest uncached suffix of the batch), the rest comes from the pool.

Shapes: B rows, T tokens of context, S computed suffix, L layers, H key/value heads, D head size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

TokenIds = NDArray[np.int64]


@dataclass(slots=True)
class Row:
    """One prompt (P,) and how to continue it; `random` supplies one uniform a token."""

    prompt_ids: TokenIds
    max_new_tokens: int
    temperature: float
    random: np.random.Generator
    completion_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False


class _BufferLayer(DynamicLayer):
    """A cache layer that writes into preallocated (B, H, T, D) memory instead of concatenating."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.key_buffer, self.value_buffer, self.length = keys, values, length
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        end = self.length + key_states.shape[2]
        self.key_buffer[:, :, self.length : end] = key_states
        self.value_buffer[:, :, self.length : end] = value_states
        self.length = end
        self.keys, self.values = self.key_buffer[:, :, :end], self.value_buffer[:, :, :end]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.length


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
            n = min(len(known), len(ids))
            if n <= best:
                continue
            differs = np.flatnonzero(known[:n] != ids[:n])
            length = int(differs[0]) if len(differs) else n
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


@dataclass(slots=True)
class GenerationCounts:
    """Tokens of all `generate` calls so far: what was asked for and what was computed."""

    prompt_tokens: int = 0
    computed_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0


def suffix_mask(pads: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """Return the boolean attention mask (B, 1, end-start, end) of left-padded rows.

    Query q sees keys at or before it that are not padding; a padded query sees itself, so that no
    row of the softmax is empty.
    """
    keys = torch.arange(end, device=pads.device)
    queries = torch.arange(start, end, device=pads.device)
    causal = keys[None, None, :] <= queries[None, :, None]
    real = keys[None, None, :] >= pads[:, None, None]
    itself = keys[None, None, :] == queries[None, :, None]
    return ((causal & real) | itself)[:, None]


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    rows: Sequence[Row],
    *,
    stop_ids: frozenset[int],
    pool: PrefixPool | None = None,
    counts: GenerationCounts | None = None,
) -> None:
    """Sample a completion for every row, in place.

    Args:
        model: a causal LM whose cache is one key and one value tensor a layer (Llama, Qwen, Mistral).
        rows: at least one; each gets `completion_ids` and natural-log `logprobs` under its temperature
            (under 1.0 when it is 0, which means greedy). The stop token is included.
        stop_ids: tokens that end a completion.
        pool: where prefixes are looked up and kept; None computes everything.
        counts: accumulates token counts when given.
    """
    device = model.device
    known = [pool.match(row.prompt_ids[:-1]) if pool is not None else (0, None) for row in rows]
    lengths = [len(row.prompt_ids) for row in rows]
    total = max(lengths)
    suffix = max(n - k for n, (k, _) in zip(lengths, known, strict=True))
    start = total - suffix
    max_new = max(row.max_new_tokens for row in rows)
    config = model.config
    heads = config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    buffer = torch.zeros(
        (config.num_hidden_layers, 2, len(rows), heads, total + max_new, size), dtype=model.dtype, device=device
    )
    ids = torch.zeros((len(rows), suffix), dtype=torch.long, device=device)
    pads = torch.tensor([total - n for n in lengths], device=device)
    for i, (row, (_, tensor)) in enumerate(zip(rows, known, strict=True)):
        pad = total - lengths[i]
        reused = start - pad
        if tensor is not None and reused > 0:
            buffer[:, :, i, :, pad:start] = tensor[:, :, :, :reused]
        tail = row.prompt_ids[max(0, reused) :]
        ids[i, suffix - len(tail) :] = torch.from_numpy(tail.copy()).to(device)
    if counts is not None:
        counts.prompt_tokens += sum(lengths)
        counts.computed_tokens += suffix * len(rows)
        counts.calls += len(rows)

    alive = list(range(len(rows)))
    position = total
    logits = _forward(model, buffer, ids, pads, start, position)
    while True:
        sampling = [j for j, i in enumerate(alive) if not rows[i].stopped]
        chosen = _sample(logits, [rows[i] for i in alive], stop_ids)
        keep = [j for j in sampling if not rows[alive[j]].stopped]
        if pool is not None:
            for j in set(sampling).difference(keep):
                _keep_prefix(pool, rows[alive[j]], buffer, j, int(pads[j]), position)
        if not keep:
            break
        if len(keep) <= len(alive) // 2:
            buffer, pads, chosen = buffer[:, :, keep], pads[keep], chosen[keep]
            alive = [alive[j] for j in keep]
        logits = _forward(model, buffer, chosen[:, None], pads, position, position + 1)
        position += 1
    if counts is not None:
        counts.completion_tokens += sum(len(row.completion_ids) for row in rows)


def _forward(
    model: PreTrainedModel, buffer: torch.Tensor, ids: torch.Tensor, pads: torch.Tensor, start: int, end: int
) -> torch.Tensor:
    """Compute tokens [start, end) of every row into `buffer`; return the last position's logits (B, V)."""
    layers: list[Any] = [_BufferLayer(layer[0], layer[1], start) for layer in buffer]
    positions = (torch.arange(start, end, device=pads.device)[None, :] - pads[:, None]).clamp(min=0)
    output = model(
        input_ids=ids,
        attention_mask=suffix_mask(pads, start, end),
        position_ids=positions,
        past_key_values=Cache(layers=layers),
        use_cache=True,
        logits_to_keep=1,
    )
    logits: torch.Tensor = output.logits[:, -1].float()
    return logits


def _sample(logits: torch.Tensor, rows: Sequence[Row], stop_ids: frozenset[int]) -> torch.Tensor:
    """Draw one token a row by inverting the cumulative distribution; stopped rows repeat a stop token."""
    scale = torch.tensor([row.temperature or 1.0 for row in rows], device=logits.device)
    logp = torch.log_softmax(logits / scale[:, None], dim=-1)
    uniforms = torch.tensor(
        [0.0 if row.stopped else row.random.random() for row in rows], dtype=torch.float64, device=logits.device
    )
    cumulative = logp.double().exp().cumsum(dim=-1)
    drawn = torch.searchsorted(cumulative, (uniforms * cumulative[:, -1])[:, None], right=True)[:, 0]
    drawn = drawn.clamp(max=logits.shape[-1] - 1)
    greedy = torch.tensor([row.temperature == 0 for row in rows], device=logits.device)
    chosen = torch.where(greedy, logits.argmax(dim=-1), drawn)
    picked = logp.gather(1, chosen[:, None])[:, 0].tolist()
    for row, token, value in zip(rows, chosen.tolist(), picked, strict=True):
        if row.stopped:
            continue
        row.completion_ids.append(token)
        row.logprobs.append(value)
        row.stopped = token in stop_ids or len(row.completion_ids) >= row.max_new_tokens
    return chosen


def _keep_prefix(pool: PrefixPool, row: Row, buffer: torch.Tensor, j: int, pad: int, position: int) -> None:
    """Store what is known of a finished row: its prompt and all completion tokens but the last."""
    ids = np.concatenate([row.prompt_ids, np.array(row.completion_ids[:-1], dtype=np.int64)])
    pool.put(ids, buffer[:, :, j, :, pad:position].clone())
