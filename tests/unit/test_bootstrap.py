"""Demos and the demonstrator: gold annotations become trajectories, trajectories become demos of every tool."""

from __future__ import annotations

import statistics
from typing import Any

import dspy
import pytest
from fakes import answer, call, calls, scripted_lm
from fakes_memory import InMemoryStore
from trajectories import make_example

from agemem_dspy.data import load_dataset
from agemem_dspy.errors import ConfigurationError, DataError, RewardError
from agemem_dspy.memory import HashEmbedder
from agemem_dspy.optimizers.bootstrap import BootstrapToolDemos, as_demo
from agemem_dspy.optimizers.demonstrator import Demonstrator, chosen_teacher
from agemem_dspy.optimizers.rollouts import collect_groups, map_threads, play
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.policy.recorder import current_random
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import TrajectoryReward
from agemem_dspy.signatures import Transcript, answer_fields
from agemem_dspy.types import Trajectory

REWARD = TrajectoryReward()


def student(signature: str = "question -> answer", stages: int = 3) -> ThreeStageEpisode:
    agent = AgeMemAgent(signature, memory=InMemoryStore(HashEmbedder()), adapter=CompactAdapter())
    return ThreeStageEpisode(agent, stages=stages)


def demonstrated(example: dspy.Example, stages: int = 3) -> Trajectory:
    trajectory: Trajectory = Demonstrator(student(stages=stages)).play(example).trajectory
    return trajectory


# The demonstrator


def test_the_demonstrator_plays_the_gold_operations_with_a_full_reward() -> None:
    example = make_example()
    trajectory = demonstrated(example)
    assert [event.tool for event in trajectory.events if not event.automatic] == [
        "add_memory",
        "add_memory",
        "add_memory",
        "update_memory",
        "delete_memory",
        "filter_context",
        "retrieve_memory",
    ]
    assert all(event.ok for event in trajectory.events)
    assert sorted(memory.content for memory in trajectory.memories) == sorted(example.facts)
    assert trajectory.answer == {"answer": "Lisbon"}
    terms = REWARD.terms(example, trajectory)
    assert terms["reward"] > 0.9
    assert {name: terms[name] for name in ("task", "storage", "maintenance", "preventive", "penalty")} == {
        "task": 1.0,
        "storage": 1.0,
        "maintenance": 1.0,
        "preventive": 1.0,
        "penalty": 0.0,
    }


def test_a_careless_demonstrator_is_the_same_each_time_and_scores_less() -> None:
    own = student()
    examples = load_dataset("assistant:train", limit=12)
    perfect = [play(Demonstrator(own), example, REWARD).terms["reward"] for example in examples]
    careless = Demonstrator(own, mistakes=0.5, seed=3)
    first = [play(careless, example, REWARD).terms for example in examples]
    assert first == [play(careless, example, REWARD).terms for example in reversed(examples)][::-1]
    assert min(perfect) > 0.7 > statistics.fmean(terms["reward"] for terms in first) > 0
    assert {terms["preventive"] for terms in first} == {0.0, 1.0}


def test_a_verbatim_demonstrator_stores_what_was_said() -> None:
    own = student()
    rewards = []
    for example in load_dataset("assistant:train", limit=12):
        played = play(Demonstrator(own, verbatim=True), example, REWARD)
        assert {memory.content for memory in played.trajectory.memories} <= set(example.messages)
        assert len(played.trajectory.memories) == len(example.facts)
        assert played.trajectory.answer == {"answer": example.answer}
        rewards.append(played.terms["reward"])
    assert statistics.fmean(rewards) > 0.8


def test_a_message_with_several_operations_is_not_stored_twice() -> None:
    example = make_example()
    turns = [operation["turn"] for operation in example.operations]
    assert len(turns) > len(set(turns))
    trajectory = Demonstrator(student(), verbatim=True).play(example).trajectory
    contents = [memory.content for memory in trajectory.memories]
    assert len(contents) == len(set(contents)) == len(example.facts)


@pytest.mark.parametrize("mistakes", [0.0, 0.4])
def test_the_demonstrator_leaves_undone_what_its_student_has_no_tool_for(mistakes: float) -> None:
    own = student()
    own.agent = AgeMemAgent(
        "question -> answer",
        memory=InMemoryStore(HashEmbedder()),
        memory_tools=("add_memory", "update_memory", "delete_memory"),
        adapter=CompactAdapter(),
    )
    for example in load_dataset("assistant:train", limit=6):
        trajectory = Demonstrator(own, mistakes=mistakes).play(example).trajectory
        own_calls = [event for event in trajectory.events if not event.automatic]
        assert all(event.ok for event in own_calls)
        assert {event.tool for event in own_calls} <= {"add_memory", "update_memory", "delete_memory"}
        assert trajectory.answer is not None


