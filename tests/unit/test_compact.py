"""The tag format: what is rendered is parsed back, and what is tolerated is noted."""

from __future__ import annotations

from typing import Any, Literal

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError
from hypothesis import given
from hypothesis import strategies as st

from agemem_dspy.policy.compact import FORMAT, CompactAdapter, parse_step, render_step
from agemem_dspy.policy.recorder import record
from agemem_dspy.signatures import OPERATIONS, AgentStep, Transcript, WriteSummary, step_signature, tool_from_signature

ADAPTER = CompactAdapter()
STEP = step_signature(dspy.Signature("question -> answer"))

# Texts are stripped when they are read, and a tag inside a text ends it: only JSON can carry one.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=40).map(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(
    st.fixed_dictionaries(
        {"name": st.text(min_size=1, max_size=12), "arguments": st.dictionaries(TEXTS, JSON, max_size=3)}
    ),
    min_size=1,
    max_size=3,
)


@given(think=TEXTS, calls=CALLS)
def test_calls_survive_rendering_and_parsing(think: str, calls: list[dict[str, Any]]) -> None:
    assert parse_step(render_step(think, calls, {"answer": "ignored"})) == (think, calls, None, [])


@given(think=TEXTS, text=TEXTS)
def test_a_text_answer_survives_rendering_and_parsing(think: str, text: str) -> None:
    assert parse_step(render_step(think, [], {"answer": text})) == (think, [], text, [])


class Typed(dspy.Signature):
    """Count."""

    question: str = dspy.InputField()
    count: int = dspy.OutputField()
    names: list[str] = dspy.OutputField()
    mood: Literal["calm", "busy"] = dspy.OutputField()
    note: str | None = dspy.OutputField()


@given(
    st.integers(),
    st.lists(TEXTS, max_size=3),
    st.sampled_from(["calm", "busy"]),
    st.none() | TEXTS,
    st.sampled_from("abc"),
)
def test_typed_answers_survive_rendering_and_parsing(
    count: int, names: list[str], mood: str, note: str | None, think: str
) -> None:
    step = step_signature(Typed)
    outputs = {"reasoning": think, "count": count, "names": names, "mood": mood, "note": note}
    parsed = ADAPTER.parse(step, ADAPTER.format_assistant_message_content(step, outputs))
    assert {**outputs, "tool_calls": dspy.ToolCalls(tool_calls=[])} == parsed


@pytest.mark.parametrize(
    ("annotation", "value"), [(int, 5), (list[str], ["a", "b"]), (bool, True), (dict[str, int], {"a": 1}), (str, "42")]
)
def test_a_lone_typed_answer_survives_too(annotation: Any, value: Any) -> None:
    step = step_signature(dspy.Signature("question -> it").with_updated_fields("it", type_=annotation))
    assert ADAPTER.parse(step, ADAPTER.format_assistant_message_content(step, {"it": value}))["it"] == value


@pytest.mark.parametrize(
    ("text", "calls", "answer", "notes"),
    [
        ('<tool_call>[{"name": "a", "arguments": {}}]', 1, None, ["closing tag </tool_call> was missing"]),
        ('<tool_call>{"name": "a", "arguments": {}}</tool_call>', 1, None, ["a single call was not in an array"]),
        (
            '<tool_call>{"name": "a"}',
            1,
            None,
            ["a single call was not in an array", "closing tag </tool_call> was missing"],
        ),
        ("<answer>Rome", 0, "Rome", ["closing tag </answer> was missing"]),
        ("<answer>Rome</answer> I am sure", 0, "Rome", ["text after the step was ignored"]),
        (
            '<tool_call>[{"name": "a"}]</tool_call><tool_call>[]</tool_call>',
            1,
            None,
            ["text after the step was ignored"],
        ),
        ("Well.\n<think>hm</think> so <answer> Rome\n</answer>\n", 0, "Rome", []),
        ("<think>use <answer>x</answer>?</think><answer>y</answer>", 0, "y", []),
        ("<think>never closed <answer>y</answer>", 0, "y", []),
        ('<tool_call>\n[{"name": "a", "arguments": {"x": "</tool_call>"}}]\n</tool_call>', 1, None, []),
    ],
)
def test_what_is_tolerated_is_noted(text: str, calls: int, answer: str | None, notes: list[str]) -> None:
    _, parsed, said, remarks = parse_step(text)
    assert (len(parsed), said, remarks) == (calls, answer, notes)


