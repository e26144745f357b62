"""One agent: what it is shown, what it may do, when a turn ends, what is recorded."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import cloudpickle
import dspy
import pytest
from dspy import lm15
from dspy.utils.exceptions import LMError
from fakes import Reply, answer, call, calls, scripted_lm
from fakes_memory import InMemoryStore

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory import HashEmbedder, LongTermMemory
from agemem_dspy.optimizers.demonstrator import Script
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import local_lm
from agemem_dspy.policy.models import load
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.signatures import Transcript
from agemem_dspy.types import Stage, StopReason, Trajectory

QA = "question -> answer"


def make(signature: Any = QA, **options: Any) -> AgeMemAgent:
    options.setdefault("memory", InMemoryStore(HashEmbedder()))
    options.setdefault("adapter", CompactAdapter())
    return AgeMemAgent(signature, **options)


def ask(
    agent: AgeMemAgent, script: Iterable[Reply] | Callable[[str], Reply] | dspy.LM, **inputs: Any
) -> dspy.Prediction:
    lm = script if isinstance(script, dspy.LM) else scripted_lm(script)
    with dspy.context(lm=lm):
        return agent(**inputs)


def kinds(trajectory: Trajectory) -> list[list[str]]:
    return [[message["kind"] for message in step.context] for step in trajectory.steps]


# What it is shown


def test_the_agent_is_shown_its_task_and_what_it_stores_about_it() -> None:
    agent = make()
    agent.memory.add("The home airport is Lisbon.")
    lm = scripted_lm([answer("Lisbon")])
    prediction = ask(agent, lm, question="Which home airport is it?")
    assert prediction.answer == "Lisbon"
    (step,) = prediction.trajectory.steps
    assert [(message["role"], message["content"]) for message in step.context] == [
        ("user", "Which home airport is it?"),
        ("tool", "m1: The home airport is Lisbon."),
    ]
    assert "m1: The home airport is Lisbon." in lm.engine.prompts[0]
    (recalled,) = prediction.trajectory.events
    assert recalled.automatic


def test_a_lone_input_is_shown_as_it_is_and_several_by_name() -> None:
    class Booking(dspy.Signature):
        """Book."""

        city: str = dspy.InputField()
        days: list[int] = dspy.InputField()
        seats: int = dspy.InputField(default=2)
        done: bool = dspy.OutputField()

    assert make().task_text({"question": "Where to?"}) == "Where to?"
    assert make(Booking).task_text({"days": [1, 2], "city": "Rome"}) == "city: Rome\ndays: [1, 2]\nseats: 2"
    for inputs, message in (({"city": "Rome"}, r"missing \['days'\]"), ({"city": "", "days": [], "x": 1}, "unknown")):
        with pytest.raises(ConfigurationError, match=message):
            make(Booking).task_text(inputs)


def test_an_empty_question_is_asked_without_a_recall() -> None:
    assert ask(make(), [answer("?")], question="").trajectory.events == ()


# What it may do, and when a turn ends


def test_calls_are_executed_and_shown_and_an_answer_ends_the_turn() -> None:
    script = [
        calls(
            ("add_memory", {"content": "likes tea"}), ("add_memory", {"content": "lives in Rome"}), think="two facts"
        ),
        call("retrieve_memory", query="tea"),
        answer("noted"),
    ]
    prediction = ask(make(), script, question="I like tea and live in Rome.")
    trajectory = prediction.trajectory
    assert prediction.answer == "noted"
    assert trajectory.answer == {"answer": "noted"}
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert [len(step.events) for step in trajectory.steps] == [2, 1, 0]
    assert trajectory.events[1:] == tuple(event for step in trajectory.steps for event in step.events)
    assert trajectory.steps[0].output["reasoning"] == "two facts"
    assert kinds(trajectory)[2] == ["question", "call", "result", "result", "call", "retrieved"]
    assert trajectory.steps[2].context[1]["content"] == script[0]
    assert [memory.content for memory in trajectory.memories] == ["likes tea", "lives in Rome"]
    assert {(step.stage, step.turn) for step in trajectory.steps} == {(Stage.REASON, 0)}
    assert [step.round for step in trajectory.steps] == [1, 2, 3]
    assert trajectory.context_tokens == trajectory.steps[-1].prompt_tokens > 0


def test_an_answer_beside_something_unread_waits_for_the_reading() -> None:
    """With DSPy's adapters calls and an answer can come at once; what was looked up is read before answering."""
    adapter = dspy.JSONAdapter()
    agent = make(adapter=adapter)
    agent.memory.add("tea")

    def both(tool: str, **arguments: Any) -> str:
        return json.dumps({"tool_calls": {"tool_calls": [{"name": tool, "args": arguments}]}, "answer": "guess"})

    read = ask(agent, [both("retrieve_memory", query="tea"), json.dumps({"answer": "tea"})], question="What?")
    assert (read.answer, len(read.trajectory.steps)) == ("tea", 2)
    stored = ask(agent, [both("add_memory", content="milk")], question="What?")
    assert (stored.answer, len(stored.trajectory.steps)) == ("guess", 1)
    failed = ask(agent, [both("add_memory", content=""), json.dumps({"answer": "tea"})], question="What?")
    assert (failed.answer, len(failed.trajectory.steps)) == ("tea", 2)