@pytest.mark.parametrize("mistakes", [-0.1, 1.0])
def test_a_share_of_mistakes_is_a_share(mistakes: float) -> None:
    with pytest.raises(ConfigurationError, match="share"):
        Demonstrator(student(), mistakes=mistakes)


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_the_demonstrator_can_play_every_generated_history(difficulty: str) -> None:
    for example in load_dataset("assistant:val", difficulty=difficulty, limit=5):
        trajectory = demonstrated(example)
        assert trajectory.answer == {"answer": example.answer}
        assert sorted(memory.content for memory in trajectory.memories) == sorted(example.facts)


@pytest.mark.parametrize(("stages", "last"), [(1, 1), (2, 2)])
def test_the_demonstrator_stops_where_the_student_does(stages: int, last: int) -> None:
    assert max(step.stage for step in demonstrated(make_example(), stages).steps) == last


def test_the_demonstrator_needs_annotations_that_fit() -> None:
    with pytest.raises(DataError, match="'q1' has no gold `operations`"):
        demonstrated(make_example().without("operations"))
    with pytest.raises(DataError, match="which was never stored"):
        demonstrated(make_example(operations=[{"turn": 0, "tool": "delete_memory", "old": "nothing"}]))
    with pytest.raises(ConfigurationError, match="'count' is not text"):
        Demonstrator(student("question -> count: int"))


def test_the_student_is_left_as_it_was() -> None:
    one = student()
    Demonstrator(one).play(make_example())
    assert isinstance(one.agent.step, dspy.Predict)
    assert one.agent.memory.count() == 0


def test_one_teacher_is_chosen() -> None:
    one, teacher = student(), student()
    assert isinstance(chosen_teacher(None, one), Demonstrator)
    assert chosen_teacher(teacher, one) is chosen_teacher([teacher], one) is teacher
    with pytest.raises(ConfigurationError, match="give one teacher, not 2"):
        chosen_teacher([teacher, teacher], one)


# Demos


def test_demos_are_drawn_evenly_from_tools_and_stages() -> None:
    optimizer = BootstrapToolDemos(REWARD, max_demos=8, num_threads=2)
    one = student()
    compiled = optimizer.compile(one, trainset=[make_example(id=str(n)) for n in range(4)])
    shown = [demo["tool_calls"].tool_calls for demo in compiled.agent.step.demos]
    first = [calls[0].name if calls else "answer" for calls in shown[:6]]
    assert sorted(first) == sorted(
        ["add_memory", "update_memory", "delete_memory", "filter_context", "retrieve_memory", "answer"]
    )
    assert len(shown) == 8
    assert (one.agent.step.demos, one._compiled, compiled._compiled) == ([], False, True)
    assert len(optimizer.traces) == 4


def test_a_demo_shows_the_question_and_what_came_since_the_agent_last_spoke() -> None:
    trajectory = demonstrated(make_example())
    demo = as_demo(trajectory.steps[-1], ["answer"])
    assert [message["content"] for message in demo["context"].messages] == [
        "What is my home airport?",
        trajectory.events[-1].observation,
    ]
    assert (demo["answer"], demo["tool_calls"].tool_calls) == ("Lisbon", [])
    update = next(as_demo(s, ["answer"]) for s in trajectory.steps if s.events and s.events[0].tool == "update_memory")
    assert [message["kind"] for message in update["context"].messages] == ["result", "result", "message", "retrieved"]
    assert update["answer"] is None


@pytest.mark.parametrize("adapter", [CompactAdapter(), dspy.ChatAdapter(), dspy.JSONAdapter()])
def test_demos_reach_the_prompt_and_survive_saving_with_dspys_own_state(adapter: dspy.Adapter, tmp_path: Any) -> None:
    compiled = BootstrapToolDemos(REWARD, max_demos=7).compile(student(), trainset=[make_example()])
    compiled.save(tmp_path / "episode.json")
    again = student()
    again.load(tmp_path / "episode.json")

    def prompts(program: ThreeStageEpisode) -> Any:
        step = program.agent.step
        inputs = {"context": Transcript(messages=[{"role": "user", "kind": "message", "content": "hi"}]), "tools": []}
        return adapter.format(step.signature, step.demos, inputs)

    messages = prompts(compiled)
    assert len(messages) == 2 + 2 * 7
    assert prompts(again) == messages
    assert "not supplied for this particular" not in str(messages).lower()
    replies = [message["content"] for message in messages if message["role"] == "assistant"]
    for demo, reply in zip(compiled.agent.step.demos, replies, strict=True):
        parsed = adapter.parse(compiled.agent.step.signature, reply)
        assert parsed["tool_calls"] == demo["tool_calls"]


