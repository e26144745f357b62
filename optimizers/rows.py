"""Samples and rows: completions as the sampler made them, laid out for a forward pass.

A `Sample` is one LM call. Where a call's prompt continues an earlier call token for token (nothing was
filtered or summarized in between), both go into one row and their common part is computed once; a context
edit starts a new row. The loss is the same as with a row for every call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agemem_dspy.types import Completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One LM call to learn from: prompt (P,), completion (T,), the sampler's log-probs (T,).

    `advantage` is the trajectory's, `weight` what each of the T tokens counts in the update's sum.
    """

    prompt_ids: NDArray[np.int64]
    completion_ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    advantage: float
    weight: float

    @classmethod
    def of(cls, completion: Completion, *, advantage: float, weight: float) -> Sample:
        """Take a taped completion as it is."""
        return cls(
            prompt_ids=np.array(completion.prompt_ids, dtype=np.int64),
            completion_ids=np.array(completion.completion_ids, dtype=np.int64),
            logprobs=np.array(completion.logprobs, dtype=np.float64),
            advantage=advantage,
            weight=weight,
        )


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