def test_the_round_limit_ends_a_turn_without_an_answer() -> None:
    prediction = ask(make(max_rounds=2), [call("add_memory", content="x")] * 2, question="?")
    assert prediction.answer is None
    assert prediction.trajectory.answer is None
    assert prediction.trajectory.stop_reason is StopReason.ROUND_LIMIT
    assert len(prediction.trajectory.steps) == 2


def test_an_answer_in_the_last_round_is_an_answer() -> None:
    prediction = ask(make(max_rounds=2), [call("add_memory", content="x"), answer("yes")], question="?")
    assert prediction.answer == "yes"
    assert prediction.trajectory.stop_reason is StopReason.ANSWERED


def test_a_reply_that_cannot_be_read_is_shown_with_what_was_wrong() -> None:
    lm = scripted_lm(["I will store that.", "<answer></answer>", "<tool_call>[{]</tool_call>", answer("ok")])
    prediction = ask(make(), lm, question="?")
    assert prediction.answer == "ok"
    first, second, third, last = prediction.trajectory.steps
    assert [step.parsed for step in (first, second, third, last)] == [False, False, False, True]
    assert first.error == "no <tool_call> or <answer> tag"
    assert (first.events[0].tool, first.events[0].ok) == ("", False)
    assert second.events[0].error == "the reply held neither a tool call nor an answer"
    assert [message["content"] for message in last.context][1:] == [
        "I will store that.",
        "error: no <tool_call> or <answer> tag",
        "(nothing)",
        f"error: {second.events[0].error}",
        "<tool_call>[{]</tool_call>",
        f"error: {third.error}",
    ]


def test_two_unreadable_replies_in_a_row_end_the_turn() -> None:
    script = ["I will store that.", call("add_memory", content="x"), "I will.", "I really will.", answer("too late")]
    prediction = ask(make(), script, question="?")
    assert prediction.answer is None
    assert prediction.trajectory.stop_reason is StopReason.UNREADABLE
    assert [step.parsed for step in prediction.trajectory.steps] == [False, True, False, False]


def test_a_parsers_notes_are_on_the_event() -> None:
    script = ['<tool_call>{"name": "Add_memory", "arguments": {"content": "x"}}', answer("ok")]
    event = ask(make(), script, question="?").trajectory.steps[0].events[0]
    assert event.notes == (
        "a single call was not in an array",
        "closing tag </tool_call> was missing",
        "Add_memory is called add_memory",
    )


def test_the_question_and_the_issuing_message_survive_filter_and_summary() -> None:
    script = [
        call("filter_context", criteria="Where do I live?"),
        call("summarize_context"),
        "A summary.",
        answer("Rome"),
    ]
    trajectory = ask(make(), script, question="Where do I live?").trajectory
    assert trajectory.steps[-1].context[0]["content"] == "Where do I live?"
    assert [event.ok for event in trajectory.events[1:]] == [False, True]
    assert script[1] in [message["content"] for message in trajectory.steps[-1].context]


# Summaries


