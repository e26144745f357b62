"""A manager over the conversation, after LangMem: one call that inserts, updates and deletes by a typed schema.

Deviation from LangMem: the entries shown are the nearest to each message, where LangMem searches by windows of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy
from pydantic import BaseModel

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.programs.rivals.managed import ManagedMemoryAgent
from agemem_dspy.programs.rivals.manager import ManagerSession
from agemem_dspy.programs.session import Play

MESSAGES_PER_CALL = 20


class Replacement(BaseModel):
    """An entry, and what it is to hold from now on."""

    memory_id: str
    content: str


class MemoryChanges(BaseModel):
    """What a conversation changes in the memory."""

    inserts: list[str] = []
    updates: list[Replacement] = []
    deletes: list[str] = []


class ManageMemories(dspy.Signature):
    """Keep a long-term memory up to date with a conversation: insert lasting facts that are new, each readable alone; \
update entries that changed; delete those that are revoked or wrong. Small talk changes nothing."""

    conversation: list[str] = dspy.InputField(desc="the messages, in order")
    memories: dict[str, str] = dspy.InputField(desc="what is stored, by id")
    changes: MemoryChanges = dspy.OutputField(
        desc='JSON {"inserts": [text], "updates": [{"memory_id": id, "content": text}], "deletes": [id]}'
    )


class SchemaManagerAgent(ManagedMemoryAgent):
    """One LM call for a stretch of the conversation, which says all that is to change.

    Args:
        messages_per_call: the length of a stretch.
        neighbours: entries shown for each message.
        options: see `ManagedMemoryAgent`.
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        *,
        messages_per_call: int = MESSAGES_PER_CALL,
        neighbours: int = 5,
        **options: Any,
    ) -> None:
        super().__init__(signature, **options)
        if messages_per_call < 1 or not 1 <= neighbours <= 100:
            raise ConfigurationError("messages_per_call must be at least 1, neighbours between 1 and 100")
        self.messages_per_call, self.neighbours = messages_per_call, neighbours
        self.manage = dspy.Predict(ManageMemories)

    def _store(self, manager: ManagerSession, messages: Sequence[str]) -> Play:
        for start in range(0, len(messages), self.messages_per_call):
            stretch = list(messages[start : start + self.messages_per_call])
            manager.toolkit.turn, manager.toolkit.round = start + len(stretch) - 1, 0
            memories: dict[str, str] = {}
            for text in stretch:
                memories |= yield from manager.nearest(text, self.neighbours)
            changes = yield from self._changes(manager, stretch, memories)
            if changes is not None:
                yield from carry_out(manager, changes)

    def _changes(self, manager: ManagerSession, conversation: Sequence[str], memories: dict[str, str]) -> Play:
        """Return what a stretch of the conversation changes, None where that could not be read."""
        return (yield from manager.ask(self.manage, conversation=conversation, memories=memories))


def carry_out(manager: ManagerSession, changes: MemoryChanges) -> Play:
    """Make the changes, one logged operation each."""
    for content in changes.inserts:
        yield from manager.operate("add_memory", content=content)
    for one in changes.updates:
        yield from manager.operate("update_memory", memory_id=one.memory_id, content=one.content)
    for memory_id in changes.deletes:
        yield from manager.operate("delete_memory", memory_id=memory_id, confirmation=True)
