"""Runs that go wrong are seen."""

from __future__ import annotations

import math

import pytest
from trajectories import make_event, make_trajectory

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.grpo import group_advantages
from agemem_dspy.optimizers.grpo_config import GRPOConfig
from agemem_dspy.optimizers.monitor import ADVANTAGE_EDGES, FarmedTerms, describe_groups
from agemem_dspy.types import Group


def watch(answers: list[float], storage: list[float]) -> list[list[str]]:
    watcher = FarmedTerms(window=2)
    return [watcher.update({"answer": a, "storage": s}) for a, s in zip(answers, storage, strict=True)]


def test_a_term_that_rises_while_answers_fall_is_named_once() -> None:
    assert watch([0.5, 0.5, 0.4, 0.3, 0.3, 0.2], [0.1, 0.1, 0.2, 0.5, 0.6, 0.7]) == [[], [], [], ["storage"], [], []]


@pytest.mark.parametrize(
    ("answers", "storage"),
    [([0.2, 0.2, 0.5, 0.5], [0.1, 0.1, 0.9, 0.9]), ([0.5, 0.5, 0.2, 0.2], [0.4, 0.4, 0.5, 0.5]), ([0.5], [0.9])],
)
def test_what_rises_with_the_answers_or_hardly_is_not(answers: list[float], storage: list[float]) -> None:
    assert watch(answers, storage) == [[]] * len(answers)


def test_a_step_is_described_by_its_calls_answers_and_advantages() -> None:
    add, drop = make_event("add_memory", "x", ids=("x",)), make_event("filter_context", ok=False)
    group = Group(
        task="t",
        trajectories=(make_trajectory(add, drop), make_trajectory(add, add, answer=None), make_trajectory()),
        rewards=(1.0, 0.0, 0.0),
        terms=({"reward": 1.0}, {"reward": 0.0}, {"reward": 0.0}),
    )
    found = describe_groups([group])
    assert found["tools"] == {"add_memory": 3, "filter_context": 1}
    assert found["tool_entropy"] == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert found["tool_success"] == 0.75
    assert (found["parse_rate"], found["answer_rate"], found["tied_groups"]) == (1.0, None, 0)
    low, high = sorted(set(group_advantages(group.rewards).round(6).tolist()))
    bins = [sum(value >= edge for edge in ADVANTAGE_EDGES) for value in (low, high)]
    assert [found["advantages"][one] for one in bins] == [2, 1]
    assert sum(found["advantages"]) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resample": -1}, "must not be negative"),
        ({"dead_steps": 0}, "dead_steps at least 1"),
        ({"max_minutes": 0}, "max_minutes must be above 0"),
        ({"patience": 2}, "needs validate_every"),
        ({"patience": 0, "validate_every": 1}, "at least 1"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        GRPOConfig(**options)