def test_trajectories_under_the_threshold_teach_nothing() -> None:
    poor = scripted_lm([answer("wrong")] * 12)
    teacher = student()
    teacher.set_lm(poor)
    optimizer = BootstrapToolDemos(REWARD, threshold=0.7, num_threads=1)
    with pytest.raises(ConfigurationError, match=r"no trajectory reached the threshold 0.7 \(best 0\.\d\d\)"):
        optimizer.compile(student(), trainset=[make_example()], teacher=teacher)


def test_a_failed_call_is_no_demo() -> None:
    example = make_example(messages=["hi"], operations=[], distractors=[], facts=[], support=[], key_items=[])
    script = [
        calls(("add_memory", {"content": "x"}), ("add_memory", {"content": ""})),
        "?",
        answer("ok"),
        answer("Lisbon"),
    ]
    teacher = student()
    teacher.set_lm(scripted_lm(script))
    compiled = BootstrapToolDemos(REWARD, threshold=-2).compile(student(), trainset=[example], teacher=[teacher])
    assert [demo["answer"] for demo in compiled.agent.step.demos] == ["Lisbon", "ok"]


@pytest.mark.parametrize(("with_demos", "kept"), [("Lisbon", 7), ("lost", 0)])
def test_demos_are_kept_unless_they_make_the_student_worse(with_demos: str, kept: int) -> None:
    """A student whose answer hangs on the demos being in its prompt; only they speak of a diet.

    They cost tokens too, so they must be worth it.
    """
    val = make_example(messages=["hi"], operations=[], distractors=[], facts=[], support=[], key_items=[])
    one = student()
    one.set_lm(scripted_lm(lambda prompt: answer(with_demos if "diet" in prompt else "Lisbon, I think")))
    optimizer = BootstrapToolDemos(REWARD, max_demos=7, num_threads=1)
    assert len(optimizer.compile(one, trainset=[make_example()], valset=[val]).agent.step.demos) == kept


@pytest.mark.parametrize(
    ("options", "trainset", "message"),
    [
        ({}, [], "training set is empty"),
        ({"max_demos": 0}, [1], "at least 1"),
        ({"max_examples": 0}, [1], "at least 1"),
        ({"num_threads": 0}, [make_example()], "num_threads"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], trainset: list[Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        BootstrapToolDemos(REWARD, **options).compile(student(), trainset=trainset)


# Rollouts


def test_groups_hold_k_scored_trajectories_of_each_task_at_the_given_temperature() -> None:
    lm = scripted_lm(lambda prompt: answer("Lisbon"))
    program = student()
    program.set_lm(lm)
    groups = collect_groups(
        program,
        [make_example(id="a"), make_example(id="b", answer="Porto")],
        REWARD,
        num_generations=3,
        temperature=0.7,
        num_threads=4,
        entropy=(1,),
    )
    assert [(group.task, len(group.trajectories), len(group.rewards)) for group in groups] == [("a", 3, 3), ("b", 3, 3)]
    assert groups[0].rewards[0] > groups[1].rewards[0]
    assert groups[0].terms[0]["reward"] == groups[0].rewards[0]
    assert {request.config.temperature for request in lm.engine.requests} == {0.7}
    assert program.get_lm() is lm


def test_every_rollout_has_a_random_stream_of_its_own() -> None:
    drawn: list[float] = []

    def reply(prompt: str) -> str:
        stream = current_random()
        assert stream is not None
        drawn.append(float(stream.random()))
        return answer("Lisbon")

    def collect() -> list[float]:
        drawn.clear()
        program = student(stages=1)
        program.set_lm(scripted_lm(reply))
        examples = [make_example(messages=["hi"]), make_example(messages=["ho"])]
        collect_groups(program, examples, REWARD, num_generations=2, temperature=1.0, num_threads=2, entropy=(5,))
        return sorted(drawn)

    assert collect() == collect()
    assert len(set(drawn)) == 4


def test_a_program_without_a_trajectory_cannot_be_scored() -> None:
    program = dspy.Predict("question -> answer")
    with (
        dspy.context(lm=scripted_lm(["[[ ## answer ## ]]\nx"])),
        pytest.raises(RewardError, match="returned no trajectory"),
    ):
        play(program, dspy.Example(question="?", answer="x").with_inputs("question"), REWARD)


def test_threads_see_the_callers_context_and_the_first_error_is_raised() -> None:
    lm = scripted_lm([])
    with dspy.context(lm=lm):
        assert map_threads(lambda item: (item, dspy.settings.lm is lm), [1, 2, 3], 2) == [
            (1, True),
            (2, True),
            (3, True),
        ]
        with pytest.raises(ZeroDivisionError):
            map_threads(lambda item: 1 / item, [1, 0, 2], 2)


def test_call_is_what_the_student_could_have_written() -> None:
    """A demonstrated context reads as if the student had written it in its own format."""
    step = demonstrated(make_example()).steps[1]
    assert step.context[1]["content"] == call("add_memory", content="home airport: Lisbon")
    assert answer_fields(student().agent.step.signature) == ["answer"]
