"""One forward pass over sequences of different lengths, laid end to end without padding.

The linear layers see all new tokens as one row; attention runs per sequence over its own key/value memory, query
heads of a group side by side, so that keys are never repeated. Works with models of transformers whose attention
is pluggable (Llama, Qwen, Mistral).

Shapes: N new tokens of all sequences, n of one sequence, T its tokens so far, L layers, H key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from agemem_dspy.errors import ModelError
from agemem_dspy.policy.linear import rounded_up

_NAME = "agemem_ragged"


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """The new tokens of one sequence, which go to [start, start + len(ids)) of its memory (L, 2, H, capacity, D)."""

    ids: Sequence[int]
    start: int
    memory: torch.Tensor


def new_memory(model: PreTrainedModel, capacity: int) -> torch.Tensor:
    """Return an empty key/value memory (L, 2, H, capacity, D) for one sequence."""
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (config.num_hidden_layers, 2, config.num_key_value_heads, capacity, size)
    return torch.empty(shape, dtype=model.dtype, device=model.device)


@torch.inference_mode()
def forward(model: PreTrainedModel, spans: Sequence[Span], wanted: Sequence[int]) -> torch.Tensor:
    """Compute the spans, fill their memories and return the logits (len(wanted), V) of some of the N tokens.

    The caller is the only one who uses the model meanwhile.

    Raises:
        ModelError: the model's attention does something that is not computed here.
    """
    device = model.device
    ids = [token for span in spans for token in span.ids]
    positions = [at for span in spans for at in range(span.start, span.start + len(span.ids))]
    unused = [0] * (rounded_up(len(ids), model) - len(ids))  # belong to no span, and nothing is asked of them
    kept = [*wanted, *[0] * (rounded_up(len(wanted), model) - len(wanted))]
    groups = model.config.num_attention_heads // model.config.num_key_value_heads
    masks = [None if len(s.ids) == 1 else causal_mask(len(s.ids), s.start, groups, model) for s in spans]
    usual = model.config._attn_implementation
    model.config._attn_implementation = _NAME
    try:
        output = model(
            input_ids=torch.tensor([[*ids, *unused]], device=device),
            position_ids=torch.tensor([[*positions, *unused]], device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(kept, dtype=torch.long, device=device),
            ragged=list(zip(spans, masks, strict=True)),
        )
    finally:
        model.config._attn_implementation = usual
    logits: torch.Tensor = output.logits[0, : len(wanted)].float()
    return logits


def causal_mask(n: int, start: int, groups: int, model: Any) -> torch.Tensor:
    """Return what is added to the scores of each group's n new tokens after `start` others, (1, 1, groups * n, T)."""
    unseen = torch.full((n, start + n), -torch.inf, dtype=model.dtype, device=model.device).triu(start + 1)
    return unseen.repeat(groups, 1)[None, None]


def attend_grouped(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """Return what the queries (heads, n, D) of one sequence see in its keys and values (H, T, D); as the queries."""
    own = query.reshape(1, keys.shape[0], -1, query.shape[-1])
    seen = scaled_dot_product_attention(own, keys[None], values[None], attn_mask=mask, scale=scaling)
    return seen.view(query.shape)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    ragged: Sequence[tuple[Span, torch.Tensor | None]],
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend per span; query (1, heads, N, D), key and value (1, H, N, D); return (1, N, heads, D)."""
    refuse_odd_attention(options, max(span.start + len(span.ids) for span, _ in ragged))
    layer: Any = module.layer_idx
    query = query.contiguous()  # else the fused kernel is not taken
    outputs, at = [], 0
    for span, mask in ragged:
        n = len(span.ids)
        keys, values = span.memory[layer].unbind(0)
        keys[:, span.start : span.start + n] = key[0, :, at : at + n]
        values[:, span.start : span.start + n] = value[0, :, at : at + n]
        end = span.start + n
        outputs.append(attend_grouped(query[0, :, at : at + n], keys[:, :end], values[:, :end], mask, scaling))
        at += n
    outputs.append(query.new_zeros(query.shape[1], query.shape[2] - at, query.shape[3]))
    return torch.cat(outputs, dim=1).transpose(0, 1)[None], None


def refuse_odd_attention(options: dict[str, Any], longest: int) -> None:
    """Raise a `ModelError` for attention over `longest` tokens that is more than a scaled dot product."""
    window = options.get("sliding_window")
    if window is not None and window < longest:
        raise ModelError(f"a sliding attention window ({window} tokens, {longest} in use) is not supported; shorten it")
    odd = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if odd:
        raise ModelError(f"attention with {odd[0]} is not supported; use a Llama, Qwen or Mistral model")


AttentionInterface.register(_NAME, _attention)
