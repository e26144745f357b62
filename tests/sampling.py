"""Rows sampled from start to end, for tests of what a batch gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from agemem_dspy.policy.generation import Batch, Row


def generate(model: PreTrainedModel, rows: Sequence[Row], *, stop_ids: frozenset[int], **options: Any) -> None:
    """Sample a completion for every row, in place; see `Batch`."""
    batch = Batch(model, stop_ids=stop_ids, **options)
    for row in rows:
        batch.admit(row)
    while len(batch):
        batch.step()
