"""Whatever the overflow guard does, the policy is paid for the context that it left itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dspy
import pytest
from fakes import Reply, answer, call, scripted_lm
from fakes_memory import InMemoryStore
from hypothesis import given, settings
from hypothesis import strategies as st
from trajectories import AIRPORT, FILTER, honest_events, make_event, make_example, make_step, make_trajectory

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.feedback import explain
from agemem_dspy.memory import HashEmbedder
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.programs.overflow import OnOverflow
from agemem_dspy.rewards import CONTEXT_TERMS, TrajectoryReward
from agemem_dspy.terms import by_guard
from agemem_dspy.types import OVERFLOW_GUARD, ToolEvent, Trajectory

LATE = make_step(stage=3)  # a step behind stage 1, after which the context begins anew


def guard(*contents: str, summary: str = "", tokens: tuple[int, int] = (0, 0), stage: int = 2) -> ToolEvent:
    return make_event(OVERFLOW_GUARD, *contents, stage=stage, detail=summary, tokens=tokens, automatic=True)


def terms(*events: ToolEvent, example: Any = None, **changes: Any) -> dict[str, float]:
    trajectory = make_trajectory(*honest_events(), *events, steps=(LATE,), **changes)
    return TrajectoryReward().terms(example or make_example(), trajectory)


TEXTS = st.lists(st.sampled_from(["It rained.", f"m1: {AIRPORT}", "Lisbon it is.", "Porto?", ""]), max_size=4)


@settings(max_examples=100, deadline=None)
@given(kept=TEXTS, gone=TEXTS, tokens=st.integers(0, 8000), freed=st.integers(0, 9000), wrote=st.booleans())
def test_the_terms_are_those_of_the_context_without_the_guard(
    kept: list[str], gone: list[str], tokens: int, freed: int, wrote: bool
) -> None:
    """Only `preventive` knows of the guard: it had to act, so nothing was prevented before."""
    summary = "summary: Lisbon, Porto, 4711" if wrote else ""
    event = guard(*gone, summary=summary, tokens=(tokens + freed, tokens))
    found = terms(event, tokens=tokens, context=[*([summary] if wrote else []), *kept])
    expected = terms(tokens=tokens + freed, context=[*gone, *kept])
    assert found == expected


def test_room_made_in_stage_1_has_no_part_in_the_later_context() -> None:
    event = guard(f"m1: {AIRPORT}", tokens=(9000, 100), stage=1)
    assert terms(event, context=[])["compression"] == terms(context=[])["compression"]
    assert terms(event, context=[])["preservation"] == 0.0
    only = make_trajectory(event, steps=(make_step(),), tokens=100)
    assert TrajectoryReward().terms(make_example(), only)["compression"] == 0.0


def test_what_is_cleared_after_the_guard_had_to_act_prevents_nothing() -> None:
    clears = make_event(FILTER, "small talk", stage=3, tokens=(300, 250))
    events = [event for event in honest_events() if event.tool != FILTER]

    def preventive(*more: ToolEvent) -> float:
        trajectory = make_trajectory(*events, *more, steps=(LATE,))
        return TrajectoryReward().terms(make_example(), trajectory)["preventive"]

    assert preventive(clears) == preventive(clears, guard("x", tokens=(7990, 6000))) == 1.0
    assert preventive(guard("x", tokens=(7990, 6000)), clears) == 0.0
    assert preventive(guard("x", tokens=(7990, 6000))) == 0.0


RAIN = [f"{n}: it rained on {n} days and the {n} o'clock train was late. " for n in range(1, 6)]
DISTRACTORS = [text * 8 for text in RAIN]
EXAMPLE = make_example(
    messages=["My home airport is Lisbon."],
    distractors=DISTRACTORS,
    facts=[AIRPORT],
    operations=[{"turn": 0, "tool": "add_memory", "content": AIRPORT}],
)
FIND: list[Reply] = [call("retrieve_memory", query="home airport"), answer("Lisbon")]


def play(script: list[Reply], mode: OnOverflow, limit: int = 650) -> tuple[Trajectory, dict[str, float]]:
    agent = AgeMemAgent(
        "question -> answer",
        memory=InMemoryStore(HashEmbedder()),
        adapter=CompactAdapter(),
        max_context_tokens=limit,
        on_overflow=mode,
    )
    replies = iter(script)

    def reply(prompt: str) -> Reply:
        return "Rain. Lisbon." if prompt.startswith("Shorten the conversation") else next(replies)

    with dspy.context(lm=scripted_lm(reply)):
        trajectory = ThreeStageEpisode(agent)(**EXAMPLE.inputs()).trajectory
    return trajectory, TrajectoryReward().terms(EXAMPLE, trajectory)


STORE: Reply = call("add_memory", content=AIRPORT)


def test_a_policy_that_lets_the_guard_act_earns_nothing_for_a_clean_context() -> None:
    idle, lazy = play([STORE, *[answer("ok")] * 5, *FIND], "drop_oldest")
    assert any(by_guard(event) for event in idle.events)
    assert idle.context_tokens < idle.max_context_tokens  # what it answers with is small, by no merit of its own
    assert (lazy["compression"], lazy["preventive"], lazy["penalty"]) == (0.0, 0.0, -0.5)
    busy, tidy = play([STORE, *[call("filter_context", criteria=text) for text in RAIN], *FIND], "drop_oldest")
    assert not any(by_guard(event) for event in busy.events)
    assert (tidy["preventive"], tidy["penalty"]) == (1.0, 0.0)
    assert tidy["compression"] > 0.0
    assert tidy["reward"] > lazy["reward"] + 0.5
    assert lazy["answer"] == tidy["answer"] == 1.0


def test_no_mode_pays_more_than_another() -> None:
    _, dropped = play([STORE, *[answer("ok")] * 5, *FIND], "drop_oldest")
    trajectory, summarized = play([STORE, *[answer("ok")] * 5, *FIND], "summarize")
    assert "guard" in [step.kind for step in trajectory.steps]
    assert {name: summarized[name] for name in CONTEXT_TERMS} == {name: dropped[name] for name in CONTEXT_TERMS}
    assert summarized == dropped


def test_a_policy_cannot_act_in_the_guards_name() -> None:
    script = [STORE, *[call(OVERFLOW_GUARD, limit=1), answer("ok")] * 5, *FIND]
    trajectory, forged = play(script, "drop_oldest", limit=8000)
    _, plain = play([STORE, *[answer("ok")] * 5, *FIND], "drop_oldest", limit=8000)
    written = [event for event in trajectory.events if event.tool == OVERFLOW_GUARD]
    assert len(written) == 5
    assert not any(event.ok or by_guard(event) for event in written)
    assert forged["compression"] <= plain["compression"]
    assert {**forged, "compression": 0, "reward": 0} == {**plain, "compression": 0, "reward": 0}


def test_the_feedback_says_whose_doing_it_was() -> None:
    trajectory, scores = play([STORE, *[answer("ok")] * 5, *FIND], "drop_oldest")
    removed = sum(len(event.contents) for event in trajectory.events if by_guard(event))
    told = explain(EXAMPLE, trajectory, scores)
    assert f"The context overflowed, and the system took {removed} messages out of it: filter or summarize" in told
    roomy = replace(trajectory, events=(), context_tokens=9000)
    assert "The context held 9000 tokens, over the limit of 650" in explain(EXAMPLE, roomy, scores)


@pytest.mark.parametrize("name", [OVERFLOW_GUARD, "Undo_edit"])
def test_no_tool_of_the_users_may_have_the_name_of_the_systems_doings(name: str) -> None:
    agent = AgeMemAgent("question -> answer", tools=[dspy.Tool(lambda: "x", name=name, desc="x", args={})])
    store = InMemoryStore(HashEmbedder())
    with pytest.raises(ConfigurationError, match="rename the tool"):
        agent.session(store)
