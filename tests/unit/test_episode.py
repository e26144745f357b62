"""The three stages: what the context holds in each, what is kept, when they end."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from typing import Any

import dspy
import pytest
from dspy import lm15
from fakes import Reply, answer, call, calls, scripted_lm
from fakes_memory import InMemoryStore

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory import HashEmbedder
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.types import Stage, Step, StopReason, Trajectory

MESSAGES = ["My home airport is Lisbon.", "My home airport is Porto now."]
DISTRACTORS = ["Nice weather, isn't it?", "The match was dull."]
QUESTION = "What is my home airport?"
PLAY: list[Reply] = [
    call("add_memory", content="home airport: Lisbon"),
    call("update_memory", memory_id="m1", content="home airport: Porto"),
    call("filter_context", criteria=DISTRACTORS[0]),
    answer("nothing to do"),
    call("retrieve_memory", query=QUESTION),
    answer("Porto"),
]


def make(stages: int = 3, *, signature: str = "question -> answer", **options: Any) -> ThreeStageEpisode:
    options.setdefault("adapter", CompactAdapter())
    agent = AgeMemAgent(signature, memory=InMemoryStore(HashEmbedder()), **options)
    return ThreeStageEpisode(agent, stages=stages)


def play(
    episode: ThreeStageEpisode | None = None,
    script: Any = PLAY,
    *,
    messages: Any = MESSAGES,
    distractors: Any = DISTRACTORS,
) -> dspy.Prediction:
    with dspy.context(lm=script if isinstance(script, dspy.LM) else scripted_lm(script)):
        return (episode or make())(messages=messages, distractors=distractors, question=QUESTION)


def texts(step: Step) -> list[str]:
    return [message["content"] for message in step.context]


def test_an_episode_plays_every_message_every_distractor_and_the_question() -> None:
    prediction = play()
    trajectory = prediction.trajectory
    assert prediction.answer == "Porto"
    assert [(int(step.stage), step.turn, step.round) for step in trajectory.steps] == [
        (1, 0, 1),
        (1, 1, 1),
        (2, 0, 1),
        (2, 1, 1),
        (3, 0, 1),
        (3, 0, 2),
    ]
    assert [memory.content for memory in trajectory.memories] == ["home airport: Porto"]
    assert trajectory.stop_reason is StopReason.ANSWERED


def test_stage_one_sees_each_message_and_then_what_it_stores_about_it() -> None:
    first, second, *_ = play().trajectory.steps
    assert texts(first) == [MESSAGES[0]]
    assert texts(second) == [MESSAGES[0], PLAY[0], "added m1", MESSAGES[1], "m1: home airport: Lisbon"]
    assert [message["kind"] for message in second.context][-1] == "retrieved"


def test_the_context_is_wiped_before_stage_two_and_long_term_memory_is_not() -> None:
    trajectory = play().trajectory
    assert texts(trajectory.steps[2]) == [DISTRACTORS[0]]
    assert trajectory.events[-1].observation == "m1: home airport: Porto"


def test_stage_three_keeps_the_context_of_stage_two_and_adds_the_question() -> None:
    trajectory = play().trajectory
    *kept, question = trajectory.steps[4].context
    assert [message["content"] for message in kept] == [
        PLAY[2],
        "removed 1 messages",
        DISTRACTORS[1],
        PLAY[3],
    ]
    assert (question["content"], question["kind"]) == (QUESTION, "question")


def test_only_stage_one_recalls_on_its_own() -> None:
    automatic = [event for event in play().trajectory.events if event.automatic]
    assert [(event.stage, event.turn, event.round) for event in automatic] == [
        (Stage.CONSTRUCT, 0, 0),
        (Stage.CONSTRUCT, 1, 0),
    ]


def test_an_episode_that_always_recalls_does_so_in_every_stage() -> None:
    episode = make(memory_tools=("add_memory", "retrieve_memory"))
    episode.recall = "always"
    script = [call("add_memory", content="home airport: Lisbon"), *[answer("ok")] * 3, answer("Lisbon")]
    trajectory = play(episode, script).trajectory
    stages = [event.stage for event in trajectory.events if event.automatic]
    assert stages == [Stage.CONSTRUCT] * 2 + [Stage.CONTROL] * 2 + [Stage.REASON]
    assert any("home airport: Lisbon" in text for text in texts(trajectory.steps[-1]))
    with pytest.raises(ConfigurationError, match="recall must be 'construct' or 'always', not 'never'"):
        ThreeStageEpisode(episode.agent, recall="never")  # type: ignore[arg-type]


def test_the_question_is_not_seen_before_stage_three() -> None:
    lm = scripted_lm(PLAY)
    play(script=lm)
    assert [QUESTION in prompt for prompt in lm.engine.prompts] == [False] * 4 + [True] * 2


def test_the_trajectory_ends_with_the_context_and_the_tokens_it_had() -> None:
    trajectory = play(make(max_context_tokens=777)).trajectory
    assert trajectory.context[-1] == PLAY[-1]
    assert QUESTION in trajectory.context
    assert trajectory.max_context_tokens == 777
    assert trajectory.context_tokens == trajectory.steps[-1].prompt_tokens
    assert [event.index for event in trajectory.events] == list(range(len(trajectory.events)))


def test_a_turn_ends_after_calls_that_left_nothing_to_read_or_an_answer() -> None:
    script = [
        call("add_memory", content="a"),  # ends
        call("retrieve_memory", query="a"),  # something to read
        call("add_memory", content=""),  # failed
        calls(("add_memory", {"content": "b"}), ("delete_memory", {"memory_id": "m1", "confirmation": True})),  # ends
        answer("done"),
    ]
    steps = play(script=script, distractors=()).trajectory.steps
    assert [(int(step.stage), step.turn) for step in steps] == [(1, 0), (1, 1), (1, 1), (1, 1), (3, 0)]


def test_a_turn_that_reaches_its_limit_leaves_the_others_theirs() -> None:
    script = [call("retrieve_memory", query="x")] * 2 + [answer("ok")] * 5
    trajectory = play(make(max_rounds=2), script).trajectory
    assert [(int(step.stage), step.turn) for step in trajectory.steps] == [
        (1, 0),
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
        (3, 0),
    ]
    assert trajectory.stop_reason is StopReason.ANSWERED


def test_only_an_answer_or_the_limit_ends_stage_three() -> None:
    prediction = play(make(max_rounds=3), [answer("ok")] * 4 + [call("add_memory", content="x")] * 3)
    assert prediction.answer is None
    assert prediction.trajectory.answer is None
    assert prediction.trajectory.stop_reason is StopReason.ROUND_LIMIT
    assert [step.round for step in prediction.trajectory.steps if step.stage is Stage.REASON] == [1, 2, 3]


@pytest.mark.parametrize(("calls_before", "stage"), [(1, 1), (3, 2), (4, 3)])
def test_a_full_context_ends_the_episode_in_any_stage(calls_before: int, stage: int) -> None:
    script = [*[answer("ok")] * calls_before, lm15.ContextLengthError("full")]
    prediction = play(make(on_overflow="error"), script)
    assert prediction.trajectory.stop_reason is StopReason.CONTEXT_OVERFLOW
    assert prediction.answer is None
    assert prediction.trajectory.steps[-1].stage == stage


@pytest.mark.parametrize(("stages", "steps"), [(1, 2), (2, 4)])
def test_fewer_stages_play_fewer_and_answer_nothing(stages: int, steps: int) -> None:
    """What ends a turn of an early stage is not the answer, or finishing with a word would be rewarded."""
    prediction = play(make(stages), [answer("ok")] * 4)
    assert len(prediction.trajectory.steps) == steps
    assert prediction.trajectory.answer is None
    assert prediction.answer is None
    assert prediction.trajectory.stop_reason is StopReason.ANSWERED


def test_every_episode_has_an_empty_store_of_its_own() -> None:
    episode = make()
    episode.agent.memory.add("home airport: Faro")
    for _ in range(2):
        trajectory = play(episode).trajectory
        assert "Faro" not in str(trajectory)
        assert [memory.content for memory in trajectory.memories] == ["home airport: Porto"]
    assert [memory.content for memory in episode.agent.memory.all()] == ["home airport: Faro"]


def test_episodes_in_many_threads_do_not_mix() -> None:
    def reply(prompt: str) -> str:
        number = re.findall(r"number (\d+)", prompt)[-1]
        if "question" not in prompt:
            return call("add_memory", content=f"number {number}")
        return answer(number) if "m1: number" in prompt else call("retrieve_memory", query="number")

    program = make(signature="query -> answer")
    examples = [
        dspy.Example(messages=[f"remember number {n}"], distractors=[], query=f"question of number {n}")
        for n in range(24)
    ]
    runs = [(program, example.with_inputs("messages", "distractors", "query")) for example in examples]
    with dspy.context(lm=scripted_lm(reply)):
        predictions = dspy.Parallel(num_threads=8, timeout=0, disable_progress_bar=True)(runs)
    assert [prediction.answer for prediction in predictions] == [str(n) for n in range(24)]
    assert [prediction.trajectory.events[-1].observation for prediction in predictions] == [
        f"m1: number {n}" for n in range(24)
    ]


def comparable(trajectory: Trajectory) -> Any:
    """Drop what differs between two runs: ids and times of memories."""
    steps = [dataclasses.replace(step, events=()) for step in trajectory.steps]
    events = [dataclasses.replace(event, memory_ids=()) for event in trajectory.events]
    return steps, events, trajectory.answer, trajectory.context, trajectory.stop_reason, trajectory.context_tokens


def test_aforward_plays_the_trajectory_that_forward_plays() -> None:
    async def awaited() -> dspy.Prediction:
        return await make().acall(messages=MESSAGES, distractors=DISTRACTORS, question=QUESTION)

    with dspy.context(lm=scripted_lm(PLAY)):
        assert comparable(asyncio.run(awaited()).trajectory) == comparable(play().trajectory)


def test_several_inputs_and_outputs() -> None:
    episode = make(signature="question, day -> answer, sure: bool")
    script = [answer('{"answer": "-", "sure": false}'), answer('{"answer": "Porto", "sure": true}')]
    with dspy.context(lm=scripted_lm(script)):
        prediction = episode(messages=["hi"], question=QUESTION, day="Monday")
    assert (prediction.answer, prediction.sure) == ("Porto", True)
    assert texts(prediction.trajectory.steps[-1])[-1] == f"question: {QUESTION}\nday: Monday"


@pytest.mark.parametrize("inputs", [{}, {"query": "x"}, {"question": "x", "more": "y"}])
def test_inputs_that_do_not_fit_are_refused_before_the_first_lm_call(inputs: dict[str, Any]) -> None:
    lm = scripted_lm([])
    with dspy.context(lm=lm), pytest.raises(ConfigurationError, match="the agent takes the inputs"):
        make()(messages=MESSAGES, **inputs)
    assert lm.engine.prompts == []


def test_an_episode_without_messages_goes_on_to_the_question() -> None:
    assert play(script=[answer("I don't know")], messages=[], distractors=[]).answer == "I don't know"


@pytest.mark.parametrize("stages", [0, 4, 2.5])
def test_a_stage_that_does_not_exist_is_refused(stages: Any) -> None:
    with pytest.raises(ConfigurationError, match="stages must be 1, 2 or 3"):
        make(stages)


@pytest.mark.parametrize("name", ["messages", "distractors"])
def test_an_input_that_the_episode_needs_for_itself_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"rename the agent's input '{name}'"):
        make(signature=f"{name} -> answer")
