"""Whatever was filtered and summarized, undoing it brings back the messages, and the log keeps all of it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from fakes_memory import InMemoryStore
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_dspy.errors import ToolError
from agemem_dspy.memory import HashEmbedder, Message, ShortTermMemory
from agemem_dspy.programs.session import run
from agemem_dspy.tools import MemoryToolkit
from agemem_dspy.types import UNDO_EDIT

TOPICS = ["the weather is wild", "the train is late", "my diet is vegan"]
DEEDS = st.one_of(
    st.tuples(st.just("say"), st.sampled_from(TOPICS)),
    st.tuples(st.just("filter_context"), st.sampled_from(TOPICS)),
    st.tuples(st.just("summarize_context"), st.sampled_from(["all", "1", "2"])),
    st.tuples(st.just("undo"), st.just("")),
)


def short(conversation: str) -> Generator[Any, Any, str]:
    yield from ()
    return f"{len(conversation.splitlines())} messages"


@settings(max_examples=120, deadline=None)
@given(st.lists(DEEDS, max_size=14))
def test_undo_brings_back_exactly_what_an_edit_removed(deeds: list[tuple[str, str]]) -> None:
    context = ShortTermMemory(len)
    kit = MemoryToolkit(InMemoryStore(HashEmbedder()), context)
    before: list[tuple[tuple[Message, ...], tuple[str, ...]]] = []  # of each edit: the context, and what it removed
    later: list[list[Message]] = []  # and what was said after it
    logged = 0
    for deed, text in deeds:
        if deed == "say":
            said = context.append(Message(role="user", content=text))
            for one in later:
                one.append(said)
        elif deed == "undo" and before:
            whole, removed = before.pop()
            event, logged = kit.undo_edit(), logged + 1
            assert context.messages == (*whole, *later.pop())
            assert (event.tool, event.automatic, event.ok, event.contents) == (UNDO_EDIT, True, True, removed)
            assert event.tokens_after == context.tokens
        elif deed == "undo":
            with pytest.raises(ToolError, match="nothing to undo"):
                kit.undo_edit()
        else:
            whole = context.messages
            argument = {"filter_context": "criteria", "summarize_context": "span"}[deed]
            event = run(kit.run(deed, {argument: text}, summarize=short))
            logged += 1
            if event.ok:
                assert set(event.contents) == {m.content for m in whole if m not in context.messages}
                before.append((whole, event.contents))
                later.append([])
            else:
                assert context.messages == whole
        assert context.tokens == sum(len(message.content) + 4 for message in context.messages)
    assert [event.index for event in kit.events] == list(range(logged))
    while before:
        whole, _ = before.pop()
        kit.undo_edit()
        assert context.messages == (*whole, *later.pop())
