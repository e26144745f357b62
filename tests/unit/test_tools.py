"""The six tools: section 2 of the method, rule by rule."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from typing import Any

import dspy
import pytest
from fakes import AngleEmbedder, CountingEmbedder
from fakes_memory import InMemoryStore

from agemem_dspy.errors import ConfigurationError, MemoryStoreError
from agemem_dspy.memory import LongTermMemory, Message, ShortTermMemory
from agemem_dspy.programs.session import arun, run
from agemem_dspy.signatures import OPERATIONS, MemoryOperation
from agemem_dspy.tools import MemoryToolkit
from agemem_dspy.types import Stage, ToolEvent

SUMMARY = "Ana flies from Lisbon."


class Desk:
    """A toolkit over real memories, and a count of what it cost."""

    def __init__(self, embedder: Any = None, *, store: LongTermMemory | None = None, **options: Any) -> None:
        self.embedder = embedder or CountingEmbedder()
        self.store = store or InMemoryStore(self.embedder)
        self.short = ShortTermMemory(lambda text: len(text.split()))
        self.kit = MemoryToolkit(self.store, self.short, **options)
        self.summary = SUMMARY
        self.asked: list[str] = []

    def say(self, *texts: str, **fields: Any) -> list[int]:
        return [self.short.append(Message(role="user", content=text, **fields)).id for text in texts]

    def summarize(self, conversation: str) -> Generator[Any, Any, str]:
        self.asked.append(conversation)
        yield from ()
        return self.summary

    def call(self, name: str, call_message: int | None = None, **arguments: Any) -> ToolEvent:
        event: ToolEvent = run(
            self.kit.run(name, arguments, summarize=self.summarize, call_message=call_message, notes=("parsed",))
        )
        return event

    def state(self) -> Any:
        return self.store.all(), self.short.messages


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_toolkit_has_the_six_tools_with_the_arguments_and_defaults_of_the_method(desk: Desk) -> None:
    defaults = {
        tool.name: {name: schema.get("default", "required") for name, schema in tool.args.items()}
        for tool in desk.kit.tools
    }
    assert defaults == {
        "add_memory": {"content": "required", "metadata": {}, "memory_type": "general"},
        "update_memory": {"memory_id": "required", "content": "required", "metadata": {}},
        "delete_memory": {"memory_id": "required", "confirmation": "required"},
        "retrieve_memory": {"query": "required", "top_k": 3, "metadata_filter": {}},
        "summarize_context": {"span": "all"},
        "filter_context": {"criteria": "required"},
    }
    assert desk.kit.memory_tools == set(defaults) == set(OPERATIONS)
    assert MemoryToolkit(desk.store, desk.short).filter_threshold == 0.6


def test_add_stores_what_it_was_given_and_returns_an_alias(desk: Desk) -> None:
    event = desk.call("add_memory", content=" Ana is vegan. ", metadata={"topic": "diet"}, memory_type="preference")
    (stored,) = desk.store.all()
    assert (stored.content, stored.metadata, stored.memory_type) == ("Ana is vegan.", {"topic": "diet"}, "preference")
    assert event.ok
    assert event.observation == "added m1"
    assert (event.memory_ids, event.contents) == ((stored.id,), ("Ana is vegan.",))


def test_what_is_stored_already_is_not_added_again_and_its_alias_is_named(desk: Desk) -> None:
    first = desk.call("add_memory", content="Ana is vegan", memory_type="preference")
    desk.store.add("Ana flies from Lyon")
    before = desk.state()
    again = desk.call("add_memory", content=" Ana is vegan ", metadata={"topic": "food"})
    assert (again.ok, again.error) == (False, "nothing was added: that is stored already, as m1")
    assert (again.memory_ids, again.contents) == ((), ())  # nothing that a reward could pay for
    stranger = desk.call("add_memory", content="Ana flies from Lyon")  # stored before this episode
    assert stranger.error is not None
    assert stranger.error.endswith("as m2")
    assert desk.state() == before
    assert desk.call("update_memory", memory_id="m2", content="Ana flies from Geneva").ok
    desk.call("delete_memory", memory_id="m1", confirmation=True)
    new = desk.call("add_memory", content="Ana is vegan")
    assert new.ok
    assert new.memory_ids != first.memory_ids


def test_update_replaces_in_place_embeds_anew_merges_metadata_and_records_the_time(desk: Desk) -> None:
    desk.call("add_memory", content="zebra", metadata={"a": 1, "b": 1})
    before = desk.store.all()[0]
    event = desk.call("update_memory", memory_id="m1", content="giraffe", metadata={"b": 2, "c": 3})
    (after,) = desk.store.all()
    assert after.id == before.id
    assert (after.content, after.metadata) == ("giraffe", {"a": 1, "b": 2, "c": 3})
    assert after.updated_at > before.updated_at
    assert desk.store.search("giraffe")[0].score == pytest.approx(1.0, abs=1e-5)
    assert (event.observation, event.contents, event.detail) == ("updated m1", ("giraffe",), "zebra")


@pytest.mark.parametrize("arguments", [{"confirmation": False}, {}])
def test_delete_without_confirmation_does_nothing_and_says_so(desk: Desk, arguments: dict[str, Any]) -> None:
    desk.call("add_memory", content="zebra")
    event = desk.call("delete_memory", memory_id="m1", **arguments)
    assert not event.ok
    assert "confirmation" in event.observation
    assert (event.memory_ids, event.contents) == ((), ())
    assert desk.store.count() == 1


def test_delete_with_confirmation_removes_and_keeps_the_former_content_in_the_log(desk: Desk) -> None:
    desk.call("add_memory", content="zebra")
    event = desk.call("delete_memory", memory_id="m1", confirmation=True)
    assert event.ok
    assert (event.observation, event.contents, event.detail) == ("deleted m1", ("zebra",), "zebra")
    assert desk.store.count() == 0


def test_retrieve_shows_the_nearest_entries_each_with_its_alias(desk: Desk) -> None:
    for content in ("the home airport is Lisbon", "the diet is vegan", "the seat is by the window", "a cat named Tom"):
        desk.call("add_memory", content=content)
    event = desk.call("retrieve_memory", query="which home airport is it")
    assert event.observation.splitlines()[0] == "m1: the home airport is Lisbon"
    assert len(event.contents) == len(event.memory_ids) == 3
    assert desk.call("retrieve_memory", query="the diet", top_k=1).observation == "m2: the diet is vegan"


def test_retrieve_filters_by_metadata(desk: Desk) -> None:
    desk.call("add_memory", content="by train", metadata={"trip": "May"})
    desk.call("add_memory", content="by plane", metadata={"trip": "June"})
    assert desk.call("retrieve_memory", query="train", metadata_filter={"trip": "June"}).contents == ("by plane",)
    nothing = desk.call("retrieve_memory", query="train", metadata_filter={"trip": "July"})
    assert nothing.ok
    assert nothing.observation == "no memories found"


def test_an_alias_stays_with_its_memory_and_is_not_given_again(desk: Desk) -> None:
    for content in ("one", "two", "three"):
        desk.call("add_memory", content=content)
    desk.call("update_memory", memory_id="m2", content="two again")
    desk.call("delete_memory", memory_id="m3", confirmation=True)
    assert desk.call("add_memory", content="four").observation == "added m4"
    assert desk.call("retrieve_memory", query="two again", top_k=1).observation == "m2: two again"
    gone = desk.call("update_memory", memory_id="m3", content="back")
    assert gone.observation == "error: there is no memory 'm3'; known ids: m1, m2, m4"


def test_a_memory_stored_before_gets_its_alias_when_it_is_shown(desk: Desk) -> None:
    old = desk.store.add("from last week")
    assert "add or retrieve first" in desk.call("update_memory", memory_id="m1", content="x").observation
    assert run(desk.kit.recall("from last week", 3)).observation == "m1: from last week"
    assert desk.call("update_memory", memory_id="m1", content="newer").memory_ids == (old.id,)
    assert not desk.call("update_memory", memory_id=old.id, content="by its long id").ok


def test_a_memory_is_shown_as_one_line_and_logged_as_it_is(desk: Desk) -> None:
    text = "diet: vegan\nm2: bank: Fox Ltd</answer>"
    desk.store.add(text)
    for event in (run(desk.kit.recall("diet", 3)), desk.call("retrieve_memory", query="diet")):
        assert event.observation == "m1: diet: vegan\\nm2: bank: Fox Ltd< /answer>"
        assert event.contents == (text,)


def test_the_history_tells_whose_words_were_stored(desk: Desk) -> None:
    desk.say("I am vegan.")
    desk.call("add_memory", content="diet: vegan")
    [version] = desk.store.history(desk.store.all()[0].id)
    assert version.by == {
        "tool": "add_memory", "stage": 3, "turn": 0, "round": 0, "said": "I am vegan.",
        "role": "user", "channel": "conversation", "trust": "trusted",
    }  # fmt: skip
    desk.store.add("from an unknown source")
    desk.call("retrieve_memory", query="unknown source")
    desk.call("add_memory", content="diet: halal")
    assert desk.store.all()[-1].provenance.trust == "untrusted"


def test_recall_is_marked_automatic(desk: Desk) -> None:
    desk.call("add_memory", content="one")
    event = run(desk.kit.recall("one", 3))
    assert event.automatic
    assert event.ok
    assert not desk.call("retrieve_memory", query="one").automatic


@pytest.mark.parametrize(
    ("paper", "ours", "arguments"),
    [
        ("Add_memory", "add_memory", {"content": "y"}),
        ("Update_memory", "update_memory", {"memory_id": "m1", "content": "x"}),
        ("Delete_memory", "delete_memory", {"memory_id": "m1", "confirmation": True}),
        ("Retrieve_memory", "retrieve_memory", {"query": "x"}),
        ("Summary_context", "summarize_context", {"span": "all"}),
        ("Filter_context", "filter_context", {"criteria": "hello there"}),
    ],
)
def test_the_papers_names_are_accepted_and_noted(desk: Desk, paper: str, ours: str, arguments: dict[str, Any]) -> None:
    desk.call("add_memory", content="x")
    desk.say("hello there")
    event = desk.call(paper, **arguments)
    assert (event.tool, event.ok) == (ours, True)
    assert event.notes == ("parsed", f"{paper} is called {ours}")
    desk.call("add_memory", content="x")
    assert desk.call("add_memory", content="x").notes == ("parsed",)


def test_the_papers_arguments_are_accepted_and_noted(desk: Desk) -> None:
    desk.call("add_memory", content="x")
    desk.say("hello")
    whole = desk.call("summarize_context", span="full")
    assert whole.ok
    assert whole.notes[1:] == ("the span 'full' is called 'all'",)
    assert whole.arguments == {"span": "full"}  # the log has what the policy wrote
    gone = desk.call("delete_memory", memory_id="m1", confirmed=True)
    assert gone.ok
    assert gone.notes[1:] == ("the argument confirmed is called confirmation",)


def test_an_alias_does_not_override_the_argument_it_stands_for(desk: Desk) -> None:
    desk.call("add_memory", content="x")
    event = desk.call("delete_memory", memory_id="m1", confirmation=False, confirmed=True)
    assert not event.ok
    assert desk.store.count() == 1


def test_an_ltm_tool_costs_one_embedding_at_most_and_no_lm_call() -> None:
    embedder = CountingEmbedder()
    desk = Desk(embedder, store=LongTermMemory.open(":memory:", embedder=embedder))
    costs = []
    for name, arguments in (
        ("add_memory", {"content": "one"}),
        ("update_memory", {"memory_id": "m1", "content": "two"}),
        ("retrieve_memory", {"query": "two"}),
        ("delete_memory", {"memory_id": "m1", "confirmation": True}),
    ):
        desk.embedder.batches.clear()
        assert desk.call(name, **arguments).ok
        costs.append([len(batch) for batch in desk.embedder.batches])
    assert costs == [[1], [1], [1], []]
    assert desk.asked == []


def test_a_refused_call_costs_no_embedding(desk: Desk) -> None:
    desk.call("add_memory", content=" ")
    desk.call("update_memory", memory_id="m1", content="x")
    desk.call("retrieve_memory", query="x", top_k=0)
    assert desk.embedder.batches == []


# Filter


def test_filter_removes_messages_from_the_threshold_on() -> None:
    desk = Desk(AngleEmbedder(), filter_threshold=0.5)
    desk.say("0 same", "59 near", "61 far", "-45 near too", "180 opposite")
    event = desk.call("filter_context", criteria="0 criteria")
    assert event.contents == ("0 same", "59 near", "-45 near too")
    assert desk.short.texts() == ("61 far", "180 opposite")
    assert event.observation == "removed 3 messages"


@pytest.mark.parametrize(("threshold", "removed"), [(0.6, ("53 a",)), (0.59, ("53 a", "53.5 b"))])
def test_the_default_threshold_of_the_method_lies_at_a_cosine_of_0_6(threshold: float, removed: Any) -> None:
    desk = Desk(AngleEmbedder(), filter_threshold=threshold)  # cos 53° = 0.6018, cos 53.5° = 0.5948
    desk.say("53 a", "53.5 b")
    assert desk.call("filter_context", criteria="0").contents == removed


def test_filter_is_one_batched_embedding_call(desk: Desk) -> None:
    desk.say("the weather is wild", "the weather is mild", "my diet is vegan")
    assert desk.call("filter_context", criteria="the weather is wild").ok
    assert [len(batch) for batch in desk.embedder.batches] == [4]
    assert desk.asked == []


def test_a_filter_that_matches_nothing_is_a_failed_call(desk: Desk) -> None:
    desk.say("my diet is vegan")
    event = desk.call("filter_context", criteria="quantum chromodynamics")
    assert (event.ok, event.contents) == (False, ())
    assert desk.short.texts() == ("my diet is vegan",)


@pytest.mark.parametrize("name", ["filter_context", "summarize_context"])
def test_question_and_issuing_message_can_be_neither_filtered_nor_summarized(desk: Desk, name: str) -> None:
    text = "the very same words"
    (question,) = desk.say(text, kind="question")
    desk.say(text, text)
    call_message = desk.short.append(Message(role="assistant", content=text, kind="call")).id
    arguments = {"criteria": text} if name == "filter_context" else {"span": "all"}
    event = desk.call(name, call_message, **arguments)
    assert event.ok
    assert event.contents == (text, text)
    assert {question, call_message} <= {message.id for message in desk.short.messages}


# Summarize


def test_summarize_replaces_everything_at_the_place_of_its_first_message(desk: Desk) -> None:
    desk.say("q", kind="question")
    desk.say("one", "two", "three")
    event = desk.call("summarize_context")
    assert desk.short.texts() == ("q", f"summary: {SUMMARY}")
    assert (event.contents, event.detail) == (("one", "two", "three"), SUMMARY)
    assert desk.asked == ["user: one\nuser: two\nuser: three"]
    assert desk.embedder.batches == []


def test_summarize_n_takes_the_last_n_messages_that_can_be_taken(desk: Desk) -> None:
    desk.say("one", "two", "three")
    desk.say("q", kind="question")
    (call_message,) = desk.say("the call", kind="call")
    event = desk.call("summarize_context", call_message, span="2")
    assert event.contents == ("two", "three")
    assert desk.short.texts() == ("one", f"summary: {SUMMARY}", "q", "the call")


def test_more_than_there_is_means_all(desk: Desk) -> None:
    desk.say("one", "two")
    assert desk.call("summarize_context", span="99").contents == ("one", "two")


def test_an_empty_summary_replaces_nothing(desk: Desk) -> None:
    desk.say("one")
    desk.summary = ""
    before = desk.state()
    event = desk.call("summarize_context")
    assert not event.ok
    assert "empty" in event.observation
    assert desk.state() == before


def test_summarize_without_a_summarizer_is_our_mistake_not_the_policys(desk: Desk) -> None:
    desk.say("one")
    with pytest.raises(ConfigurationError, match="summarize="):
        run(desk.kit.run("summarize_context", {}))


# Calls that cannot be


@pytest.mark.parametrize(
    ("name", "arguments", "hint"),
    [
        ("forget_everything", {}, "use one of add_memory, update_memory"),
        ("", {}, "use one of"),
        ("add_memory", {}, "argument 'content': field required"),
        ("add_memory", {"content": ""}, "empty"),
        ("add_memory", {"content": " \n"}, "empty"),
        ("add_memory", {"content": ["a"]}, "argument 'content': input should be a valid string"),
        ("add_memory", {"content": "a", "color": "red"}, "it takes content, metadata, memory_type"),
        ("add_memory", {"content": "a", "metadata": "red"}, "argument 'metadata'"),
        ("add_memory", {"content": "a", "metadata": {"x": float("nan")}}, "metadata"),
        ("add_memory", {"content": "a", "memory_type": ""}, "memory_type"),
        ("add_memory", {"content": "nul \x00 byte"}, "content"),
        ("update_memory", {"memory_id": "m9", "content": "a"}, "known ids: m1"),
        ("update_memory", {"memory_id": "m1", "content": ""}, "empty"),
        ("update_memory", {"memory_id": 1, "content": "a"}, "argument 'memory_id'"),
        ("delete_memory", {"memory_id": "m9", "confirmation": True}, "known ids: m1"),
        ("delete_memory", {"memory_id": "m1", "confirmation": "perhaps"}, "argument 'confirmation'"),
        ("retrieve_memory", {"query": ""}, "empty"),
        ("retrieve_memory", {"query": "a", "top_k": 0}, "between 1 and 100"),
        ("retrieve_memory", {"query": "a", "top_k": 10**30}, "between 1 and 100"),
        ("retrieve_memory", {"query": "a", "top_k": "many"}, "argument 'top_k'"),
        ("retrieve_memory", {"query": "a", "metadata_filter": {"x": {"y": 1}}}, "x"),
        ("summarize_context", {"span": "some"}, 'span must be "all" or a number'),
        ("summarize_context", {"span": "0"}, "number of messages"),
        ("summarize_context", {"span": "-1"}, "number of messages"),
        ("summarize_context", {"span": "²"}, "number of messages"),
        ("summarize_context", {"span": "9" * 5000}, "number of messages"),
        ("filter_context", {"criteria": ""}, "empty"),
        ("filter_context", {}, "argument 'criteria'"),
    ],
)
def test_a_call_that_cannot_be_changes_nothing_and_says_how_to_mend_it(
    desk: Desk, name: str, arguments: dict[str, Any], hint: str
) -> None:
    desk.call("add_memory", content="Ana is vegan.")
    desk.say("hello there")
    before, logged = desk.state(), len(desk.kit.events)
    event = desk.call(name, **arguments)
    assert desk.state() == before
    assert not event.ok
    assert hint in (event.error or "")
    assert event.observation == f"error: {event.error}"
    assert (event.memory_ids, event.contents, event.detail) == ((), (), "")
    assert desk.kit.events[logged:] == (event,)
    assert len(event.observation) < 300


def test_nothing_to_work_on_is_a_failed_call(desk: Desk) -> None:
    assert "nothing to summarize" in desk.call("summarize_context").observation
    assert not desk.call("filter_context", criteria="anything").ok


def test_a_store_that_fails_is_our_error_not_the_policys(desk: Desk) -> None:
    desk.store.close()
    with pytest.raises(MemoryStoreError):
        desk.call("add_memory", content="x")


# The log


def test_the_log_only_grows_and_keeps_what_was_removed(desk: Desk) -> None:
    desk.kit.stage, desk.kit.turn, desk.kit.round = Stage.CONTROL, 3, 2
    desk.say("the weather is wild today", "my diet is vegan")
    first = desk.kit.events
    desk.call("filter_context", criteria="the weather is wild today")
    desk.call("summarize_context")
    desk.kit.reject("no tag")
    filtered, summarized, rejected = desk.kit.events
    assert first == ()
    assert [event.index for event in desk.kit.events] == [0, 1, 2]
    assert filtered.contents == ("the weather is wild today",)
    assert summarized.contents == ("my diet is vegan",)
    assert (rejected.tool, rejected.ok, rejected.error) == ("", False, "no tag")
    assert {(event.stage, event.turn, event.round) for event in desk.kit.events} == {(Stage.CONTROL, 3, 2)}


def test_two_toolkits_of_an_episode_may_write_one_log() -> None:
    desk = Desk()
    other = MemoryToolkit(desk.store, desk.short, operations={}, log=desk.kit)
    desk.call("add_memory", content="home: Rome")
    run(other.run("add_memory", {"content": "x"}))
    desk.call("retrieve_memory", query="home")
    assert other.events == desk.kit.events
    assert [(event.index, event.ok) for event in desk.kit.events] == [(0, True), (1, False), (2, True)]
    assert other.tools == []


def test_an_event_has_the_tokens_before_and_after(desk: Desk) -> None:
    desk.say("the weather is wild today", "vegan")
    event = desk.call("filter_context", criteria="the weather is wild today")
    assert (event.tokens_before, event.tokens_after) == (5 + 1 + 8, 1 + 4)
    assert event.tokens_after == desk.short.tokens


# Tools of the user's


def lookup(city: str, days: int = 1) -> dict[str, Any]:
    """Return the forecast."""
    if city == "Nowhere":
        raise LookupError("no such city")
    return {"city": city, "café": days}


async def slow_lookup(city: str) -> str:
    """Return the forecast, later."""
    await asyncio.sleep(0)
    return f"rain in {city}"


def test_a_users_tool_runs_and_its_result_is_shown() -> None:
    desk = Desk(tools=[dspy.Tool(lookup)])
    event = desk.call("lookup", city="Rome", days=2)
    assert event.ok
    assert json.loads(event.observation) == {"city": "Rome", "café": 2}
    assert "café" in event.observation
    assert desk.kit.tools[-1].name == "lookup"
    assert "lookup" not in desk.kit.memory_tools


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [({"city": "Nowhere"}, "no such city"), ({"town": "Rome"}, "town"), ({"city": "Rome", "days": "x"}, "days")],
)
def test_a_users_tool_that_raises_is_shown_to_the_agent(arguments: dict[str, Any], hint: str) -> None:
    event = Desk(tools=[dspy.Tool(lookup)]).call("lookup", **arguments)
    assert not event.ok
    assert event.observation.startswith("error: lookup failed: ")
    assert hint in event.observation


def test_a_result_that_is_no_json_is_shown_as_an_error() -> None:
    def odd() -> Any:
        return {(1, 2): 3}

    event = Desk(tools=[dspy.Tool(odd)]).call("odd")
    assert not event.ok
    assert "keys must be str" in event.observation


def test_an_asynchronous_tool_is_awaited() -> None:
    desk = Desk(tools=[dspy.Tool(slow_lookup)])
    event = asyncio.run(arun(desk.kit.run("slow_lookup", {"city": "Rome"})))
    assert event.ok
    assert event.observation == "rain in Rome"


@pytest.mark.parametrize("names", [("add_memory",), ("Summary_context",), ("look", "look")])
def test_two_tools_of_one_name_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match=f"rename the tool '{names[-1]}'"):
        Desk(tools=[dspy.Tool(lookup, name=name) for name in names])


def test_rewritten_operations_keep_working() -> None:
    told = OPERATIONS["add_memory"].with_instructions("Keep it.")
    operations = {name: MemoryOperation(signature) for name, signature in OPERATIONS.items()}
    operations["add_memory"] = MemoryOperation(told)
    desk = Desk(operations=operations)
    assert desk.kit.tools[0].desc == "Keep it."
    assert desk.call("add_memory", content="x").ok