def test_a_summary_is_one_lm_call_and_a_step_of_its_own() -> None:
    lm = scripted_lm([call("add_memory", content="x"), call("summarize_context"), " All is stored. ", answer("ok")])
    trajectory = ask(make(), lm, question="?").trajectory
    assert [step.kind for step in trajectory.steps] == ["act", "act", "summarize", "act"]
    written = trajectory.steps[2]
    assert written.output == {"summary": "All is stored."}
    assert (written.parsed, written.round, written.events) == (True, 2, ())
    assert written.context[0]["content"] == f"assistant: {call('add_memory', content='x')}\ntool: added m1"
    assert "keeping every name, number, time and place" in lm.engine.prompts[2]
    assert trajectory.steps[1].events[0].detail == "All is stored."
    assert kinds(trajectory)[3] == ["question", "summary", "call", "result"]
    assert len(lm.engine.prompts) == 4


def test_a_summary_that_cannot_be_read_is_a_failed_call_and_still_a_step() -> None:
    agent = make(adapter=None)
    broken = "[[ ## nothing ## ]]\nx"
    store = '[[ ## tool_calls ## ]]\n{"tool_calls": [{"name": "add_memory", "args": {"content": "x"}}]}'
    shorten = '[[ ## tool_calls ## ]]\n{"tool_calls": [{"name": "summarize_context", "args": {}}]}'
    script = [store, shorten, broken, "[[ ## answer ## ]]\nok"]
    with dspy.context(adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        trajectory = ask(agent, script, question="?").trajectory
    assert [(step.kind, step.parsed) for step in trajectory.steps][2] == ("summarize", False)
    assert trajectory.steps[2].error
    assert "nothing was replaced" in trajectory.events[-1].observation


def test_messages_too_long_to_summarize_are_a_failed_call() -> None:
    script = [call("add_memory", content="x"), call("summarize_context"), lm15.ContextLengthError("full"), answer("ok")]
    prediction = ask(make(), script, question="?")
    assert "give a smaller span" in prediction.trajectory.events[-1].observation
    assert prediction.answer == "ok"


# Failures that are not the policy's


def test_a_full_context_ends_the_turn() -> None:
    script = [call("add_memory", content="x"), lm15.ContextLengthError("9000 tokens exceed 8192")]
    prediction = ask(make(), script, question="?")
    trajectory = prediction.trajectory
    assert trajectory.stop_reason is StopReason.CONTEXT_OVERFLOW
    assert prediction.answer is None
    assert "9000 tokens exceed 8192" in (trajectory.steps[-1].error or "")
    assert [memory.content for memory in trajectory.memories] == ["x"]


def test_an_lm_that_fails_stops_the_program() -> None:
    with pytest.raises(LMError, match="no network"):
        ask(make(), [RuntimeError("no network")], question="?")
    script = [call("add_memory", content="x"), call("summarize_context"), RuntimeError("no network")]
    with pytest.raises(LMError, match="no network"):
        ask(make(), script, question="?")


def test_an_embedder_that_fails_stops_the_program() -> None:
    class Broken(HashEmbedder):
        def embed(self, texts: Any) -> Any:
            raise OSError("no model file")

    agent = make(memory=InMemoryStore(Broken()))
    with pytest.raises(Exception, match="no model file"):
        ask(agent, [call("add_memory", content="x"), answer("ok")], question="")


# Signatures and adapters


class Trip(dspy.Signature):
    """Plan a trip."""

    city: str = dspy.InputField()
    month: str = dspy.InputField()
    stops: list[str] = dspy.OutputField()
    days: int = dspy.OutputField()
    pace: Literal["slow", "fast"] = dspy.OutputField()
    note: str | None = dspy.OutputField()


TRIP = {"stops": ["Rome", "Bari"], "days": 3, "pace": "slow", "note": "by train"}


@pytest.mark.parametrize("adapter", [CompactAdapter(), dspy.ChatAdapter(), dspy.JSONAdapter()])
def test_typed_outputs_come_back_typed_with_any_adapter(adapter: dspy.Adapter) -> None:
    agent = make(Trip, adapter=adapter)
    stored = dspy.ToolCalls.from_dict_list([{"name": "add_memory", "args": {"content": "Rome in May"}}])
    nothing = dict.fromkeys(TRIP)
    script = [
        adapter.format_assistant_message_content(
            agent.step.signature, {"reasoning": "", "tool_calls": stored, **nothing}
        ),
        adapter.format_assistant_message_content(
            agent.step.signature, {"reasoning": "", "tool_calls": dspy.ToolCalls(tool_calls=[]), **TRIP}
        ),
    ]
    prediction = ask(agent, script, city="Rome", month="May")
    assert {name: prediction[name] for name in TRIP} == TRIP
    assert len(prediction.trajectory.steps) == 2
    assert [memory.content for memory in prediction.trajectory.memories] == ["Rome in May"]


def test_an_incomplete_answer_is_asked_for_again() -> None:
    agent = make(Trip, adapter=dspy.JSONAdapter())
    script = [json.dumps({"stops": ["Rome"], "days": 3}), json.dumps({**TRIP, "note": None})]
    prediction = ask(agent, script, city="Rome", month="May")
    assert prediction.trajectory.events[-1].error == "the answer lacks pace; give all of it at once"
    assert (prediction.pace, prediction.note) == ("slow", None)
    assert [step.parsed for step in prediction.trajectory.steps] == [False, True]


@pytest.mark.parametrize("word", ["None", "null", "N/A", ""])
def test_a_word_for_nothing_beside_calls_is_no_answer(word: str) -> None:
    """Chat models fill every field; "None" beside a call must not end the turn."""
    stored = '{"tool_calls": [{"name": "add_memory", "args": {"content": "x"}}]}'
    first = f"[[ ## tool_calls ## ]]\n{stored}\n\n[[ ## answer ## ]]\n{word}"
    script = [first, "[[ ## reasoning ## ]]\ncounted\n\n[[ ## answer ## ]]\nNone"]
    prediction = ask(make(adapter=dspy.ChatAdapter()), script, question="How many siblings?")
    assert len(prediction.trajectory.steps) == 2
    assert prediction.answer == "None"  # alone it is one


def test_native_function_calling() -> None:
    adapter = dspy.ChatAdapter(use_native_function_calling=True)
    lm = scripted_lm(
        [[("add_memory", {"content": "a"}), ("add_memory", {"content": "b"})], "[[ ## answer ## ]]\nboth"],
        native_tools=True,
    )
    prediction = ask(make(adapter=adapter), lm, question="Store a and b.")
    assert prediction.answer == "both"
    assert [memory.content for memory in prediction.trajectory.memories] == ["a", "b"]
    sent = {tool.name: tool for tool in lm.engine.requests[0].tools}
    assert sent["add_memory"].description == "Store a new lasting fact."
    assert sent["retrieve_memory"].parameters["required"] == ["query"]
    assert "retrieve_memory" not in lm.engine.prompts[0]


# Tools of the user's


def weather(city: str) -> str:
    """Tell the weather."""
    if city == "Nowhere":
        raise LookupError("no such city")
    return f"rain in {city}"


async def forecast(city: str) -> str:
    """Tell the weather to come."""
    await asyncio.sleep(0)
    return f"sun in {city}"


def test_a_users_tool_is_offered_called_and_read_before_answering() -> None:
    agent = make(tools=[weather])
    lm = scripted_lm([call("weather", city="Nowhere"), call("weather", city="Rome"), answer("rain")])
    trajectory = ask(agent, lm, question="Weather?").trajectory
    assert "weather(city): Tell the weather." in lm.engine.prompts[0]
    assert [event.observation for event in trajectory.events[1:]] == [
        "error: weather failed: no such city",
        "rain in Rome",
    ]


def comparable(trajectory: Trajectory) -> Any:
    """Drop what differs between two runs: ids and times of memories."""

    def plain(event: Any) -> Any:
        return dataclasses.replace(event, memory_ids=())

    steps = tuple(dataclasses.replace(s, events=tuple(map(plain, s.events))) for s in trajectory.steps)
    events, memories = tuple(map(plain, trajectory.events)), tuple(memory.content for memory in trajectory.memories)
    return dataclasses.replace(trajectory, steps=steps, events=events, memories=memories)  # type: ignore[arg-type]


SCRIPT: list[Reply] = [
    calls(("add_memory", {"content": "tea"}), ("forecast", {"city": "Rome"})),
    "nonsense",
    call("weather", city="Nowhere"),
    call("summarize_context"),
    "It is sunny.",
    call("retrieve_memory", query="tea"),
    answer("tea"),
]


def test_aforward_plays_the_trajectory_that_forward_plays() -> None:
    def fresh() -> AgeMemAgent:
        return make(tools=[weather, forecast], max_rounds=8)

    async def awaited() -> dspy.Prediction:
        return await fresh().acall(question="?")

    with dspy.context(lm=scripted_lm(SCRIPT)):
        later = asyncio.run(awaited())
    with dspy.context(lm=scripted_lm(SCRIPT), allow_tool_async_sync_conversion=True):
        now = fresh()(question="?")
    assert comparable(later.trajectory) == comparable(now.trajectory)
    assert later.answer == now.answer == "tea"
    assert "sun in Rome" in [event.observation for event in later.trajectory.events]


# Memory


def test_memory_lasts_from_call_to_call() -> None:
    agent = make()
    ask(agent, [call("add_memory", content="I am vegan"), answer("ok")], question="I am vegan.")
    seen = ask(agent, [answer("vegan")], question="What am I?").trajectory.steps[0].context
    assert seen[1]["content"] == "m1: I am vegan"
    assert len(seen) == 2  # the conversation does not last


def test_users_do_not_share_memories() -> None:
    agent = make()
    ask(agent, [call("add_memory", content="I am vegan"), answer("ok")], question="I am vegan.", user_id="ana")
    other = ask(agent, [call("retrieve_memory", query="vegan"), answer("?")], question="What am I?", user_id="ben")
    assert other.trajectory.events[-1].observation == "no memories found"
    assert agent.memory.scoped("ana").count() == 1
    assert agent.memory.count() == 0


def test_whoever_asks_the_memory_stays_that_of_its_agent() -> None:
    shared = InMemoryStore(HashEmbedder())
    planner, critic = (make(memory=shared.scoped("default", agent_id=name)) for name in ("planner", "critic"))
    ask(planner, [call("add_memory", content="I am vegan"), answer("ok")], question="I am vegan.", user_id="ana")
    [memory] = shared.scoped("ana").all()
    assert memory.agent_id == "planner"
    other = ask(critic, [call("retrieve_memory", query="vegan"), answer("?")], question="What am I?", user_id="ana")
    assert other.trajectory.events[-1].observation == "no memories found"


PROCESS = """
import sys, dspy
from fakes import answer, call, scripted_lm
from agemem_dspy.memory import HashEmbedder, LongTermMemory
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.programs.agent import AgeMemAgent
memory = LongTermMemory.open(sys.argv[1], embedder=HashEmbedder())
agent = AgeMemAgent("question -> answer", memory=memory, adapter=CompactAdapter())
dspy.configure(lm=scripted_lm([call("add_memory", content="The home airport is Lisbon."), answer("noted")]))
assert agent(question="I fly from Lisbon.", user_id="ana").answer == "noted"
memory.close()
"""


def test_memory_lasts_from_process_to_process(tmp_path: Path) -> None:
    folder = tmp_path / "memories"
    command = [sys.executable, "-c", PROCESS, str(folder)]
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), str(tests.parent)])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stderr
    with LongTermMemory.open(folder, embedder=HashEmbedder()) as memory:
        prediction = ask(make(memory=memory), [answer("Lisbon")], question="Which home airport?", user_id="ana")
        assert prediction.trajectory.steps[0].context[1]["content"] == "m1: The home airport is Lisbon."


