"""Ways to earn the reward without doing the work; none of them may pay (spec 6.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dspy
import pytest
from trajectories import (
    ADD,
    AIRPORT,
    DIET,
    FILTER,
    OLD_DIET,
    PIN,
    SUMMARIZE,
    add,
    delete,
    honest_events,
    honest_trajectory,
    make_event,
    make_example,
    make_step,
    make_trajectory,
    retrieve,
    update,
)

from agemem_dspy.errors import RewardError
from agemem_dspy.rewards import MEMORY_TERMS, TrajectoryReward
from agemem_dspy.types import StopReason, ToolEvent


def terms(*events: ToolEvent, example: Any = None, **changes: Any) -> dict[str, float]:
    return TrajectoryReward().terms(example or make_example(), make_trajectory(*events, **changes))


def honest_terms() -> dict[str, float]:
    return TrajectoryReward().terms(make_example(), honest_trajectory())


def plain_example(**changes: Any) -> dspy.Example:
    """Nothing to update or delete: two facts to add."""
    operations = [{"turn": 0, "tool": ADD, "content": AIRPORT}, {"turn": 1, "tool": ADD, "content": DIET}]
    return make_example(operations=operations, **changes)


def test_stage_1_adds_count_though_the_context_was_wiped_after_them() -> None:
    assert terms(add(AIRPORT), context=[])["storage"] == 1.0


def test_adds_after_stage_1_do_not_count_as_storage() -> None:
    assert terms(add(AIRPORT, stage=2), add(DIET, stage=3))["storage"] == 0.0


@pytest.mark.parametrize("tool", ["update_memory", "delete_memory"])
def test_failed_updates_and_deletes_earn_no_maintenance(tool: str) -> None:
    stored = [add(AIRPORT), add(OLD_DIET, key="2", turn=1), add(PIN, key="3", turn=1)]
    failed = make_event(tool, DIET, ids=("2",), detail=OLD_DIET, turn=3, ok=False)
    assert terms(*stored, failed) == terms(*stored)
    assert terms(*stored, failed)["maintenance"] == 0.0


def test_failed_calls_earn_nothing_anywhere() -> None:
    failed = [replace(event, ok=False) for event in honest_events()]
    assert terms(*failed) == terms()


def test_naming_a_tool_in_prose_is_no_call() -> None:
    prose = "add_memory update_memory delete_memory retrieve_memory filter_context summarize_context"
    step = make_step(output={"thought": prose, "answer": prose}, context=({"role": "assistant", "content": prose},))
    talked = terms(answer="Lisbon", context=[prose], steps=(step,))
    assert talked == terms(answer="Lisbon")


def test_filter_and_summarize_do_not_erase_the_evidence_of_earlier_calls() -> None:
    everything = [f"m1: {AIRPORT}", "You called add_memory"]
    wipe = make_event(FILTER, *everything, stage=3, tokens=(900, 100))
    wiped = TrajectoryReward().terms(make_example(), make_trajectory(*honest_events(), wipe, context=[]))
    assert {name: wiped[name] for name in MEMORY_TERMS} == {name: honest_terms()[name] for name in MEMORY_TERMS}


def test_a_right_answer_in_the_last_allowed_round_is_an_answer() -> None:
    last = TrajectoryReward().terms(make_example(), honest_trajectory(stop=StopReason.ROUND_LIMIT))
    assert last == honest_terms()


def test_a_failed_judge_stops_instead_of_changing_the_scale() -> None:
    def judge(*, question: str, expected: str, answer: str) -> float:
        raise TimeoutError("the judge's server is down")

    with pytest.raises(RewardError, match="answer_judge failed: TimeoutError"):
        TrajectoryReward(answer_judge=judge).terms(make_example(), honest_trajectory())


def test_an_embedder_that_fails_stops_too() -> None:
    class Broken:
        name, dimension = "broken", 3

        def embed(self, texts: object) -> Any:
            raise OSError("model file is gone")

    example = make_example(facts=["The user lives in Lisbon"])
    with pytest.raises(RewardError, match="'storage' failed: OSError: model file is gone"):
        TrajectoryReward(embedder=Broken()).terms(example, make_trajectory(add("something else")))


@pytest.mark.parametrize("example", [make_example(), plain_example()])
def test_a_right_answer_that_never_touched_memory_stays_far_below_an_honest_one(example: dspy.Example) -> None:
    lucky = TrajectoryReward().terms(example, make_trajectory(answer="Lisbon", tokens=10))
    assert lucky["answer"] == 1.0
    assert lucky["reward"] < 0.5 < honest_terms()["reward"]
    assert [lucky[name] for name in MEMORY_TERMS] == [0.0, 0.0, 0.0]


def test_duplicates_earn_less_than_the_entry_alone() -> None:
    twice = [add(AIRPORT, key="1"), add("My " + AIRPORT, key="2")]
    assert terms(*twice)["storage"] == 0.5
    assert terms(*twice)["memory_quality"] < terms(twice[0])["memory_quality"]


def test_duplicates_of_a_revoked_entry_are_paid_once() -> None:
    events = [add(PIN, key=key, turn=1) for key in "123"] + [delete(key, PIN, turn=3) for key in "123"]
    assert terms(*events)["storage"] == pytest.approx(1 / 3)


def test_junk_adds_dilute_storage() -> None:
    junk = [add(f"small talk number {number}") for number in range(9)]
    assert terms(*junk)["storage"] == 0.0
    assert terms(add(AIRPORT), *junk)["storage"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    "text", ["home airport", "home airport: unknown", "my home airport is Porto", "airport home diet"]
)
def test_an_entry_without_the_value_carries_no_fact(text: str) -> None:
    assert terms(add(text))["storage"] == 0.0


def test_add_then_delete_of_junk_pays_neither_storage_nor_maintenance() -> None:
    found = terms(add(AIRPORT), add("junk", key="j"), delete("j", "junk"), add(DIET), example=plain_example())
    assert found["storage"] == pytest.approx(2 / 3)
    due = terms(add(AIRPORT), add("junk", key="j"), delete("j", "junk", turn=3))
    assert due["maintenance"] == 0.0


def test_add_then_delete_of_a_fact_pays_nothing() -> None:
    found = terms(add(AIRPORT, key="1"), delete("1", AIRPORT), example=plain_example())
    assert (found["storage"], found["maintenance"], found["memory_quality"]) == (0.0, 0.0, 0.0)


def test_a_needless_delete_or_update_never_pays() -> None:
    stored = [add(AIRPORT, key="1"), add(DIET, key="2", turn=1)]
    for needless in (delete("1", AIRPORT, turn=2), update("1", AIRPORT, "junk", turn=2)):
        assert terms(*stored, example=plain_example())["maintenance"] == 1.0
        assert terms(*stored, needless, example=plain_example())["maintenance"] == 0.0


def test_deleting_everything_does_not_pass_for_maintenance() -> None:
    stored = [add(AIRPORT, key="1"), add(OLD_DIET, key="2", turn=1), add(PIN, key="3", turn=1)]
    purge = [delete(key, former, turn=3) for key, former in (("1", AIRPORT), ("2", OLD_DIET), ("3", PIN))]
    purged = terms(*stored, *purge)
    assert purged["maintenance"] == pytest.approx(1 / 3)
    assert purged["storage"] < 1.0


def test_deleting_and_adding_again_in_a_loop_earns_no_more() -> None:
    loop = [event for _ in range(5) for event in (delete("1", AIRPORT), add(AIRPORT, key="1"))]
    steady = terms(add(AIRPORT, key="1"), example=plain_example())
    assert terms(add(AIRPORT, key="1"), *loop, example=plain_example())["reward"] <= steady["reward"]


def test_re_adding_what_was_just_deleted_under_new_ids_dilutes_storage() -> None:
    churn: list[ToolEvent] = [add(AIRPORT, key="0")]
    for number in range(3):
        churn += [delete(str(number), AIRPORT), add(AIRPORT, key=str(number + 1))]
    assert terms(*churn, example=plain_example())["storage"] == pytest.approx(1 / 4)


def test_storing_both_the_old_and_the_new_value_is_no_update() -> None:
    both = terms(add(AIRPORT), add(OLD_DIET, key="2", turn=1), add(DIET, key="4", turn=2))
    assert both["maintenance"] == 0.0
    assert both["storage"] == pytest.approx(2 / 3)


def test_updating_one_copy_while_a_stale_copy_stays_is_no_update() -> None:
    events = [add(OLD_DIET, key="2", turn=1), add(OLD_DIET, key="5", turn=1), update("2", OLD_DIET, DIET, turn=2)]
    assert terms(*events)["maintenance"] == 0.0


def test_retrieving_everything_dilutes_relevance() -> None:
    junk = [f"junk {number}" for number in range(9)]
    assert terms(retrieve(AIRPORT, *junk))["relevance"] == pytest.approx(0.1)


def test_repeating_a_good_retrieve_does_not_wash_out_a_bad_one() -> None:
    junk = [f"junk {number}" for number in range(3)]
    assert terms(retrieve(*junk), *[retrieve(AIRPORT)] * 20)["relevance"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    "event", [retrieve(AIRPORT, automatic=True), retrieve(AIRPORT, stage=1), retrieve(AIRPORT, stage=2)]
)
def test_only_the_policys_own_retrieve_in_stage_3_earns_relevance(event: ToolEvent) -> None:
    assert terms(event)["relevance"] == 0.0
    assert terms(event, example=make_example(support=[], answer="I don't know"))["relevance"] == 0.0


@pytest.mark.parametrize("tool", [FILTER, SUMMARIZE])
def test_removing_nothing_or_growing_the_context_prevents_nothing(tool: str) -> None:
    assert terms(make_event(tool, stage=2, tokens=(300, 300)))["preventive"] == 0.0
    assert terms(make_event(tool, "short", stage=2, tokens=(300, 400)))["preventive"] == 0.0
    assert terms(make_event(tool, "m", stage=2, automatic=True, tokens=(300, 200)))["preventive"] == 0.0
    assert terms(make_event(tool, "m", stage=2, tokens=(300, 200)))["preventive"] == 1.0


@pytest.mark.parametrize("tool", [FILTER, SUMMARIZE])
def test_clearing_the_context_that_is_wiped_anyway_earns_nothing(tool: str) -> None:
    """Paid, it taught a policy to filter facts away in stage 1."""
    assert terms(make_event(tool, "m", stage=1, tokens=(300, 200)))["preventive"] == 0.0


def test_filtering_the_facts_away_loses_preservation() -> None:
    wiped = TrajectoryReward().terms(make_example(), honest_trajectory(context=[]))
    assert wiped["preservation"] == 0.0
    assert wiped["reward"] < honest_terms()["reward"]


def test_never_answering_with_an_empty_context_does_not_pay() -> None:
    silent = terms(*honest_events(), answer=None, tokens=0, context=[AIRPORT])
    assert silent["reward"] < terms(answer="Porto")["reward"] - 0.5


@pytest.mark.parametrize("gold", ["Lisbon", "I don't know", "yes", "no"])
def test_hedging_never_beats_answering(gold: str) -> None:
    hedged = [
        terms(answer=text, example=make_example(answer=gold))["answer"]
        for text in ("Lisbon Porto Faro Madrid Berlin", "yes no", "no yes", "Lisbon yes no")
    ]
    assert max(hedged) < 1.0 or gold in ("yes", "no")
    assert sum(hedged[1:3]) <= 1.0


def test_always_abstaining_pays_only_where_nothing_is_known() -> None:
    assert terms(answer="I don't know")["answer"] == 0.0
    assert terms(answer="I don't know, maybe Lisbon")["answer"] == 0.0
    assert terms(answer="I don't know", example=make_example(answer="I don't know"))["answer"] == 1.0


def test_overflowing_the_context_costs_half_a_point() -> None:
    over = TrajectoryReward().terms(make_example(), honest_trajectory(tokens=8001))
    assert over["penalty"] == -0.5
    assert over["reward"] < honest_terms()["reward"] - 0.5
