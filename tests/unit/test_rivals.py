"""The rivals keep the contract of all programs, and remember in the way that they are named after."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fakes import answer, call, scripted_lm
from program_contract import CHATTER, INPUTS, MESSAGES, EpisodeContract, sensible
from tiny_episodes import TRAINER, TRAINSET, TokenReward

import agemem_dspy as am
from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory import HashEmbedder
from agemem_dspy.optimizers import Demonstrator, GRPOConfig, StepwiseGRPO
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import local_lm
from agemem_dspy.policy.models import load
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.programs.methods import Method, build_method
from agemem_dspy.programs.rivals import (
    ExtractUpdateAgent,
    FullContextAgent,
    LinkedNotesAgent,
    SchemaManagerAgent,
)
from agemem_dspy.types import Stage

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"  # peft asks transformers for it
)
MANAGED = (ExtractUpdateAgent, LinkedNotesAgent, SchemaManagerAgent)


def maker(kind: Any, **options: Any) -> Callable[..., Any]:
    return lambda signature, **more: kind(
        signature, embedder=HashEmbedder(), adapter=am.CompactAdapter(), **options, **more
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> PolicyEngine:
    corpus = ["Ana lives in Rome", "facts decisions"]
    folder = tiny_llama(tmp_path_factory.mktemp("tiny"), corpus=corpus, vocab_size=300, max_positions=4096)
    return PolicyEngine(load(folder))


def played(program: Any, replies: Callable[[str], Any], **inputs: Any) -> Any:
    program.set_lm(scripted_lm(replies))
    return program(**{**INPUTS, **inputs})


class TestNoMemory(EpisodeContract):
    knows = False

    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        return lambda signature: am.NoMemoryAgent(signature, adapter=am.CompactAdapter())


class TestRetrieveOnly(EpisodeContract):
    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        return maker(am.RetrieveOnlyAgent)


class TestFullContext(EpisodeContract):
    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        return lambda signature: FullContextAgent(signature, adapter=am.CompactAdapter())


class TestExtractUpdate(EpisodeContract):
    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        return maker(ExtractUpdateAgent)


class TestLinkedNotes(EpisodeContract):
    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        return maker(LinkedNotesAgent)


class TestSchemaManager(EpisodeContract):
    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        return maker(SchemaManagerAgent)


class TestExtractUpdateWithShortTermTools(EpisodeContract):
    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        return maker(ExtractUpdateAgent, short_term_tools=True)


class TestLinkedNotesWithShortTermTools(EpisodeContract):
    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        return maker(LinkedNotesAgent, short_term_tools=True)


class TestSchemaManagerWithShortTermTools(EpisodeContract):
    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        return maker(SchemaManagerAgent, short_term_tools=True)


class TestAgent(EpisodeContract):
    """The agent itself, as it is compared with them; this LM only ever answers."""

    knows = False

    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        def made(signature: str) -> Any:
            memory = am.LongTermMemory.open(":memory:", embedder=HashEmbedder())
            return am.ThreeStageEpisode(am.AgeMemAgent(signature, memory=memory, adapter=am.CompactAdapter()))

        return made


def test_full_context_shows_everything_in_order() -> None:
    program = FullContextAgent("question -> answer", adapter=am.CompactAdapter())
    trajectory = played(program, sensible).trajectory
    assert trajectory.context == (*MESSAGES, *CHATTER, "Where do I live?")
    prompt = program.get_lm().engine.prompts[0]
    assert "\n".join([*MESSAGES, *CHATTER]) in prompt


def test_facts_are_added_updated_and_deleted_against_the_nearest_entries() -> None:
    decisions = iter([
        [{"operation": "ADD", "content": "lives in Rome"}],
        [{"operation": "ADD", "content": "owns a cat"}, {"operation": "NOOP"}],
        [{"operation": "UPDATE", "memory_id": "m1", "content": "lives in Oslo"},
         {"operation": "DELETE", "memory_id": "m2"}, {"operation": "DELETE", "memory_id": "m9"}],
    ])  # fmt: skip

    def replies(prompt: str) -> str:
        if "Reply with the facts" in prompt:
            return '["a fact", " "]'
        return json.dumps(next(decisions)) if "Reply with the decisions" in prompt else "Oslo"

    program = maker(ExtractUpdateAgent)("question -> answer")
    trajectory = played(program, replies, distractors=[]).trajectory
    changes = [(e.tool, e.turn, e.ok) for e in trajectory.events if e.tool != "retrieve_memory"]
    assert changes == [
        ("add_memory", 0, True), ("add_memory", 1, True), ("update_memory", 2, True), ("delete_memory", 2, True),
        ("delete_memory", 2, False),
    ]  # fmt: skip
    assert [memory.content for memory in trajectory.memories] == ["lives in Oslo"]
    shown = [prompt for prompt in program.get_lm().engine.prompts if "Reply with the decisions" in prompt]
    assert 'memories: {"m1": "lives in Rome", "m2": "owns a cat"}' in shown[2] or '"m2": "owns a cat"' in shown[2]
    assert 'facts: ["a fact"]' in shown[0]
    assert [step.kind for step in trajectory.steps] == ["manage"] * 6 + ["act"]


def test_a_message_without_facts_costs_one_call() -> None:
    program = maker(ExtractUpdateAgent)("question -> answer")
    trajectory = played(program, lambda prompt: "[]" if "Reply with the facts" in prompt else "x").trajectory
    assert len(trajectory.steps) == len(MESSAGES) + len(CHATTER) + 1
    assert trajectory.memories == ()


def test_notes_are_linked_both_ways_and_their_neighbours_evolve() -> None:
    def replies(prompt: str) -> str:
        if "Reply with the note" in prompt:
            return json.dumps({"keywords": ["city"], "tags": ["old"], "context": "before"})
        if "Reply with the evolution" in prompt:
            return json.dumps(
                {"links": ["m1", "m77"], "neighbours": [{"memory_id": "m1", "tags": ["new"], "context": "after"}]}
            )
        return "Rome" if "Rome" in prompt else "?"

    program = maker(LinkedNotesAgent, top_k=1)("question -> answer")
    prediction = played(program, replies, messages=MESSAGES[:2], distractors=[])
    first, second = prediction.trajectory.memories
    assert first.content == "I live in Rome.\nkeywords: city\ntags: new\ncontext: after"
    assert second.content == "My cat is called Tito.\nkeywords: city\ntags: old\ncontext: before"
    assert (first.metadata["links"], second.metadata["links"]) == ([second.id], [first.id])
    prompt = program.get_lm().engine.prompts[-1]
    assert MESSAGES[0] in prompt  # the nearest,
    assert MESSAGES[1] in prompt  # and what it is linked with
    retrieved = [event for event in prediction.trajectory.events if event.stage is Stage.REASON]
    assert [event.arguments.get("metadata_filter") for event in retrieved] == [
        None,
        {"links": retrieved[0].memory_ids[0]},
    ]


def test_a_note_that_cannot_be_read_keeps_the_message() -> None:
    program = maker(LinkedNotesAgent)("question -> answer")
    trajectory = played(program, lambda prompt: "no JSON", distractors=[]).trajectory
    assert [memory.content for memory in trajectory.memories] == MESSAGES


def test_one_call_manages_a_stretch_of_the_conversation() -> None:
    written = iter([
        {"inserts": ["lives in Rome", "is a baker"]},
        {"updates": [{"memory_id": "m1", "content": "lives in Oslo"}], "deletes": ["m2"]},
        {},
    ])  # fmt: skip

    def replies(prompt: str) -> str:
        return json.dumps(next(written)) if "Reply with the changes" in prompt else "Oslo"

    program = maker(SchemaManagerAgent, messages_per_call=2)("question -> answer")
    trajectory = played(program, replies).trajectory
    assert [memory.content for memory in trajectory.memories] == ["lives in Oslo"]
    assert [(e.tool, e.turn) for e in trajectory.events if e.tool != "retrieve_memory"] == [
        ("add_memory", 1), ("add_memory", 1), ("update_memory", 2), ("delete_memory", 2),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", MANAGED)
def test_with_short_term_tools_the_answerer_may_clear_up_and_nothing_else(kind: Any) -> None:
    def replies(prompt: str) -> str:
        if "<answer>" not in prompt:
            return sensible(prompt)
        assert "filter_context(" in prompt
        assert "add_memory(" not in prompt
        if prompt.endswith(CHATTER[0]):
            return call("filter_context", criteria=CHATTER[0].lower())
        return answer("Rome") if "I live in Rome." in prompt else answer("?")

    trajectory = played(maker(kind, short_term_tools=True)("question -> answer"), replies).trajectory
    assert trajectory.answer == {"answer": "Rome"}
    assert CHATTER[0] not in trajectory.context
    (cleared,) = [event for event in trajectory.events if event.tool == "filter_context"]
    assert cleared.ok
    assert cleared.stage is Stage.CONTROL
    refused = played(
        maker(kind, short_term_tools=True)("question -> answer"),
        lambda prompt: sensible(prompt) if "<answer>" not in prompt else call("add_memory", content="x"),
    ).trajectory
    tried = [event for event in refused.events if event.tool == "add_memory" and event.arguments == {"content": "x"}]
    assert tried
    assert not any(event.ok for event in tried)


@pytest.mark.parametrize("method", [method for method in Method if "package" not in method.value])
def test_a_tiny_local_model_plays_every_method(method: Method, tiny: PolicyEngine) -> None:
    program = build_method(method, adapter=am.CompactAdapter())
    program.set_lm(local_lm(tiny, max_tokens=6))
    trajectory = program(**INPUTS).trajectory
    assert all(step.completion is not None for step in trajectory.steps)  # so that GRPO can train on it


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (ExtractUpdateAgent, {"top_k": 0}, "top_k must be between"),
        (ExtractUpdateAgent, {"neighbours": 0}, "neighbours must be between"),
        (LinkedNotesAgent, {"neighbours": 101}, "neighbours must be between"),
        (SchemaManagerAgent, {"messages_per_call": 0}, "messages_per_call must be"),
        (SchemaManagerAgent, {"max_rounds": 0}, "max_rounds"),
        (FullContextAgent, {"max_context_tokens": 0}, "max_context_tokens"),
    ],
)
def test_options_that_cannot_work_are_refused(kind: Any, options: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        kind("question -> answer", **options)


def test_a_method_refuses_options_of_another() -> None:
    with pytest.raises(ConfigurationError, match="the method no-memory takes no 'top_k'; it takes max_context_tokens"):
        build_method(Method.NO_MEMORY, top_k=3)


def test_grpo_trains_a_rivals_every_call(tiny: PolicyEngine) -> None:
    program = ExtractUpdateAgent("question -> answer", short_term_tools=True, adapter=am.CompactAdapter(), max_rounds=1)
    program.set_lm(local_lm(tiny, max_tokens=6))
    optimizer = StepwiseGRPO(
        TokenReward(), config=GRPOConfig(max_steps=1, tasks_per_step=1, num_generations=2, beta=0.0), trainer=TRAINER
    )
    compiled = optimizer.compile(program, trainset=TRAINSET)
    assert type(compiled) is ExtractUpdateAgent
    assert {predictor.lm.model for predictor in compiled.predictors()} == {compiled.get_lm().model}
    assert "@grpo-" in compiled.get_lm().model


def test_nobody_demonstrates_a_rival() -> None:
    program = build_method(Method.MEM0, adapter=am.CompactAdapter(), short_term_tools=True)
    with pytest.raises(ConfigurationError, match="a ExtractUpdateAgent keeps its memory otherwise: give a teacher"):
        Demonstrator(program)
