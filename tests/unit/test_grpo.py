"""Advantages, weights and the loss against numpy and against what can be said of them in general."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.grpo import (
    SCALES,
    Scale,
    gains_to_go,
    group_advantages,
    step_weights,
    stepwise_grpo_loss,
)

rewards = st.lists(st.integers(-20, 20).map(lambda n: n / 10), min_size=2, max_size=8)
lengths = st.lists(st.lists(st.integers(1, 30), max_size=4), min_size=1, max_size=5).filter(any)


# Advantages


@settings(max_examples=50, deadline=None)
@given(rewards)
def test_advantages_are_standard_scores_with_the_sample_deviation(values: list[float]) -> None:
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    expected = np.zeros(len(values)) if len(set(values)) == 1 else (np.array(values) - mean) / (deviation + 1e-6)
    assert group_advantages(values) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(rewards, st.floats(0, 1))
def test_gains_to_go_are_discounted_sums_of_what_comes_after(gains: list[float], lam: float) -> None:
    rest = [sum(lam**later * gain for later, gain in enumerate(gains[s:])) for s in range(len(gains))]
    assert gains_to_go(gains, lam) == pytest.approx(rest)
    assert gains_to_go(gains, 0.0) == pytest.approx(gains)
    assert gains_to_go(gains, 1.0)[0] == pytest.approx(sum(gains))


def test_the_deviation_is_the_sample_one() -> None:
    assert group_advantages([0.0, 1.0], eps=0.0) == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)])


@settings(max_examples=50, deadline=None)
@given(rewards, st.floats(-50, 50), st.floats(0.5, 50))
def test_advantages_do_not_depend_on_shift_and_positive_scale(values: list[float], shift: float, scale: float) -> None:
    moved = [scale * value + shift for value in values]
    assert group_advantages(moved) == pytest.approx(group_advantages(values), abs=1e-3)
    assert group_advantages(moved, eps=0.0) == pytest.approx(group_advantages(values, eps=0.0), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-10, 10), st.integers(1, 9)), min_size=2, max_size=8))
def test_over_steps_long_trajectories_weigh_more(group: list[tuple[float, int]]) -> None:
    values, steps = [value for value, _ in group], [count for _, count in group]
    found = group_advantages(values, steps_G=steps)
    flat = np.array([value for value, count in group for _ in range(count)])
    if np.ptp(flat) <= 1e-9 * max(1.0, np.abs(flat).max()):
        assert not found.any()
    elif np.ptp(flat) > 1e-6:
        assert found == pytest.approx((np.array(values) - flat.mean()) / (flat.std(ddof=1) + 1e-6))
        assert float(np.dot(found, steps)) == pytest.approx(0.0, abs=1e-6)
    assert group_advantages(values, steps_G=[3] * len(values)) == pytest.approx(
        (np.array(values) - np.mean(values)) / (np.repeat(values, 3).std(ddof=1) + 1e-6) * bool(found.any())
    )


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 1e6])
def test_ties_have_no_advantage(value: float) -> None:
    assert group_advantages([value] * 7).tolist() == [0.0] * 7


def test_a_tie_up_to_rounding_is_a_tie() -> None:
    assert not group_advantages([0.1 + 0.2, 0.3, 0.3]).any()
    assert group_advantages([0.3, 0.3, 0.3001]).any()


@pytest.mark.parametrize("values", [[], [1.0]])
def test_a_group_of_fewer_than_two_is_refused(values: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="set num_generations to 2 or more"):
        group_advantages(values)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rewards_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ConfigurationError, match="must be finite"):
        group_advantages([0.0, bad, 1.0])


# Weights


@settings(max_examples=50, deadline=None)
@given(lengths, st.sampled_from(SCALES))
def test_the_weights_of_all_tokens_sum_to_one(steps: list[list[int]], scale: Scale) -> None:
    weights = step_weights(steps, scale)
    assert [len(own) for own in weights] == [len(own) for own in steps]
    total = sum(w * n for own, ns in zip(weights, steps, strict=True) for w, n in zip(own, ns, strict=True))
    assert total == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("call", [[1 / 6, 1 / 12], [1 / 30]]),  # three calls, a third each
        ("token", [[1 / 16, 1 / 16], [1 / 16]]),
        ("trajectory", [[1 / 12, 1 / 12], [1 / 20]]),  # two trajectories, a half each
    ],
)
def test_what_weighs_equally(scale: Scale, expected: list[list[float]]) -> None:
    weights = step_weights([[2, 4], [10]], scale)
    assert [pytest.approx(own) for own in expected] == weights


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.1, 0.9), st.floats(-1, 1), st.floats(-1, 1))
def test_a_choice_between_actions_of_any_length_has_the_policy_gradient(
    short: int, long: int, p: float, reward_a: float, reward_b: float
) -> None:
    """Two actions that part at their first token, its rest certain, each played as often as the policy plays it."""
    logits = torch.tensor([math.log(p), math.log(1 - p)], dtype=torch.float64, requires_grad=True)
    mean = p * reward_a + (1 - p) * reward_b
    (weights,) = step_weights([[short, long]], "token")
    logp = torch.log_softmax(logits, dim=0)
    played = torch.tensor([p, 1 - p], dtype=torch.float64)
    advantages = torch.tensor([reward_a - mean, reward_b - mean], dtype=torch.float64)
    parts = stepwise_grpo_loss(logp, logp.detach(), advantages, played * torch.tensor(weights, dtype=torch.float64))
    parts.loss.backward()  # type: ignore[no-untyped-call]
    gradient = logits.grad
    assert gradient is not None
    uphill = p * (1 - p) * (reward_a - reward_b)  # d E[r] / d logit of the first action
    assert (-gradient * (short + long)).tolist() == pytest.approx([uphill, -uphill], abs=1e-9)


def test_an_unknown_scale_is_refused() -> None:
    unknown: Any = "step"
    with pytest.raises(ConfigurationError, match="not 'step'"):
        step_weights([[1]], unknown)


# Loss


def loss(ratios: list[float], advantages: list[float], **options: Any) -> tuple[float, Any, torch.Tensor]:
    logp = torch.tensor(ratios, dtype=torch.float64).log().requires_grad_()
    n = len(ratios)
    weights = torch.full((n,), 1 / n, dtype=torch.float64)
    parts = stepwise_grpo_loss(
        logp, torch.zeros_like(logp), torch.tensor(advantages, dtype=torch.float64), weights, **options
    )
    value = float(parts.loss.detach())
    parts.loss.backward()
    assert logp.grad is not None
    return value, parts, logp.grad


def test_the_clip_bounds_only_what_would_go_further() -> None:
    ratios, advantages = [1.5, 1.5, 0.5, 0.5, 1.1], [1.0, -1.0, 1.0, -1.0, 1.0]
    value, parts, gradient = loss(ratios, advantages, clip=0.2)
    assert value == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8 + 1.1) / 5)
    assert gradient.tolist() == pytest.approx([0.0, 1.5 / 5, -0.5 / 5, 0.0, -1.1 / 5])
    assert parts.clipped == pytest.approx(2 / 5)
    assert parts.ratio == pytest.approx(sum(ratios) / 5)


def test_without_a_clip_it_is_the_plain_surrogate() -> None:
    value, parts, gradient = loss([1.5, 0.5], [1.0, -1.0], clip=None)
    assert value == pytest.approx(-0.5)
    assert gradient.tolist() == pytest.approx([-0.75, 0.25])
    assert parts.clipped == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6), st.floats(0.01, 2))
def test_the_kl_is_k3_and_never_negative(gaps: list[float], beta: float) -> None:
    reference = torch.tensor(gaps, dtype=torch.float64)
    value, parts, gradient = loss([1.0] * len(gaps), [0.0] * len(gaps), ref_logp_N=reference, beta=beta)
    expected = np.mean([math.exp(gap) - gap - 1 for gap in gaps])
    assert parts.kl == pytest.approx(expected, abs=1e-9)
    assert parts.kl >= 0
    assert value == pytest.approx(beta * expected, abs=1e-9)
    assert gradient.tolist() == pytest.approx([beta * (1 - math.exp(gap)) / len(gaps) for gap in gaps])


def test_the_kl_estimate_is_unbiased() -> None:
    source = np.random.default_rng(0)
    policy, reference = source.dirichlet(np.ones(5)), source.dirichlet(np.ones(5))
    expected = float((policy * np.log(policy / reference)).sum())
    parts = stepwise_grpo_loss(
        torch.tensor(policy).log(),
        torch.tensor(policy).log(),
        torch.zeros(5, dtype=torch.float64),
        torch.tensor(policy),  # the expectation over what the policy samples
        ref_logp_N=torch.tensor(reference).log(),
        beta=1.0,
    )
    assert parts.kl == pytest.approx(expected)


def test_a_kl_without_a_reference_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="reference"):
        loss([1.0], [1.0], beta=0.1)
