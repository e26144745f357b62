"""The reward terms, by example and by property, and on every shipped example."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trajectories import (
    ADD,
    AIRPORT,
    DELETE,
    DIET,
    FILTER,
    OLD_DIET,
    PIN,
    RETRIEVE,
    SUMMARIZE,
    UPDATE,
    add,
    delete,
    gold_events,
    honest_events,
    honest_trajectory,
    make_event,
    make_example,
    make_step,
    make_trajectory,
    retrieve,
    update,
)

from agemem_dspy.data import load_dataset
from agemem_dspy.errors import RewardError
from agemem_dspy.rewards import CONTEXT_TERMS, MEMORY_TERMS, STAGE_TERMS, TERMS, RewardWeights, TrajectoryReward
from agemem_dspy.scoring import carries
from agemem_dspy.types import Stage, StopReason, ToolEvent, Trajectory


def terms(*events: ToolEvent, example: Any = None, **changes: Any) -> dict[str, float]:
    return TrajectoryReward().terms(example or make_example(), make_trajectory(*events, **changes))


def test_a_long_sentence_that_half_covers_a_fact_does_not_take_it_from_the_entry_that_states_it() -> None:
    long = "Ana Roth is a professional chess player who trains with the chess club of Bergen in Norway"
    short = "The chess club of Bergen is in the old town"
    assert carries(short, long)
    example = make_example(facts=[long, short], operations=[])
    for order in ((long, short), (short, long)):
        found = terms(*(add(text) for text in order), example=example)
        assert (found["storage"], found["memory_quality"]) == (1.0, 1.0)


def test_a_stage_is_judged_by_what_its_steps_can_change() -> None:
    metric = TrajectoryReward(RewardWeights(task=0.5, context=0.3, memory=0.2))
    unanswered = metric.terms(make_example(), make_trajectory(answer=None, stop=StopReason.ROUND_LIMIT))
    assert (unanswered["task"], unanswered["penalty"]) == (-1.0, -1.0)
    parts = {stage: metric.stage_reward(unanswered, stage) for stage in Stage}
    assert parts[Stage.CONSTRUCT] == pytest.approx(0.2 / 3 * (unanswered["storage"] + unanswered["maintenance"]))
    assert parts[Stage.REASON] < -1.4
    cleared = {**unanswered, "preventive": unanswered["preventive"] + 1}
    gained = {stage: metric.stage_reward(cleared, stage) - part for stage, part in parts.items()}
    assert gained == pytest.approx({Stage.CONSTRUCT: 0.0, Stage.CONTROL: 0.1, Stage.REASON: 0.1})


def test_storing_nothing_is_no_merit_of_stage_1_where_nothing_is_known() -> None:
    """A policy that was credited with such answers cleared every message away within three steps of GRPO."""
    told = [{"turn": 1, "tool": ADD, "content": PIN}, {"turn": 3, "tool": DELETE, "old": PIN}]
    example = make_example(facts=[], support=[], key_items=[], operations=told, answer="I don't know")
    idle = make_trajectory(answer={"answer": "I don't know"})
    stored = make_trajectory(add(PIN, key="1", turn=1), answer={"answer": "4711"})
    metric = TrajectoryReward()
    assert metric.terms(example, idle)["reward"] > metric.terms(example, stored)["reward"]
    credit = [metric.stage_reward(metric.terms(example, one), Stage.CONSTRUCT) for one in (idle, stored)]
    assert credit == [0.0, 0.0]
    unweighted = TrajectoryReward("answer_only")
    assert unweighted.stage_reward(unweighted.terms(example, idle), Stage.CONSTRUCT) == 1.0


def one_event_a_step(played: Trajectory) -> Trajectory:
    return replace(played, steps=tuple(make_step(event, stage=event.stage) for event in played.events))


@pytest.mark.parametrize("weights", ["paper", "answer_only"])
def test_what_the_steps_gain_is_the_reward_less_what_doing_nothing_earns(weights: Any) -> None:
    metric, played = TrajectoryReward(weights), one_event_a_step(honest_trajectory())
    gains = metric.step_gains(make_example(), played)
    assert len(gains) == len(played.steps) > 5
    nothing = metric.terms(make_example(), make_trajectory())
    earned = sum(nothing[name] for name in ("preventive", "storage", "maintenance", "relevance")) / 9
    assert sum(gains) + earned * (weights == "paper") == pytest.approx(metric.terms(make_example(), played)["reward"])
    assert any(gains[:-1]) == (weights == "paper")  # the answer counts with the last step


def test_a_step_gains_by_what_it_did_itself() -> None:
    events = [add(AIRPORT), add("the weather is fine", turn=1), add(DIET, turn=2, ok=False), make_event(PIN, turn=3)]
    events.append(make_event(FILTER, "a joke", stage=2, tokens=(100, 50)))
    first, junk, failed, unknown, cleared, _ = TrajectoryReward().step_gains(
        make_example(), one_event_a_step(make_trajectory(*events, retrieve(AIRPORT)))
    )
    assert first == pytest.approx(1 / 9)  # storage
    assert junk == pytest.approx(-1 / 18)  # half of what is stored is of use
    assert (failed, unknown) == (0.0, 0.0)
    assert cleared == pytest.approx(1 / 9)  # preventive


def test_every_term_is_some_stages_doing() -> None:
    assert set(TERMS) == {name for names in STAGE_TERMS.values() for name in names}


def test_an_honest_trajectory_earns_everything_but_its_tokens() -> None:
    found = TrajectoryReward().terms(make_example(), honest_trajectory())
    assert found.pop("compression") == pytest.approx(0.9)
    assert found.pop("reward") == pytest.approx(1 - 0.1 / 9)
    assert found.pop("penalty") == 0.0
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize("stop", StopReason)
def test_only_giving_up_without_an_answer_is_penalised(stop: StopReason) -> None:
    gave_up = stop in (StopReason.ROUND_LIMIT, StopReason.UNREADABLE)
    assert terms(answer="Lisbon", stop=stop)["penalty"] == 0.0
    assert terms(answer=None, stop=stop)["penalty"] == (-1.0 if gave_up else 0.0)


def test_compression_never_leaves_its_range_and_needs_a_limit() -> None:
    assert terms(tokens=9000)["compression"] == 0.0
    assert terms(tokens=0)["compression"] == 1.0
    with pytest.raises(RewardError, match="compression.*T_max"):
        terms(limit=0)


def test_prevention_must_come_before_the_overflow() -> None:
    cut = make_event(SUMMARIZE, "a", "b", stage=2, tokens=(300, 100))
    late = make_event(ADD, "x", ids=("x",), tokens=(9000, 9000))
    assert terms(cut, late)["preventive"] == 1.0
    assert terms(late, cut)["preventive"] == 0.0
    assert terms(make_event(FILTER, "a", stage=2, tokens=(9000, 100)))["preventive"] == 0.0


def test_preservation_is_the_share_of_key_items_in_context() -> None:
    example = make_example(key_items=["Lisbon", "7:30"])
    assert terms(example=example, context=["m1: home airport Lisbon"])["preservation"] == 0.5
    assert terms(example=make_example(key_items=[]))["preservation"] == 1.0


def test_storage_keeps_the_credit_of_what_the_user_revoked() -> None:
    events = [add(OLD_DIET, key="2", turn=1), add(PIN, key="3", turn=1), add(AIRPORT, turn=0)]
    assert terms(*events)["storage"] == pytest.approx(1 / 3)
    replaced = [*events, update("2", OLD_DIET, DIET, turn=2), delete("3", PIN, turn=3)]
    assert terms(*replaced)["storage"] == 1.0
    moved = [*events, delete("2", OLD_DIET, turn=2), add(DIET, key="4", turn=2), delete("3", PIN, turn=3)]
    assert terms(*moved)["storage"] == 1.0


def test_storing_nothing_is_right_only_when_there_is_nothing_to_store() -> None:
    assert terms()["storage"] == 0.0
    assert terms(example=make_example(facts=[], operations=[]))["storage"] == 1.0


def test_storage_looks_at_the_end_of_stage_1() -> None:
    assert terms(add(AIRPORT, key="1"), delete("1", AIRPORT, stage=2))["storage"] == 1.0
    assert terms(add(AIRPORT, key="1"), delete("1", AIRPORT, stage=1))["storage"] == 0.0


def test_maintenance_is_the_share_of_due_changes_done() -> None:
    stored = [add(AIRPORT, turn=0), add(OLD_DIET, key="2", turn=1), add(PIN, key="3", turn=1)]
    assert terms(*stored)["maintenance"] == 0.0
    assert terms(*stored, delete("3", PIN, turn=3))["maintenance"] == 0.5
    assert terms(*stored, update("2", OLD_DIET, "diet: fish", turn=2))["maintenance"] == 0.0
    assert terms(*stored, delete("2", OLD_DIET, turn=2), add(DIET, turn=2))["maintenance"] == 0.5
    assert terms(*stored, update("2", OLD_DIET, DIET, turn=2), delete("3", PIN, turn=3))["maintenance"] == 1.0


def test_maintenance_before_its_turn_is_luck_and_earns_nothing() -> None:
    stored = [add(OLD_DIET, key="2", turn=1), add(PIN, key="3", turn=1)]
    assert terms(*stored, delete("3", PIN, turn=2))["maintenance"] == 0.0


def test_a_value_that_comes_back_is_not_stale() -> None:
    """Somebody else comes along, and then the first friend after all."""
    first, second = "travel companion: Hakan", "travel companion: Kamil"
    example = make_example(
        facts=[first],
        operations=[
            {"turn": 0, "tool": ADD, "content": first},
            {"turn": 1, "tool": UPDATE, "content": second, "old": first},
            {"turn": 2, "tool": UPDATE, "content": first, "old": second},
        ],
    )
    there = update("m1", first, second, turn=1)
    back = update("m1", second, first, turn=2)
    assert terms(add(first, key="m1"), there, back, example=example)["maintenance"] == 1.0
    assert terms(add(first, key="m1"), there, example=example)["maintenance"] < 1.0
    assert terms(add(first, key="m1"), example=example)["maintenance"] == 0.0


def test_maintenance_without_anything_due_pays_for_keeping_what_was_stored() -> None:
    example = make_example(facts=[AIRPORT], operations=[{"turn": 0, "tool": ADD, "content": AIRPORT}])
    assert terms(example=example)["maintenance"] == 0.0
    assert terms(add(AIRPORT, key="1"), example=example)["maintenance"] == 1.0
    assert terms(add(AIRPORT, key="1"), delete("1", AIRPORT), example=example)["maintenance"] == 0.0
    merged = update("1", AIRPORT, "home airport: Lisbon, window seat")
    assert terms(add(AIRPORT, key="1"), merged, example=example)["maintenance"] == 1.0


def test_removing_a_copy_of_a_fact_that_stays_stored_is_no_harm() -> None:
    example = make_example(facts=[AIRPORT], operations=[{"turn": 0, "tool": ADD, "content": AIRPORT}])
    copies = [add(AIRPORT, key="1"), add(AIRPORT, key="2")]
    assert terms(*copies, delete("2", AIRPORT), example=example)["maintenance"] == 1.0
    assert terms(*copies, update("2", AIRPORT, "diet: fish"), example=example)["maintenance"] == 1.0


def test_relevance_is_the_share_of_supporting_entries() -> None:
    assert terms(retrieve(AIRPORT, DIET))["relevance"] == 0.5
    assert terms(retrieve(AIRPORT), retrieve(AIRPORT, DIET, PIN))["relevance"] == pytest.approx(1 / 3)
    assert terms(retrieve())["relevance"] == 0.0
    unknown = make_example(support=[], answer="I don't know")
    assert terms(example=unknown)["relevance"] == 0.0
    assert terms(retrieve(DIET), example=unknown)["relevance"] == 1.0


def test_memory_quality_is_f1() -> None:
    assert terms(add(AIRPORT), add("junk"))["memory_quality"] == pytest.approx(0.5)
    assert terms()["memory_quality"] == 0.0
    assert terms(example=make_example(facts=[]))["memory_quality"] == 1.0


def test_answers_with_several_fields_are_averaged_over_the_labelled_ones() -> None:
    example = make_example(city="Porto")
    assert terms(answer={"answer": "Lisbon", "city": "Faro", "reasoning": "x"}, example=example)["answer"] == 0.5
    assert terms(answer={"response": "Lisbon"})["answer"] == 1.0
    with pytest.raises(RewardError, match=r"labels none of the answer's fields \['a', 'b'\]"):
        terms(answer={"a": "x", "b": "y"})


def test_several_gold_answers_count_the_best() -> None:
    assert terms(example=make_example(answer=["LIS", "Lisbon"]))["answer"] == 1.0


TEXTS = st.sampled_from([AIRPORT, DIET, OLD_DIET, PIN, "junk", "diet: fish", ""])
KEYS = st.sampled_from(["1", "2", "3"])


@st.composite
def event_logs(draw: st.DrawFn) -> list[ToolEvent]:
    events: list[ToolEvent] = []
    for number in range(draw(st.integers(0, 8))):
        tool = draw(st.sampled_from([ADD, UPDATE, DELETE, RETRIEVE, FILTER, SUMMARIZE, "", "web_search"]))
        text = draw(TEXTS)
        key = f"new{number}" if tool == ADD else draw(KEYS | st.just("new0"))
        event = make_event(
            tool,
            text,
            ids=(key,),
            stage=draw(st.integers(1, 3)),
            turn=draw(st.integers(0, 4)),
            ok=draw(st.booleans()),
            automatic=draw(st.booleans()),
            detail=draw(TEXTS),
            tokens=(draw(st.integers(0, 9000)), draw(st.integers(0, 9000))),
        )
        events.append(event)
    return events


@given(event_logs(), st.sampled_from(["Lisbon", "Porto", "I don't know", "", None]), st.integers(0, 20000))
def test_every_term_stays_in_its_range(events: list[ToolEvent], answer: str | None, tokens: int) -> None:
    found = terms(*events, answer=answer, tokens=tokens)
    for name in (*CONTEXT_TERMS, *MEMORY_TERMS, "answer", "memory_quality"):
        assert 0.0 <= found[name] <= 1.0, name
    assert -1.0 <= found["task"] <= 1.0
    assert found["penalty"] in (0.0, -0.5, -1.0, -1.5)
    assert -1 / 3 - 1.5 <= found["reward"] <= 1.0 + 1e-9


@given(event_logs(), st.lists(st.tuples(st.integers(0, 8), st.sampled_from([ADD, UPDATE, DELETE, RETRIEVE, FILTER]))))
def test_failed_events_change_nothing_wherever_they_stand(
    events: list[ToolEvent], failures: list[tuple[int, str]]
) -> None:
    mixed = list(events)
    for place, tool in failures:
        mixed.insert(place, make_event(tool, AIRPORT, ids=("1",), stage=3, ok=False))
    assert terms(*mixed) == terms(*events)


@given(event_logs())
def test_the_reward_reads_the_log_and_not_the_steps(events: list[ToolEvent]) -> None:
    trajectory = make_trajectory(*events)
    wiped = replace(trajectory, steps=())
    reward = TrajectoryReward()
    assert reward.terms(make_example(), wiped) == reward.terms(make_example(), trajectory)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_gold_operations_of_every_shipped_example_earn_full_marks(split: str) -> None:
    reward = TrajectoryReward()
    for example in load_dataset(f"assistant:{split}"):
        found = reward.terms(example, _gold(example))
        short = {name: value for name, value in found.items() if value < 1 and name not in _NOT_FULL}
        assert not short, example.id


def test_leaving_out_any_gold_operation_costs_reward_or_memory_quality() -> None:
    reward = TrajectoryReward()
    tried = 0
    for example in load_dataset("assistant:val", limit=60)[::3]:
        full = reward.terms(example, _gold(example))
        for place in range(len(example.operations)):
            kept = [one for number, one in enumerate(example.operations) if number != place]
            if any(one.get("old") == example.operations[place].get("content") for one in kept):
                continue  # a later operation needs this one
            less = reward.terms(example, _gold(example.copy(operations=kept)))
            assert less["reward"] + less["memory_quality"] < full["reward"] + full["memory_quality"], example.id
            tried += 1
    assert tried > 20


_NOT_FULL = ("compression", "penalty", "reward")


def _gold(example: dspy.Example) -> Trajectory:
    return make_trajectory(*gold_events(example), answer=example.answer, context=example.support)


@pytest.mark.parametrize("skipped", [(0, 6), (1, 3), (2, 4), (3,), (4,), (5,), (6,)])
def test_every_part_of_an_honest_log_is_worth_its_while(skipped: tuple[int, ...]) -> None:
    kept = [event for place, event in enumerate(honest_events()) if place not in skipped]
    context = [event.contents[0] for event in kept if event.tool == RETRIEVE]
    reward = TrajectoryReward()
    less = reward.terms(make_example(), make_trajectory(*kept, context=context))
    assert less["reward"] < reward.terms(make_example(), honest_trajectory())["reward"]
