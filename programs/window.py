"""ContextWindow: how many tokens a step's prompt has, and how many it may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import dspy
import numpy as np
from numpy.typing import NDArray

from agemem_dspy.memory.short_term import TEMPLATE_TOKENS, Message, approximate_tokens
from agemem_dspy.signatures import Transcript


@runtime_checkable
class CountingEngine(Protocol):
    """A local policy: it knows its tokenizer, its template and its window."""

    def render(self, messages: Sequence[Mapping[str, str]]) -> NDArray[np.int64]:
        """Return the prompt's token ids (P,)."""
        ...

    def longest_prompt(self, max_tokens: int | None) -> int:
        """Return the most tokens of a prompt that leave room for a completion of `max_tokens`."""
        ...


class ContextWindow:
    """Counts the prompts of a step predictor as its LM will see them: system prompt, tools and demos included.

    A local policy's count is exact. For a remote LM it is `approximate_tokens`, and its window is not known: there
    `max_tokens` is the limit until the LM refuses a shorter prompt.

    Args:
        predictor: the step predictor.
        tools: what it is offered.
        max_tokens: T_max, the most tokens of a prompt.
    """

    def __init__(self, predictor: Any, tools: Sequence[dspy.Tool], *, max_tokens: int) -> None:
        self.predictor, self.tools, self.max_tokens = predictor, tools, max_tokens
        self._refused: int | None = None

    @property
    def limit(self) -> int:
        """The most tokens that a prompt should have."""
        lm, most = self._lm, self.max_tokens if self._refused is None else min(self.max_tokens, self._refused)
        engine = getattr(lm, "engine", None)
        if not isinstance(engine, CountingEngine):
            return most
        options = {**getattr(lm, "kwargs", {}), **getattr(self.predictor, "config", {})}
        return min(most, engine.longest_prompt(options.get("max_tokens")))

    def refused(self, tokens: int) -> None:
        """Take the window of an LM that refused a prompt for a quarter less than the prompt's tokens from now on."""
        self._refused = tokens * 3 // 4

    def inputs(self, messages: Iterable[Message]) -> dict[str, Any]:
        """Return what the predictor is called with to act on these messages."""
        return {"context": Transcript(messages=[as_shown(message) for message in messages]), "tools": self.tools}

    def count(self, messages: Iterable[Message]) -> int:
        """Return the tokens of the prompt that these messages make."""
        adapter = dspy.settings.adapter or dspy.ChatAdapter()
        demos = list(getattr(self.predictor, "demos", []))
        with dspy.context(callbacks=[]):  # counting is no call, and is in no trace
            turns = adapter.format(self.predictor.signature, demos, self.inputs(messages))
        plain = [{"role": turn["role"], "content": _text(turn["content"])} for turn in turns]
        engine = getattr(self._lm, "engine", None)
        if isinstance(engine, CountingEngine):
            return len(engine.render(plain))
        return sum(approximate_tokens(turn["content"]) + TEMPLATE_TOKENS for turn in plain)

    @property
    def _lm(self) -> Any:
        return self.predictor.lm or dspy.settings.lm


def as_shown(message: Message) -> dict[str, str]:
    """Return what a predictor sees of a message."""
    return {"role": message.role, "kind": message.kind, "content": message.content}


def _text(content: Any) -> str:
    """Return the text of a chat turn, whose content an adapter may have split into parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or [])
