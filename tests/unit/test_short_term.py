"""Short-term memory: counts are sums, order is kept, what is pinned stays, what was removed can be put back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agemem_dspy.errors import ConfigurationError, ToolError
from agemem_dspy.memory.short_term import TEMPLATE_TOKENS, Message, ShortTermMemory, approximate_tokens

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


def said(content: str, **fields: Any) -> Message:
    return Message(role="user", content=content, **fields)


class Machine(RuleBasedStateMachine):
    """A `ShortTermMemory` against a plain list of (id, content, pinned).

    Before each edit the ids of the list are kept: an undo must bring back exactly these, and behind them what was
    appended since.
    """

    def __init__(self) -> None:
        super().__init__()
        self.memory = ShortTermMemory(len, max_tokens=50, overhead=7)
        self.model: list[tuple[int, str, bool]] = []
        self.seen: dict[int, tuple[int, str, bool]] = {}
        self.edits: list[tuple[list[int], int]] = []  # the ids before an edit, and how many there were after it

    @rule(content=TEXTS, fields=st.sampled_from([{}, {}, {"kind": "result"}, {"pinned": True}, {"kind": "question"}]))
    def append(self, content: str, fields: dict[str, Any]) -> None:
        stored = self.memory.append(said(content, **fields))
        self.model.append((stored.id, content, "pinned" in fields or fields.get("kind") == "question"))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), content=st.none() | TEXTS)
    def take_away(self, data: st.DataObject, content: str | None) -> None:
        """Remove some messages, or put one with this content in their place."""
        chosen = data.draw(st.lists(st.sampled_from([entry[0] for entry in self.model]), min_size=1, unique=True))
        if any(pinned for number, _, pinned in self.model if number in chosen):
            with pytest.raises(ToolError, match="pinned"):
                self.memory.remove(chosen) if content is None else self.memory.replace(chosen, said(content))
            return
        kept: list[tuple[int, str, bool]] = []
        gone = [entry for entry in self.model if entry[0] in chosen]
        self.seen.update({entry[0]: entry for entry in self.model})
        before = [entry[0] for entry in self.model]
        if content is None:
            edit = self.memory.remove(chosen)
            assert edit.added is None
        else:
            edit = self.memory.replace(chosen, said(content, kind="summary"))
            assert edit.added is not None
            assert (edit.added.kind, edit.added.content) == ("summary", content)
        assert [message.id for message in edit.removed] == [entry[0] for entry in gone]
        for entry in self.model:
            if entry not in gone:
                kept.append(entry)
            elif edit.added is not None and entry is gone[0]:
                kept.append((edit.added.id, edit.added.content, False))
        self.model = kept
        self.edits.append((before, len(kept)))

    @precondition(lambda self: self.edits)
    @rule()
    def undo(self) -> None:
        before, length = self.edits.pop()
        now = {entry[0]: entry for entry in self.model}
        later = self.model[length:]
        edit = self.memory.undo()
        assert {message.id for message in edit.removed} == set(before) - set(now)
        self.model = [now.get(number, self.seen[number]) for number in before] + later

    @precondition(lambda self: not self.edits)
    @rule()
    def undo_nothing(self) -> None:
        with pytest.raises(ToolError, match="nothing to undo"):
            self.memory.undo()

    @precondition(lambda self: self.model)
    @rule(data=st.data(), pinned=st.booleans())
    def pin(self, data: st.DataObject, pinned: bool) -> None:
        place = data.draw(st.integers(0, len(self.model) - 1))
        number, content, _ = self.model[place]
        stored = self.memory.pin(number) if pinned else self.memory.unpin(number)
        assert (stored.id, stored.pinned) == (number, pinned)
        self.model[place] = (number, content, pinned)

    @rule()
    def clear(self) -> None:
        self.memory.clear()
        self.model.clear()
        self.edits.clear()

    @invariant()
    def same_messages_in_the_same_order(self) -> None:
        assert [(message.id, message.content, message.pinned) for message in self.memory.messages] == self.model
        assert self.memory.texts() == tuple(content for _, content, _ in self.model)

    @invariant()
    def tokens_are_the_sum(self) -> None:
        total = 7 + sum(len(content) + TEMPLATE_TOKENS for _, content, _ in self.model)
        assert self.memory.tokens == total


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, deadline=None)


def test_a_replacement_stands_where_the_first_of_the_replaced_stood() -> None:
    memory = ShortTermMemory(len)
    ids = [memory.append(said(content)).id for content in "abcde"]
    edit = memory.replace([ids[3], ids[1]], said("B and D", kind="summary"))
    assert memory.texts() == ("a", "B and D", "c", "e")
    assert memory.messages[1] == edit.added
    assert [message.content for message in edit.removed] == ["b", "d"]


def test_undo_puts_messages_back_in_their_places() -> None:
    memory = ShortTermMemory(len)
    ids = [memory.append(said(content)).id for content in "abcde"]
    whole = memory.messages
    memory.remove([ids[1]])
    memory.replace([ids[0], ids[2], ids[3]], said("A, C and D", kind="summary"))
    memory.append(said("f"))
    assert memory.texts() == ("A, C and D", "e", "f")
    assert [message.content for message in memory.undo().removed] == ["a", "c", "d"]
    assert memory.texts() == ("a", "c", "d", "e", "f")
    memory.undo()
    assert memory.messages[:-1] == whole
    assert memory.tokens == 6 * (1 + TEMPLATE_TOKENS)
    with pytest.raises(ToolError, match="nothing to undo"):
        memory.undo()


def test_what_a_user_pins_stays_until_it_is_unpinned() -> None:
    memory = ShortTermMemory(len)
    rule_of_the_house, other = memory.append(said("no nuts")), memory.append(said("nice day"))
    memory.pin(rule_of_the_house.id)
    with pytest.raises(ToolError, match="pinned"):
        memory.remove([rule_of_the_house.id, other.id])
    memory.unpin(rule_of_the_house.id)
    memory.remove([rule_of_the_house.id, other.id])
    for call in (memory.pin, memory.unpin):
        with pytest.raises(ToolError, match="no message 1 in the context"):
            call(rule_of_the_house.id)


def test_a_text_is_counted_once() -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return len(text)

    memory = ShortTermMemory(count)
    first = memory.append(said("one"))
    memory.append(said("two"))
    assert [memory.tokens for _ in range(5)] == [14] * 5
    memory.remove([first.id])
    assert memory.tokens == 7
    assert counted == ["one", "two"]


def test_a_message_keeps_what_came_with_it() -> None:
    memory = ShortTermMemory(len)
    message = Message(role="assistant", content="x", kind="call", pinned=True)
    stored = memory.append(message)
    assert stored.id == 1
    assert dataclasses.replace(stored, id=0) == message
    assert memory.messages == (stored,)


def test_ids_are_not_used_again() -> None:
    memory = ShortTermMemory(len)
    first = memory.append(said("a"))
    memory.clear()
    assert memory.messages == ()
    assert memory.append(said("b")).id > first.id


def test_refusals_change_nothing() -> None:
    memory = ShortTermMemory(len)
    free, question = memory.append(said("free")), memory.append(said("why?", kind="question"))
    before = (memory.messages, memory.tokens)
    with pytest.raises(ToolError, match="pinned"):
        memory.remove([free.id, question.id])
    with pytest.raises(ToolError, match="pinned"):
        memory.replace([free.id, question.id], said("both"))
    with pytest.raises(ToolError, match="no message 99"):
        memory.remove([free.id, 99])
    with pytest.raises(ToolError, match="nothing to replace"):
        memory.replace([], said("none"))
    assert (memory.messages, memory.tokens) == before


def test_overhead_counts_and_can_change() -> None:
    memory = ShortTermMemory(len, max_tokens=10, overhead=3)
    memory.append(said("abc"))
    assert memory.tokens == 10
    memory.overhead = 4
    assert memory.tokens == 11


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"role": "system"}, "role"),
        ({"kind": "musing"}, "kind"),
        ({"content": 3}, "string"),
        ({"content": None}, "string"),
    ],
)
def test_what_is_no_message_is_refused(fields: dict[str, Any], message: str) -> None:
    memory = ShortTermMemory(len)
    with pytest.raises(ConfigurationError, match=message):
        memory.append(Message(**{"role": "user", "content": "x", **fields}))
    assert memory.tokens == 0


def test_limits_must_make_sense() -> None:
    with pytest.raises(ConfigurationError, match="max_tokens"):
        ShortTermMemory(len, max_tokens=0)
    with pytest.raises(ConfigurationError, match="overhead"):
        ShortTermMemory(len, overhead=-1)


@pytest.mark.parametrize(
    ("text", "expected"), [("", 0), ("Hello, world!", 4), ("extraordinarily", 3), ("a b  c\n", 3), ("3.14 €", 4)]
)
def test_approximate_tokens_counts_words_and_marks(text: str, expected: int) -> None:
    assert approximate_tokens(text) == expected


@given(TEXTS, TEXTS)
def test_approximate_tokens_adds_up_over_lines(first: str, second: str) -> None:
    assert approximate_tokens(f"{first}\n{second}") == approximate_tokens(first) + approximate_tokens(second)
