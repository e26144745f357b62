"""The overflow guard: what the system does when a prompt would not fit the policy's window.

What it does is the system's doing. It is logged as an automatic event, its summary is not trained on, and the reward
is that of the context as the policy left it (`terms`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Sequence
from typing import Any, Literal

from agemem_dspy.errors import ToolError
from agemem_dspy.memory.short_term import Edit, Message, summary_message
from agemem_dspy.programs.window import ContextWindow
from agemem_dspy.tools import MemoryToolkit, Summarizer

OnOverflow = Literal["drop_oldest", "summarize", "error"]
_FILL = 0.75  # of the limit, to which room is made: at the limit itself every later call would lose its cached prefix


class OverflowGuard:
    """Makes room in the context before a prompt is longer than the window allows.

    What goes is the oldest: whole former turns first, then calls of this turn with their results. What is pinned, the
    message that is acted on and the last call with its results stay. Where all the rest is too little, nothing is
    touched and the LM decides.

    Args:
        mode: "drop_oldest" takes messages out, "summarize" lets the LM write a summary in their place (and drops them
            where it cannot), "error" does nothing but refuse.
        kit: whose context it guards.
        window: counts prompts and knows how long they may be.
    """

    def __init__(self, mode: OnOverflow, kit: MemoryToolkit, window: ContextWindow) -> None:
        self.mode, self.kit, self.window = mode, kit, window

    def make_room(
        self, opening: int, summarize: Summarizer, *, refusal: str | None = None
    ) -> Generator[Any, Any, str | None]:
        """Edit the context so that the next prompt fits, if it would not.

        Args:
            opening: id of the message that began the turn.
            summarize: writes the summary of a conversation; may raise `ToolError`.
            refusal: what the LM said when it found the last prompt too long.

        Returns:
            why the LM should not be asked (again), None when it should.
        """
        messages = self.kit.short_term.messages
        tokens = self.window.count(messages)
        if refusal is not None:
            self.window.refused(tokens)
        limit = self.window.limit
        if tokens <= limit:
            return None
        if self.mode == "error":
            return refusal or f"the prompt has {tokens} tokens, {limit} are allowed; clear the context earlier"
        gone = self._oldest(messages, opening, limit, at_any_rate=refusal is not None)
        if not gone:
            return refusal
        notes = [] if refusal is None else [f"the LM refused the prompt: {refusal}"]
        edit = (yield from self._summarized(gone, summarize, limit, notes)) if self.mode == "summarize" else None
        edit = edit or self.kit.short_term.remove(message.id for message in gone)
        after = self.window.count(self.kit.short_term.messages)
        self.kit.guarded(edit, tokens=(tokens, after), limit=limit, notes=tuple(notes))
        return None

    def _oldest(self, messages: Sequence[Message], opening: int, limit: int, *, at_any_rate: bool) -> list[Message]:
        """Return the fewest of the oldest messages without which the prompt fits, with room to spare if possible.

        There are none where all that may go is too little, unless as much as possible is wanted `at_any_rate`.
        """
        units = droppable(messages, opening)

        def left_by(count: int) -> int:
            gone = {message.id for unit in units[:count] for message in unit}
            return self.window.count(message for message in messages if message.id not in gone)

        least = left_by(len(units))
        if not units or (least > limit and not at_any_rate):
            return []
        most = _FILL * limit if least <= _FILL * limit else max(limit, least)
        fewest = bisect_left(range(1, len(units)), True, key=lambda count: left_by(count) <= most) + 1
        return [message for unit in units[:fewest] for message in unit]

    def _summarized(
        self, gone: Sequence[Message], summarize: Summarizer, limit: int, notes: list[str]
    ) -> Generator[Any, Any, Edit | None]:
        """Put a summary in the place of messages; add to `notes` why not, where it cannot be."""
        context = self.kit.short_term
        try:
            summary = yield from summarize("\n".join(f"{m.role}: {m.content}" for m in gone))
        except ToolError as error:
            notes.append(f"dropped without a summary: {error}")
            return None
        if not summary:
            notes.append("dropped without a summary: it was empty or could not be read")
            return None
        edit = context.replace([message.id for message in gone], summary_message(summary))
        if self.window.count(context.messages) > limit:
            context.undo()
            notes.append("dropped without a summary: it was too long")
            return None
        return edit


def droppable(messages: Sequence[Message], opening: int) -> list[list[Message]]:
    """Return what a guard may take out, oldest first: former turns, then calls of this turn, each with its results.

    Args:
        messages: the context.
        opening: id of the message that began this turn; a filter may have removed it.
    """
    start = len(messages)
    while start and messages[start - 1].id >= opening and messages[start - 1].kind != "summary":
        start -= 1
    groups = [*_split(messages[:start], "user"), *_split(messages[start:], "assistant")]
    units = [[m for m in group if not m.pinned and m.id != opening] for group in groups[:-1]]
    return [unit for unit in units if unit]


def _split(messages: Sequence[Message], role: str) -> list[list[Message]]:
    """Split a conversation before every message of a role."""
    groups: list[list[Message]] = []
    for message in messages:
        if message.role == role or not groups:
            groups.append([])
        groups[-1].append(message)
    return groups