def test_an_agent_without_a_store_makes_one_of_its_own_when_it_is_needed() -> None:
    agent, other = AgeMemAgent(QA), AgeMemAgent(QA)
    assert agent._memory is None
    assert agent.memory is agent.memory is not other.memory


# The object


def test_a_copy_shares_the_store_and_not_the_predictors() -> None:
    agent = make(tools=[weather])
    copied = agent.deepcopy()
    assert copied.memory is agent.memory
    assert copied.tools == agent.tools
    assert copied.step is not agent.step
    copied.step.demos = [{"answer": "x"}]
    copied.operations["add_memory"].signature = copied.operations["add_memory"].signature.with_instructions("Other.")
    assert agent.step.demos == []
    assert agent.operations["add_memory"].signature.instructions == "Store a new lasting fact."


def test_a_pickled_agent_leaves_its_store_behind() -> None:
    agent = make()
    agent.step.demos = [{"answer": "x"}]
    again = cloudpickle.loads(cloudpickle.dumps(agent))
    assert again.step.demos == [{"answer": "x"}]
    assert again._memory is None
    with again._opening:
        pass
    assert copy.deepcopy(again).max_rounds == 5


@pytest.mark.parametrize(
    ("signature", "options", "message"),
    [
        (QA, {"max_rounds": 0}, "at least 1"),
        (QA, {"recall_top_k": 0}, "at least 1"),
        (QA, {"filter_threshold": 2}, "between -1 and 1"),
        (QA, {"memory_tools": ["add_memory", "forget"]}, "no memory tool 'forget'; choose some of add_memory, update"),
        ("user_id -> answer", {}, "rename the input field 'user_id'"),
        ("question -> context", {}, "rename the output field 'context'"),
    ],
)
def test_settings_that_cannot_work_are_refused(signature: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(signature, **options)


def test_an_agent_may_have_some_of_the_tools_alone() -> None:
    lm = scripted_lm([call("filter_context", criteria="x"), call("add_memory", content="x"), answer("done")])
    prediction = ask(make(memory_tools=["retrieve_memory", "add_memory"]), lm, question="?")
    assert "add_memory(" in lm.engine.prompts[0]
    assert "filter_context" not in lm.engine.prompts[0]
    refused, added = (event for event in prediction.trajectory.events if not event.automatic)
    assert refused.error == "there is no tool 'filter_context'; use one of add_memory, retrieve_memory"
    assert added.ok
    assert make(memory_tools=["retrieve_memory", "add_memory"]).memory_tools == ("add_memory", "retrieve_memory")


def test_a_users_tool_with_a_memory_tools_name_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="rename the tool 'add_memory'"):
        ask(make(tools=[dspy.Tool(weather, name="add_memory")]), [answer("?")], question="?")


