"""Rows: samples laid out for a padded forward pass, as a tiny model is pretrained.

Where a call's prompt continues an earlier call token for token, both go into one row; a context edit starts a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agemem_dspy.optimizers.tree import Sample


@dataclass(slots=True)
class Row:
    """A token sequence and the samples whose completions lie in it, each with where it starts."""

    ids: NDArray[np.int64]
    samples: list[Sample] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def accepts(self, sample: Sample) -> bool:
        """Tell whether the sample's prompt continues this row token for token."""
        n = len(self.ids)
        return len(sample.prompt_ids) >= n and bool((sample.prompt_ids[:n] == self.ids).all())

    def extend(self, sample: Sample) -> None:
        """Append the sample's completion."""
        self.samples.append(sample)
        self.starts.append(len(sample.prompt_ids))
        self.ids = np.concatenate([sample.prompt_ids, sample.completion_ids])


def pack(trajectories: Sequence[Sequence[Sample]]) -> list[Row]:
    """Lay out each trajectory's samples, in order, in as few rows as exactness allows."""
    rows = []
    for samples in trajectories:
        own: list[Row] = []
        for sample in samples:
            row = next((row for row in own if row.accepts(sample)), None)
            if row is None:
                row = Row(ids=sample.prompt_ids)
                own.append(row)
            row.extend(sample)
        rows += own
    return rows


def batches(rows: Sequence[Row], max_tokens: int, prefix: int = 0) -> list[list[Row]]:
    """Split rows into micro-batches of similar length with at most `max_tokens` padded tokens each.

    The first `prefix` tokens of a row are computed elsewhere and do not count.
    """
    result: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if result and (len(result[-1]) + 1) * (len(row.ids) - prefix) <= max_tokens:
            result[-1].append(row)
        else:
            result.append([row])
    return result


def shared_prefix(rows: Sequence[Row]) -> int:
    """Return how many leading tokens all rows share, ending before any row's first predicted token."""
    limit = min(row.starts[0] - 1 for row in rows)
    first = rows[0].ids[:limit]
    for row in rows[1:]:
        differs = np.flatnonzero(row.ids[:limit] != first[:limit])
        if len(differs):
            limit = int(differs[0])
    return limit
