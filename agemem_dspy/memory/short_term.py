"""Short-term memory: the messages the model sees, and what they cost.

The system prompt is not among them; its token count is `overhead`. Tokens are counted once a message, with the
policy's own tokenizer where there is one. The agent is not told the count: a state is context, memories and task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from agemem_dspy.errors import ConfigurationError, ToolError

Role = Literal["user", "assistant", "tool"]
Kind = Literal["message", "question", "call", "result", "summary", "retrieved"]
TEMPLATE_TOKENS = 4  # what a chat template puts around a message: markers, role, line breaks
_PIECE = re.compile(r"\w{1,6}|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of the context. `id` is given by `ShortTermMemory.append`; 0 means not yet.

    `pinned` messages can be neither removed nor replaced; a question is from the start.
    """

    role: Role
    content: str
    kind: Kind = "message"
    pinned: bool = False
    id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One change of the context: the messages it took out, oldest first, and the one it put in their place, if any."""

    removed: tuple[Message, ...]
    added: Message | None = None


@dataclass(frozen=True, slots=True)
class _Done:
    """An edit that can be undone, with the ids in context right before and right after it."""

    edit: Edit
    before: tuple[int, ...]
    after: tuple[int, ...]


class ShortTermMemory:
    """An ordered list of messages with a token count. One episode owns it; it is not shared by threads.

    `remove` and `replace` are edits, which `undo` takes back one by one.
    """

    def __init__(self, count_tokens: Callable[[str], int], max_tokens: int = 8192, overhead: int = 0) -> None:
        """Start empty.

        Args:
            count_tokens: tokens of a text; a message costs that plus 4 for its template.
            max_tokens: the context limit T_max, in tokens.
            overhead: tokens of the system prompt, counted into `tokens`.

        Raises:
            ConfigurationError: a limit that is not positive, a negative overhead.
        """
        if max_tokens < 1:
            raise ConfigurationError(f"max_tokens must be positive, not {max_tokens}.")
        self._count_tokens = count_tokens
        self._max_tokens = max_tokens
        self._order: list[int] = []
        self._held: dict[int, Message] = {}  # in context, or taken out by an edit that can be undone
        self._costs: dict[int, int] = {}  # of those
        self._edits: list[_Done] = []
        self._used = 0
        self._next_id = 1
        self.overhead = overhead

    @property
    def overhead(self) -> int:
        """Return the tokens of the system prompt."""
        return self._overhead

    @overhead.setter
    def overhead(self, tokens: int) -> None:
        if tokens < 0:
            raise ConfigurationError(f"overhead must not be negative, but is {tokens}.")
        self._overhead = tokens

    @property
    def max_tokens(self) -> int:
        """Return the context limit T_max, in tokens."""
        return self._max_tokens

    @property
    def messages(self) -> tuple[Message, ...]:
        """Return the messages, oldest first."""
        return tuple(self._held[number] for number in self._order)

    @property
    def tokens(self) -> int:
        """Return the tokens in context: overhead plus every message."""
        return self._overhead + self._used

    def texts(self) -> tuple[str, ...]:
        """Return the contents of the messages, oldest first."""
        return tuple(message.content for message in self.messages)

    def append(self, message: Message) -> Message:
        """Put a message at the end and return it with its id; a question becomes pinned.

        Raises:
            ConfigurationError: an unknown role or kind, or content that is no string.
        """
        stored = self._admit(message)
        self._order.append(stored.id)
        return stored

    def replace(self, ids: Iterable[int], message: Message) -> Edit:
        """Put one message at the place of the first of `ids`, and remove them all.

        Raises:
            ToolError: an unknown or pinned id, or none at all; nothing is changed.
        """
        chosen = self._removable(ids)
        if not chosen:
            raise ToolError("There is nothing to replace: name at least one message.")
        return self._edit(chosen, self._admit(message))

    def remove(self, ids: Iterable[int]) -> Edit:
        """Remove messages.

        Raises:
            ToolError: an unknown or pinned id; nothing is changed.
        """
        return self._edit(self._removable(ids), None)

    def undo(self) -> Edit:
        """Take back the last edit that was not undone yet: what it removed is in its place again.

        What it put there instead is gone; messages that were appended since stay behind it.

        Raises:
            ToolError: there is none since the context was last cleared.
        """
        if not self._edits:
            raise ToolError("There is nothing to undo: no message was removed or replaced.")
        done = self._edits.pop()
        self._order = [*done.before, *self._order[len(done.after) :]]
        self._used += sum(self._costs[message.id] for message in done.edit.removed)
        if done.edit.added is not None:
            del self._held[done.edit.added.id]
            self._used -= self._costs.pop(done.edit.added.id)
        return done.edit

    def pin(self, id: int) -> Message:
        """Keep a message from being removed or replaced.

        Raises:
            ToolError: it is not in the context.
        """
        return self._pinned(id, pinned=True)

    def unpin(self, id: int) -> Message:
        """Let a message be removed and replaced again, a question too.

        Raises:
            ToolError: it is not in the context.
        """
        return self._pinned(id, pinned=False)

    def clear(self) -> None:
        """Remove every message, pinned ones too (a stage begins); no edit can be undone, and ids are not used again."""
        self._order.clear()
        self._held.clear()
        self._costs.clear()
        self._edits.clear()
        self._used = 0

    def _admit(self, message: Message) -> Message:
        """Give a message its id, count it, and return it; the caller puts it in its place."""
        if message.role not in get_args(Role) or message.kind not in get_args(Kind):
            raise ConfigurationError(
                f"A message needs a role of {get_args(Role)} and a kind of {get_args(Kind)}, "
                f"not {message.role!r} and {message.kind!r}."
            )
        if not isinstance(message.content, str):
            raise ConfigurationError(f"A message's content must be a string, not {type(message.content).__name__}.")
        cost = self._count_tokens(message.content) + TEMPLATE_TOKENS
        stored = replace(message, id=self._next_id, pinned=message.pinned or message.kind == "question")
        self._next_id += 1
        self._held[stored.id] = stored
        self._costs[stored.id] = cost
        self._used += cost
        return stored

    def _removable(self, ids: Iterable[int]) -> frozenset[int]:
        chosen = frozenset(ids)
        for message in self._present(chosen):
            if message.pinned:
                raise ToolError(f"Message {message.id} is pinned ({message.kind}) and stays in the context.")
        return chosen

    def _present(self, ids: Collection[int]) -> list[Message]:
        present = frozenset(self._order)
        for number in sorted(ids):
            if number not in present:
                raise ToolError(f"There is no message {number} in the context; it may have been removed before.")
        return [self._held[number] for number in sorted(ids)]

    def _pinned(self, number: int, *, pinned: bool) -> Message:
        (message,) = self._present([number])
        self._held[number] = replace(message, pinned=pinned)
        return self._held[number]

    def _edit(self, chosen: frozenset[int], added: Message | None) -> Edit:
        """Take out the chosen messages, put `added` at the place of the first of them, and remember how it was."""
        before = tuple(self._order)
        after = [number for number in before if number not in chosen]
        if added is not None:
            after.insert(next(place for place, number in enumerate(before) if number in chosen), added.id)
        edit = Edit(removed=tuple(self._held[number] for number in before if number in chosen), added=added)
        self._order = after
        self._used -= sum(self._costs[message.id] for message in edit.removed)
        if chosen:
            self._edits.append(_Done(edit, before, tuple(after)))
        return edit


def summary_message(summary: str) -> Message:
    """Return the message that stands for those that were summarized."""
    return Message(role="user", content=f"summary: {summary}", kind="summary")


def approximate_tokens(text: str) -> int:
    """Estimate the tokens of a text where the model's tokenizer is out of reach (a remote LM).

    A word counts one for every six characters begun, a punctuation mark one. On English this is within about
    a fifth of what usual byte-pair tokenizers count; it is an estimate, not a count.
    """
    return sum(1 for _ in _PIECE.finditer(text))
