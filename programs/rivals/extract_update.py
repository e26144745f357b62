"""Extract and update, after Mem0 (Chhikara et al. 2025, arXiv 2504.19413): facts first, then what to do with each.

Deviations from Mem0: 1. a message is read without the conversation's summary and the messages before it, which an
episode's stage 1 does not have; 2. no graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import dspy
from pydantic import BaseModel

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.programs.rivals.managed import ManagedMemoryAgent
from agemem_dspy.programs.rivals.manager import ManagerSession
from agemem_dspy.programs.session import Play


class ExtractFacts(dspy.Signature):
    """List the lasting facts that a message states, each short and readable alone. Small talk holds none."""

    message: str = dspy.InputField()
    facts: list[str] = dspy.OutputField(desc="a JSON list of texts, [] when there are none")


class Decision(BaseModel):
    """What to do about one fact. `memory_id` names the entry to change or remove, `content` is what to store."""

    operation: Literal["ADD", "UPDATE", "DELETE", "NOOP"]
    memory_id: str = ""
    content: str = ""


class DecideOperations(dspy.Signature):
    """Compare new facts with what is stored, and decide for each: ADD it when it is new, UPDATE the entry that it \
makes more exact or replaces, DELETE the entry that it revokes, NOOP when it is stored already."""

    facts: list[str] = dspy.InputField()
    memories: dict[str, str] = dspy.InputField(desc="the nearest entries by their ids")
    decisions: list[Decision] = dspy.OutputField(
        desc='a JSON list of {"operation": "ADD" | "UPDATE" | "DELETE" | "NOOP", "memory_id": id, "content": text}'
    )


class ExtractUpdateAgent(ManagedMemoryAgent):
    """Two LM calls a message: extract its facts, then decide on each against the nearest entries.

    Args:
        neighbours: entries that a fact is compared with (10 in Mem0's paper).
        options: see `ManagedMemoryAgent`.
    """

    def __init__(self, signature: str | type[dspy.Signature], *, neighbours: int = 10, **options: Any) -> None:
        super().__init__(signature, **options)
        if not 1 <= neighbours <= 100:
            raise ConfigurationError("neighbours must be between 1 and 100")
        self.neighbours = neighbours
        self.extract = dspy.Predict(ExtractFacts)
        self.decide = dspy.Predict(DecideOperations)

    def _store(self, manager: ManagerSession, messages: Sequence[str]) -> Play:
        for manager.toolkit.turn, text in enumerate(messages):
            manager.toolkit.round = 0
            facts = [fact for fact in (yield from manager.ask(self.extract, message=text)) or () if fact.strip()]
            if not facts:
                continue
            memories: dict[str, str] = {}
            for fact in facts:
                memories |= yield from manager.nearest(fact, self.neighbours)
            for decision in (yield from manager.ask(self.decide, facts=facts, memories=memories)) or ():
                yield from _carry_out(manager, decision)


def _carry_out(manager: ManagerSession, decision: Decision) -> Play:
    match decision.operation:
        case "ADD":
            yield from manager.operate("add_memory", content=decision.content)
        case "UPDATE":
            yield from manager.operate("update_memory", memory_id=decision.memory_id, content=decision.content)
        case "DELETE":
            yield from manager.operate("delete_memory", memory_id=decision.memory_id, confirmation=True)
