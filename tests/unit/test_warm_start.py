"""The weights of the warm start: what counts how much, and that no reply is favoured by its length."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_dspy.optimizers.supervised import shares
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.optimizers.warm_start import _weighed
from agemem_dspy.types import Stage

QUESTION, READ = (Stage.REASON, "question"), (Stage.REASON, "retrieved")


def sample(length: int) -> Sample:
    ids = np.arange(length)
    return Sample(prompt_ids=ids, completion_ids=ids, logprobs=np.zeros(length), advantage=1.0, weight=1.0)


def test_a_short_answer_counts_as_much_as_a_long_call() -> None:
    (steps,) = shares(_weighed([[(QUESTION, sample(40)), (READ, sample(4))]]))
    assert [one.weight * len(one.completion_ids) for one in steps] == pytest.approx([0.5, 0.5])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from([QUESTION, READ]), st.integers(1, 40)), min_size=1), min_size=1))
def test_within_a_situation_every_token_weighs_the_same(played: list[list[tuple[tuple[Stage, str], int]]]) -> None:
    weighed = _weighed([[(situation, sample(length)) for situation, length in steps] for steps in played])
    for situation in (QUESTION, READ):
        own = [
            one.weight
            for steps, samples in zip(played, weighed, strict=True)
            for (at, _), one in zip(steps, samples, strict=True)
            if at == situation
        ]
        assert own == pytest.approx(own[:1] * len(own))
    total = sum(one.weight * len(one.completion_ids) for samples in shares(weighed) for one in samples)
    assert total == pytest.approx(1.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40))
def test_the_best_policy_chooses_as_often_as_the_teacher(calls: int, length: int, other: int) -> None:
    """Two replies that part at their first token, given `calls` times in ten and otherwise."""
    weighed = shares(_weighed([[(QUESTION, sample(length))]] * calls + [[(QUESTION, sample(other))]] * (10 - calls)))
    weights = torch.tensor([samples[0].weight for samples in weighed], dtype=torch.float64)
    share = calls / 10
    logits = torch.tensor([math.log(share), math.log(1 - share)], dtype=torch.float64, requires_grad=True)
    first = torch.log_softmax(logits, dim=0)
    loss = -(weights[:calls].sum() * first[0] + weights[calls:].sum() * first[1])
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().max() < 1e-9