def test_notes_go_to_the_tape_of_the_call() -> None:
    with record() as tape:
        ADAPTER.parse(STEP, "<answer>Rome")
    assert tape.notes == ["closing tag </answer> was missing"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no <tool_call> or <answer> tag"),
        ("I would call add_memory now", "no <tool_call> or <answer> tag"),
        ("<tool_call>add_memory(x)</tool_call>", "not JSON: Expecting value at character 0"),
        ('<tool_call>[{"name": "a", "arguments": {"x": ]</tool_call>', "not JSON"),
        ("<tool_call>[]</tool_call>", "must hold a JSON array of calls"),
        ("<tool_call>3</tool_call>", "must hold a JSON array of calls"),
        ('<tool_call>["a"]</tool_call>', '"name" and "arguments"'),
        ('<tool_call>[{"arguments": {}}]</tool_call>', '"name" and "arguments"'),
        ('<tool_call>[{"name": 5}]</tool_call>', '"name" and "arguments"'),
        ('<tool_call>[{"name": "a", "arguments": "x"}]</tool_call>', '"arguments" of a must be an object'),
        ("<tool_call>" + "[" * 100_000, "nested too deeply"),
        ('<tool_call>[{"name": "a", "arguments": {"x": "\\ud800"}}]</tool_call>', "half a surrogate pair"),
        ('<tool_call>[{"name": "a", "arguments": {"x": ' + "9" * 5000 + "}}]</tool_call>", "digits"),
    ],
)
def test_what_cannot_be_read_says_why(text: str, message: str) -> None:
    with pytest.raises(AdapterParseError) as caught:
        ADAPTER.parse(STEP, text)
    assert message in str(caught.value).splitlines()[0]
    assert caught.value.lm_response == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<answer>many</answer>", "the answer must be a JSON object with count, names, mood, note"),
        ('<answer>{"count": 1}</answer>', "the answer must be a JSON object with count, names, mood, note"),
        ("<answer>[1]</answer>", "the answer must be a JSON object"),
        ('<answer>{"count": "x", "names": [], "mood": "calm", "note": null}</answer>', "count must be int, not 'x'"),
        (
            '<answer>{"count": 1, "names": [], "mood": "odd", "note": ""}</answer>',
            "mood must be Literal['calm', 'busy']",
        ),
        ("<answer>" + "[" * 100_000 + "</answer>", "the answer must be a JSON object"),
    ],
)
def test_an_answer_of_the_wrong_type_says_what_is_expected(text: str, message: str) -> None:
    with pytest.raises(AdapterParseError) as caught:
        ADAPTER.parse(step_signature(Typed), text)
    assert str(caught.value).startswith(message)
    with pytest.raises(AdapterParseError, match="answer must be int"):
        ADAPTER.parse(step_signature(dspy.Signature("question -> answer: int")), "<answer>" + "[" * 9000 + "</answer>")


# Prompts

USER = {"role": "user", "kind": "message", "content": "I moved to Bari."}
RESULT = {"role": "tool", "kind": "result", "content": "added m1"}
CALL = {"role": "assistant", "kind": "call", "content": "<tool_call>…</tool_call>"}


def prompt(demos: list[Any], *messages: dict[str, Any], step: type[dspy.Signature] = STEP) -> list[dict[str, Any]]:
    tools = [tool_from_signature(name, signature, lambda: None) for name, signature in OPERATIONS.items()]
    return list(ADAPTER.format(step, demos, {"context": Transcript(messages=list(messages)), "tools": tools}))


