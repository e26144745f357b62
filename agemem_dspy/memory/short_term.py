"""Short-term memory: the messages the model sees, and what they cost.

The system prompt is not among them; its token count is `overhead`. Tokens are counted once a message, with the
policy's own tokenizer where there is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from agemem_dspy.errors import ConfigurationError, ToolError

Role = Literal["user", "assistant", "tool"]
Kind = Literal["message", "question", "call", "result", "summary", "retrieved"]
TEMPLATE_TOKENS = 4  # what a chat template puts around a message: markers, role, line breaks
_PIECE = re.compile(r"\w{1,6}|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of the context. `id` is given by `ShortTermMemory.append`; 0 means not yet.

    `pinned` messages can be neither removed nor replaced; a question always is. `calls` are the tool calls that an
    assistant message issued; `completion_ids` the token ids that the sampler wrote for it.
    """

    role: Role
    content: str
    kind: Kind = "message"
    pinned: bool = False
    calls: tuple[Mapping[str, Any], ...] = ()
    id: int = 0
    completion_ids: tuple[int, ...] = ()


class ShortTermMemory:
    """An ordered list of messages with a token count. One episode owns it; it is not shared by threads."""

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
        self._messages: list[Message] = []
        self._costs: dict[int, int] = {}
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
        return tuple(self._messages)

    @property
    def tokens(self) -> int:
        """Return the tokens in context: overhead plus every message."""
        return self._overhead + self._used

    @property
    def overflow(self) -> bool:
        """Tell whether the context is over its limit."""
        return self.tokens > self._max_tokens

    def texts(self) -> tuple[str, ...]:
        """Return the contents of the messages, oldest first."""
        return tuple(message.content for message in self._messages)

    def append(self, message: Message) -> Message:
        """Put a message at the end and return it with its id; a question becomes pinned.

        Raises:
            ConfigurationError: an unknown role or kind, or content that is no string.
        """
        stored = self._admit(message)
        self._messages.append(stored)
        return stored

    def replace(self, ids: Iterable[int], message: Message) -> Message:
        """Put one message at the place of the first of `ids`, remove them all, and return it with its id.

        Raises:
            ToolError: an unknown or pinned id, or none at all; nothing is changed.
        """
        chosen = self._removable(ids)
        if not chosen:
            raise ToolError("There is nothing to replace: name at least one message.")
        stored = self._admit(message)
        place = next(index for index, old in enumerate(self._messages) if old.id in chosen)
        self._messages.insert(place, stored)
        self._drop(chosen)
        return stored

    def remove(self, ids: Iterable[int]) -> tuple[Message, ...]:
        """Remove messages and return them, oldest first.

        Raises:
            ToolError: an unknown or pinned id; nothing is changed.
        """
        return self._drop(self._removable(ids))

    def clear(self) -> None:
        """Remove every message, pinned ones too (a stage begins); ids are not used again."""
        self._messages.clear()
        self._costs.clear()
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
        self._costs[stored.id] = cost
        self._used += cost
        return stored

    def _removable(self, ids: Iterable[int]) -> frozenset[int]:
        chosen = frozenset(ids)
        held = {message.id: message for message in self._messages}
        for number in sorted(chosen):
            if number not in held:
                raise ToolError(f"There is no message {number} in the context; it may have been removed before.")
            if held[number].pinned:
                raise ToolError(f"Message {number} is pinned ({held[number].kind}) and stays in the context.")
        return chosen

    def _drop(self, chosen: frozenset[int]) -> tuple[Message, ...]:
        removed = tuple(message for message in self._messages if message.id in chosen)
        self._messages = [message for message in self._messages if message.id not in chosen]
        self._used -= sum(self._costs.pop(message.id) for message in removed)
        return removed


def approximate_tokens(text: str) -> int:
    """Estimate the tokens of a text where the model's tokenizer is out of reach (a remote LM).

    A word counts one for every six characters begun, a punctuation mark one. On English this is within about
    a fifth of what usual byte-pair tokenizers count; it is an estimate, not a count.
    """
    return sum(1 for _ in _PIECE.finditer(text))
