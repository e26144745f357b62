"""What the model is told comes from the signatures, and any task's signature becomes a step."""

from __future__ import annotations

from typing import Any, Literal

import dspy
import pytest
from fakes import answer, scripted_lm
from fakes_memory import InMemoryStore
from hypothesis import given
from hypothesis import strategies as st

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory import HashEmbedder
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.signatures import (
    OPERATIONS,
    AddMemory,
    AgentStep,
    MemoryOperation,
    Transcript,
    answer_fields,
    step_signature,
    tool_from_signature,
)


class Plan(dspy.Signature):
    """Plan a trip."""

    city: str = dspy.InputField()
    days: int = dspy.InputField(default=2)
    stops: list[str] = dspy.OutputField(desc="in order")
    price: float | None = dspy.OutputField()
    mood: Literal["calm", "busy"] = dspy.OutputField()


def nothing(**arguments: Any) -> None:
    """Stand where a tool's function is."""


def test_a_tool_has_its_signatures_name_description_and_json_arguments() -> None:
    tool = tool_from_signature("retrieve_memory", OPERATIONS["retrieve_memory"], nothing)
    function = tool.format_as_litellm_function_call()["function"]
    assert function["name"] == "retrieve_memory"
    assert function["description"] == "Search stored facts."
    assert function["parameters"]["required"] == ["query"]
    properties = function["parameters"]["properties"]
    assert properties["query"] == {"type": "string", "description": "what to look for"}
    assert properties["top_k"] == {"type": "integer", "default": 3, "description": "how many memories at most"}
    assert (properties["metadata_filter"]["type"], properties["metadata_filter"]["default"]) == ("object", {})


@pytest.mark.parametrize("adapter", [CompactAdapter(), dspy.ChatAdapter(), dspy.JSONAdapter()])
def test_rewriting_a_signature_changes_the_prompt(adapter: dspy.Adapter) -> None:
    agent = AgeMemAgent("question -> answer", memory=InMemoryStore(HashEmbedder()), adapter=adapter)

    def prompt() -> str:
        lm = scripted_lm(['[[ ## answer ## ]]\n{"answer": "ok"}<answer>ok</answer>'] * 9)
        with dspy.context(lm=lm):
            agent(question="hello")
        return str(lm.engine.prompts[0])

    before = prompt()
    assert "Store a new lasting fact." in before
    operation = agent.operations["add_memory"]
    operation.signature = operation.signature.with_instructions("Write down what matters.")
    agent.step.signature = agent.step.signature.with_instructions("Be thrifty.")
    after = prompt()
    assert "Write down what matters." in after
    assert "Be thrifty." in after
    assert "Store a new lasting fact." not in after


def test_wording_is_saved_and_loaded_with_the_program(tmp_path: Any) -> None:
    agent = AgeMemAgent("question -> answer", memory=InMemoryStore(HashEmbedder()))
    told = AddMemory.with_instructions("Note it.").with_updated_fields("content", desc="one line")
    agent.operations["add_memory"].signature = told
    agent.save(tmp_path / "agent.json")
    again = AgeMemAgent("question -> answer", memory=InMemoryStore(HashEmbedder()))
    again.load(tmp_path / "agent.json")
    loaded = again.operations["add_memory"].signature
    assert loaded.instructions == "Note it."
    assert tool_from_signature("add_memory", loaded, nothing).args == tool_from_signature("a", told, nothing).args
    assert again.operations["delete_memory"].signature.instructions == "Remove a stored fact for good."
    assert AddMemory.instructions == "Store a new lasting fact."


def test_an_operation_is_a_parameter_that_a_reset_leaves_alone() -> None:
    agent = AgeMemAgent("question -> answer")
    agent.operations["add_memory"].signature = AddMemory.with_instructions("Note it.")
    assert [name for name, one in agent.named_parameters() if isinstance(one, MemoryOperation)] == [
        f"operations['{name}']" for name in OPERATIONS
    ]
    assert agent.reset_copy().operations["add_memory"].signature.instructions == "Note it."


def test_a_step_has_the_tasks_outputs_each_optional() -> None:
    step = step_signature(Plan)
    assert list(step.input_fields) == ["context", "tools"]
    assert list(step.output_fields) == ["reasoning", "tool_calls", "stops", "price", "mood"]
    assert answer_fields(step) == ["stops", "price", "mood"]
    assert all(step.output_fields[name].default is None for name in answer_fields(step))
    assert step.output_fields["stops"].json_schema_extra["desc"] == "in order"


def test_a_steps_instructions_are_the_tasks_and_the_agents() -> None:
    assert step_signature(Plan).instructions == f"Plan a trip.\n{AgentStep.instructions}"
    plain = step_signature(dspy.Signature("question, when -> answer: int, why"))
    assert plain.instructions == AgentStep.instructions


@pytest.mark.parametrize("name", ["context", "tools", "reasoning", "tool_calls", "trajectory"])
def test_an_output_that_the_step_needs_for_itself_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"rename the output field '{name}'"):
        step_signature(dspy.Signature(f"question -> {name}"))


ROLES = st.sampled_from(["user", "assistant", "tool"])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(["[user] x", "a\n[tool] b", "\n\n  c"])


@given(st.lists(st.tuples(ROLES, TEXTS), max_size=5))
def test_a_transcript_reads_back_what_it_is_shown_as(said: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "kind": "message", "content": content} for role, content in said]
    shown = Transcript(messages=messages).format()
    assert Transcript.model_validate(shown).messages == messages
    assert len([line for line in shown.split("\n") if line.startswith("[")]) == len(messages)


def test_a_text_that_is_no_transcript_is_refused() -> None:
    with pytest.raises(ValueError, match="begins with its role in brackets"):
        Transcript.model_validate("hello")


def test_a_class_signatures_types_reach_the_caller() -> None:
    agent = AgeMemAgent(Plan, memory=InMemoryStore(HashEmbedder()), adapter=CompactAdapter())
    with dspy.context(lm=scripted_lm([answer('{"stops": ["Rome", "Bari"], "price": null, "mood": "calm"}')])):
        plan = agent(city="Rome")
    assert (plan.stops, plan.price, plan.mood) == (["Rome", "Bari"], None, "calm")
