"""The backbone's forward pass over segments of a token tree, with gradient.

Segments are laid end to end and go through the linear layers as one row; in attention each sees its ancestors and
itself. Query heads of a group stand side by side, so that keys are never repeated.

Shapes: N tokens of all segments, n of one, P tokens of its past, E hidden size, H key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface

from agemem_dspy.optimizers.tree import Segment
from agemem_dspy.policy.ragged import attend_grouped, causal_mask, refuse_odd_attention

_NAME = "agemem_packed"
Memory = dict[int, tuple[torch.Tensor, torch.Tensor]]  # layer -> keys and values (H, tokens, D)


@dataclass(slots=True)
class _Plan:
    segments: Sequence[Segment]
    masks: list[torch.Tensor]
    trunk: Memory | None
    computed: Memory = field(default_factory=dict)


def forward(backbone: Any, segments: Sequence[Segment], trunk: Memory | None = None) -> tuple[torch.Tensor, Memory]:
    """Return the hidden states (N, E) of segments and the keys and values computed for them.

    Args:
        backbone: a causal LM of transformers without its vocabulary head.
        segments: leaves, or the whole trunk in order.
        trunk: keys and values of the trunk; left out for the trunk itself, and where there is none.

    Raises:
        ModelError: the model's attention does something that is not computed here.
    """
    device, config = backbone.device, backbone.config
    groups = config.num_attention_heads // config.num_key_value_heads
    ids = torch.cat([torch.from_numpy(segment.ids) for segment in segments])[None].to(device)
    positions = torch.cat([torch.arange(s.start, s.start + len(s.ids)) for s in segments])[None].to(device)
    masks = [causal_mask(len(s.ids), s.start, groups, backbone) for s in segments]
    plan = _Plan(segments, masks, trunk)
    usual = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        output = backbone(input_ids=ids, position_ids=positions, use_cache=False, packed=plan)
    finally:
        config._attn_implementation = usual
    return output.last_hidden_state[0], plan.computed


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Predictions from some distinct `places` of the hidden states; `rows` says for each which of them, (m,)."""

    places: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor
    owners: torch.Tensor


def predictions(segments: Sequence[Segment], max_places: int) -> Iterator[Predictions]:
    """Yield the predictions made from segments laid end to end, those from `max_places` positions at a time."""
    starts = np.cumsum([0, *(len(segment.ids) for segment in segments)])
    at = [np.array(s.offsets, dtype=np.int64) + start for s, start in zip(segments, starts[:-1], strict=True)]
    targets = np.array([target for segment in segments for target in segment.targets], dtype=np.int64)
    owners = np.array([owner for segment in segments for owner in segment.owners], dtype=np.int64)
    places, rows = np.unique(np.concatenate(at), return_inverse=True)  # calls that share a token share its logits
    for first in range(0, len(places), max_places):
        here = (rows >= first) & (rows < first + max_places)
        columns = (places[first : first + max_places], rows[here] - first, targets[here], owners[here])
        yield Predictions(*(torch.from_numpy(column) for column in columns))


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    packed: _Plan,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend per segment; query (1, heads, N, D), key and value (1, H, N, D); return (1, N, heads, D)."""
    refuse_odd_attention(options, max(segment.start + len(segment.ids) for segment in packed.segments))
    layer: Any = module.layer_idx
    packed.computed[layer] = key[0], value[0]
    past_keys, past_values = (packed.trunk or packed.computed)[layer]
    outputs, at = [], 0
    for segment, mask in zip(packed.segments, packed.masks, strict=True):
        own = slice(at, at + len(segment.ids))
        keys = torch.cat([*(past_keys[:, a:b] for a, b in segment.past), key[0, :, own]], dim=1)
        values = torch.cat([*(past_values[:, a:b] for a, b in segment.past), value[0, :, own]], dim=1)
        outputs.append(attend_grouped(query[0, :, own], keys, values, mask, scaling))
        at = own.stop
    return torch.cat(outputs, dim=1).transpose(0, 1)[None], None


AttentionInterface.register(_NAME, _attention)
