"""Supervised epochs over samples: what the warm start and DSPy's fine-tuning jobs share."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.optimizers.training import rate_at
from agemem_dspy.optimizers.tree import Sample


def supervise(
    trainer: PolicyTrainer,
    trajectories: Sequence[list[Sample]],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    on_step: Callable[[int, int, float], None],
) -> None:
    """Take optimizer steps on batches of trajectories, reshuffled every epoch.

    Args:
        trajectories: each one's samples in order; a token counts by its sample's weight.
        epochs: passes over them.
        batch_size: trajectories in one step.
        on_step: called with the step, from 1, the number of steps and the step's mean loss a token (nats).
    """
    waiting, order = list(trajectories), random.Random(seed)
    steps = epochs * -(-len(waiting) // batch_size)
    step = 0
    for _ in range(epochs):
        order.shuffle(waiting)
        for i in range(0, len(waiting), batch_size):
            loss = trainer.imitate(shares(waiting[i : i + batch_size]), rate=rate_at(step, steps))
            step += 1
            on_step(step, steps, loss)


def shares(batch: Sequence[Sequence[Sample]]) -> list[list[Sample]]:
    """Divide the weights so that those of all tokens in the batch sum to 1."""
    total = sum(sample.weight * len(sample.completion_ids) for samples in batch for sample in samples)
    return [[replace(sample, weight=sample.weight / total) for sample in samples] for samples in batch]
