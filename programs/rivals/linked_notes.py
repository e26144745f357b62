"""Linked notes, after A-Mem (Xu et al. 2025, arXiv 2502.12110): every message is a note that knows its neighbours.

Deviations from A-Mem: 1. links go both ways, so that what links to a note found is found through the note's id;
2. a note is embedded as it is shown, content, keywords, tags and context in one text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dspy
from pydantic import BaseModel

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.programs.rivals.managed import ManagedMemoryAgent
from agemem_dspy.programs.rivals.manager import ManagerSession
from agemem_dspy.programs.session import Play


class Note(BaseModel):
    """What a note says of its message."""

    keywords: list[str] = []
    tags: list[str] = []
    context: str = ""


class WriteNote(dspy.Signature):
    """Make a note of a message: its keywords, from the most important on; broad tags to classify it by; and in one \
sentence its context, that is topic, main point and purpose."""

    message: str = dspy.InputField()
    note: Note = dspy.OutputField(desc='JSON {"keywords": [text], "tags": [text], "context": text}')


class Neighbour(BaseModel):
    """What a neighbour's tags and context become in the light of a new note."""

    memory_id: str
    tags: list[str] = []
    context: str = ""


class Evolution(BaseModel):
    """Which neighbours a new note is linked with, and which of them change."""

    links: list[str] = []
    neighbours: list[Neighbour] = []


class EvolveNotes(dspy.Signature):
    """Decide how a new note changes a memory of notes: which of its nearest notes it belongs with, and which of them \
should get other tags or another context now that it is there. None need to."""

    note: str = dspy.InputField()
    nearest: dict[str, str] = dspy.InputField(desc="the nearest notes by their ids")
    evolution: Evolution = dspy.OutputField(
        desc='JSON {"links": [id], "neighbours": [{"memory_id": id, "tags": [text], "context": text}]}'
    )


class LinkedNotesAgent(ManagedMemoryAgent):
    """Two LM calls a message: write its note, then link it and let its neighbours evolve.

    The question retrieves the nearest notes and what is linked with them.

    Args:
        neighbours: nearest notes that a new one is compared with (10 in A-Mem's paper).
        options: see `ManagedMemoryAgent`.
    """

    def __init__(self, signature: str | type[dspy.Signature], *, neighbours: int = 10, **options: Any) -> None:
        super().__init__(signature, **options)
        if not 1 <= neighbours <= 100:
            raise ConfigurationError("neighbours must be between 1 and 100")
        self.neighbours = neighbours
        self.write = dspy.Predict(WriteNote)
        self.evolve = dspy.Predict(EvolveNotes)

    def _store(self, manager: ManagerSession, messages: Sequence[str]) -> Play:
        for manager.toolkit.turn, text in enumerate(messages):
            manager.toolkit.round = 0
            note = (yield from manager.ask(self.write, message=text)) or Note()
            nearest = yield from manager.nearest(text, self.neighbours)
            about = {"said": text, **note.model_dump(), "links": []}
            added = yield from manager.operate("add_memory", content=_shown(about), metadata=about)
            if not added.ok or not nearest:
                continue
            evolution = yield from manager.ask(self.evolve, note=_shown(about), nearest=nearest)
            if evolution is not None:
                yield from self._evolve(manager, added.memory_ids[0], evolution, nearest)

    def _evolve(self, manager: ManagerSession, note_id: str, evolution: Evolution, nearest: Mapping[str, str]) -> Play:
        """Link the note and change its neighbours; ids that were not shown are left out."""
        store, kit = manager.toolkit.long_term, manager.toolkit
        ids = {kit.alias(memory): memory for memory in store.all()}
        links = [alias for alias in dict.fromkeys(evolution.links) if alias in nearest]
        changed = {one.memory_id: one for one in evolution.neighbours if one.memory_id in nearest}
        for alias in dict.fromkeys([*links, *changed]):
            about = dict(ids[alias].metadata)
            if alias in changed:
                one = changed[alias]
                about |= {"tags": one.tags or about["tags"], "context": one.context or about["context"]}
            if alias in links:
                about["links"] = [*about["links"], note_id]
            yield from manager.operate("update_memory", memory_id=alias, content=_shown(about), metadata=about)
        if links:
            note = store.get(note_id)
            about = {**note.metadata, "links": [ids[alias].id for alias in links]}
            yield from manager.operate("update_memory", memory_id=kit.alias(note), content=note.content, metadata=about)

    def _recall(self, manager: ManagerSession, query: str) -> Play:
        """Return the nearest notes, each followed by those that it is linked with."""
        found: dict[str, str] = {}
        event = yield from manager.operate("retrieve_memory", query=query, top_k=self.top_k)
        for memory_id, content in zip(event.memory_ids, event.contents, strict=True):
            found[memory_id] = content
            linked = yield from manager.operate(
                "retrieve_memory", query=query, top_k=self.top_k, metadata_filter={"links": memory_id}
            )
            found |= dict(zip(linked.memory_ids, linked.contents, strict=True))
        return list(found.values())


def _shown(about: Mapping[str, Any]) -> str:
    """Return a note as text: what was said, and what is noted of it."""
    parts = [about["said"], *(f"{name}: {', '.join(about[name])}" for name in ("keywords", "tags") if about[name])]
    return "\n".join([*parts, *([f"context: {about['context']}"] if about["context"] else [])])