def test_the_system_message_has_the_instructions_the_format_and_a_line_a_tool() -> None:
    system = prompt([], USER)[0]
    assert system["role"] == "system"
    assert system["content"].splitlines() == [
        AgentStep.instructions,
        FORMAT,
        "Tools:",
        "add_memory(content, metadata?, memory_type?): Store a new lasting fact.",
        "update_memory(memory_id, content, metadata?): Replace a stored fact that changed.",
        "delete_memory(memory_id, confirmation): Remove a stored fact for good.",
        "retrieve_memory(query, top_k?, metadata_filter?): Search stored facts.",
        "summarize_context(span?): Replace messages by a summary.",
        "filter_context(criteria): Remove irrelevant messages.",
    ]
    assert len(system["content"].split()) < 120


def test_the_prompt_tells_what_a_typed_answer_is() -> None:
    counted = dspy.Signature("question -> count: int").with_updated_fields("count", desc="of people")
    assert "The answer is count (int): of people." in prompt([], USER, step=step_signature(counted))[0]["content"]
    described = (
        "The answer is a JSON object with count (int), names (list[str]), mood (Literal['calm', 'busy']), note (str)."
    )
    assert described in prompt([], USER, step=step_signature(Typed))[0]["content"]


def test_the_transcript_becomes_turns_and_neighbours_of_the_user_are_joined() -> None:
    turns = prompt([], USER, {**RESULT, "content": "m1: lives in Rome"}, CALL, RESULT)[1:]
    assert [(turn["role"], turn["content"]) for turn in turns] == [
        ("user", "I moved to Bari.\nm1: lives in Rome"),
        ("assistant", CALL["content"]),
        ("user", "added m1"),
    ]


def test_demos_are_replayed_before_the_conversation() -> None:
    called = dspy.ToolCalls.from_dict_list([{"name": "add_memory", "args": {"content": "lives in Bari"}}])
    demos = [
        {"context": Transcript(messages=[USER]), "reasoning": "", "tool_calls": called, "answer": None},
        dspy.Example(context={"messages": [USER]}, reasoning="hm", tool_calls={"tool_calls": []}, answer="Bari"),
        {"context": Transcript(messages=[USER]).format(), "answer": "Rome"},
    ]
    turns = prompt(demos, USER)[1:]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 3 + ["user"]
    assert [turn["content"] for turn in turns[1::2]] == [
        '<tool_call>[{"name": "add_memory", "arguments": {"content": "lives in Bari"}}]</tool_call>',
        "<think>hm</think><answer>Bari</answer>",
        "<answer>Rome</answer>",
    ]
    assert {turn["content"] for turn in turns[::2]} == {"I moved to Bari."}


def test_demos_without_input_or_output_are_left_out() -> None:
    labelled = dspy.Example(messages=["…"], question="Where?", answer="Bari").with_inputs("question")
    assert prompt([labelled, {"context": Transcript(messages=[USER])}], USER) == prompt([], USER)


def test_any_other_signature_is_written_in_plain_lines() -> None:
    demos = [{"conversation": "user: hi", "summary": "a greeting"}, {"conversation": "user: ho"}, {"summary": "?"}]
    messages = ADAPTER.format(WriteSummary, demos, {"conversation": "user: I moved"})
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"].startswith(WriteSummary.instructions)
    assert messages[-1]["content"] == "conversation: user: I moved"
    assert ADAPTER.parse(WriteSummary, " moved \n") == {"summary": "moved"}
    assert ADAPTER.format_assistant_message_content(WriteSummary, {"summary": "moved"}) == "moved"


def test_a_plain_signature_with_a_typed_output_is_parsed_or_refused() -> None:
    rated = dspy.Signature("text -> reasoning: int")
    assert ADAPTER.parse(rated, "7") == {"reasoning": 7}
    with pytest.raises(AdapterParseError, match="reasoning must be int, not 'seven'"):
        ADAPTER.parse(rated, "seven")


def test_a_plain_signature_with_two_outputs_is_sent_to_another_adapter() -> None:
    with pytest.raises(ValueError, match="ChatAdapter"):
        ADAPTER.format(dspy.Signature("a -> b, c"), [], {"a": "x"})