# With a local policy


def test_every_step_of_a_local_policy_has_its_tokens(tmp_path: Path) -> None:
    engine = PolicyEngine(load(tiny_llama(tmp_path, corpus=["Ana lives in Rome <answer>"], vocab_size=300)))
    agent = make(max_rounds=3)
    agent.memory.add("Rome")
    prediction = ask(agent, local_lm(engine, temperature=1.0, max_tokens=8), question="Where?")
    steps = prediction.trajectory.steps
    assert steps
    for step in steps:
        assert step.completion is not None
        inputs = {
            "context": Transcript(messages=[dict(m) for m in step.context]),
            "tools": agent.session(agent.memory).toolkit.tools,
        }
        expected = engine.render(CompactAdapter().format(agent.step.signature, [], inputs))
        assert step.completion.prompt_ids == tuple(expected.tolist())
        assert step.prompt_tokens == len(expected)
    if len(steps) > 1:
        assert steps[1].context[-2]["content"] == (steps[0].completion.text or "(nothing)")  # type: ignore[union-attr]
    session = agent.session(agent.memory)
    assert session.context.tokens == 0
    with dspy.context(lm=local_lm(engine)):
        counted = agent.session(agent.memory).context
    assert counted._count_tokens("Ana lives") == len(engine.tokenizer.encode("Ana lives"))


def test_the_summary_of_a_local_policy_has_its_tokens_too(tmp_path: Path) -> None:
    engine = PolicyEngine(load(tiny_llama(tmp_path, corpus=["Ana lives in Rome"], vocab_size=300)))
    agent = make()
    called = [[{"name": "add_memory", "args": {"content": "x"}}], [{"name": "summarize_context", "args": {}}]]
    outputs: list[Any] = [*({"tool_calls": one} for one in called), {"answer": "ok"}]
    agent.step = Script(iter(outputs), agent.step.signature)
    agent.summarize.lm = local_lm(engine, max_tokens=5)
    steps = agent(question="?").trajectory.steps
    assert [step.completion is not None for step in steps] == [False, False, True, False]
    completion = steps[2].completion
    assert completion is not None
    assert completion.text.strip() == steps[2].output["summary"]
    assert steps[2].prompt_tokens == len(completion.prompt_ids)
