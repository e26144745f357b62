"""The ledger: what an example holds to be true, and what became of every long-term entry.

`Gold` reads the labels of an example; `Ledger` replays the append-only event log. Rewards and
feedback compare the two and look nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from agemem_dspy.scoring import carries, recall
from agemem_dspy.types import Embedder, Stage, ToolEvent, Trajectory

CHANGES = ("update_memory", "delete_memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One gold operation of stage 1: what the messages up to `turn` ask the memory to do."""

    turn: int
    tool: str
    content: str | None
    old: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gold:
    """The labels of one example; a missing label is an empty one."""

    facts: tuple[str, ...]
    operations: tuple[Operation, ...]
    support: tuple[str, ...]
    key_items: tuple[str, ...]
    rivals: Mapping[str, frozenset[str]]
    embedder: Embedder | None = None

    @classmethod
    def of(cls, example: Any, embedder: Embedder | None = None) -> Self:
        """Read the labels of a `dspy.Example`."""
        operations = tuple(
            Operation(turn=int(raw["turn"]), tool=raw["tool"], content=raw.get("content"), old=raw.get("old"))
            for raw in example.get("operations") or ()
        )
        return cls(
            facts=tuple(example.get("facts") or ()),
            operations=operations,
            support=tuple(example.get("support") or ()),
            key_items=tuple(example.get("key_items") or ()),
            rivals=_rivals(operations),
            embedder=embedder,
        )

    def says(self, fact: str, text: str) -> bool:
        """Tell whether a text carries one gold content, given those that it replaced."""
        return carries(fact, text, rivals=self.rivals.get(fact, ()), embedder=self.embedder)

    def carried(self, text: str) -> tuple[str, ...]:
        """Return the gold facts that a text carries."""
        return tuple(fact for fact in self.facts if self.says(fact, text))

    def due(self) -> tuple[Operation, ...]:
        """Return the updates and deletes that the messages ask for."""
        return tuple(operation for operation in self.operations if operation.tool in CHANGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A successful update or delete: the content before, and after (None when deleted)."""

    memory_id: str
    former: str
    content: str | None
    event: ToolEvent

    def follows(self, operation: Operation) -> bool:
        """Tell whether the change came at the operation's turn or later."""
        return self.event.stage > Stage.CONSTRUCT or self.event.turn >= operation.turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One added long-term entry and its fate; `content` is None once it was deleted."""

    memory_id: str
    added: ToolEvent
    content: str | None
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Every entry that the log added, in order, with all changes up to the end of a stage."""

    entries: tuple[Entry, ...]
    changes: tuple[Change, ...]

    @classmethod
    def of(cls, trajectory: Trajectory, until: Stage = Stage.REASON) -> Self:
        """Replay the successful long-term operations of a trajectory up to the end of a stage."""
        added: dict[str, ToolEvent] = {}
        contents: dict[str, str | None] = {}
        changes: list[Change] = []
        for event in trajectory.events:
            if not event.ok or event.stage > until:
                continue
            if event.tool == "add_memory":
                for memory_id, stored in zip(event.memory_ids, event.contents, strict=True):
                    added[memory_id], contents[memory_id] = event, stored
            elif event.tool in CHANGES:
                for position, memory_id in enumerate(event.memory_ids):
                    removed = event.contents[position] if event.tool == "delete_memory" and event.contents else ""
                    former = contents.get(memory_id) or event.detail or removed
                    content = event.contents[position] if event.tool == "update_memory" else None
                    changes.append(Change(memory_id=memory_id, former=former, content=content, event=event))
                    contents[memory_id] = content
        entries = tuple(
            Entry(
                memory_id=memory_id,
                added=event,
                content=contents[memory_id],
                changes=tuple(change for change in changes if change.memory_id == memory_id),
            )
            for memory_id, event in added.items()
        )
        return cls(entries=entries, changes=tuple(changes))

    def holds(self, fact: str, gold: Gold) -> bool:
        """Tell whether a live entry carries a gold content."""
        return any(entry.content is not None and gold.says(fact, entry.content) for entry in self.entries)

    def earned(self, gold: Gold) -> tuple[bool, ...]:
        """Tell for each entry whether it is useful, a duplicate being useless (spec 6.3).

        An entry is useful when it carries a gold fact, or when it held what the messages then asked
        to replace or forget, and was deleted. Each fact pays one entry: see `useful`.
        """
        return _paid(
            [settled(entry, gold) if entry.content is None else _claims(entry.content, gold) for entry in self.entries]
        )

    def done(self, operation: Operation, gold: Gold) -> bool:
        """Tell whether the policy carried out a gold update or delete.

        The entry that held `old` was updated or deleted at that turn or later, no live entry still
        says `old`, unless a later message made it true again, and the new content, while still a fact, is stored.
        """
        old, new = operation.old or "", operation.content
        touched = any(
            not change.event.automatic and change.follows(operation) and gold.says(old, change.former)
            for change in self.changes
        )
        stale = old not in gold.facts and any(
            entry.content is not None and gold.says(old, entry.content) and not (new and gold.says(new, entry.content))
            for entry in self.entries
        )
        return touched and not stale and (new not in gold.facts or self.holds(new, gold))

    def harmful(self, gold: Gold) -> tuple[Change, ...]:
        """Return the policy's changes that lost a gold fact which no live entry carries any more."""
        return tuple(
            change
            for change in self.changes
            if not change.event.automatic
            and any(
                not (change.content is not None and gold.says(fact, change.content)) and not self.holds(fact, gold)
                for fact in gold.carried(change.former)
            )
        )


def useful(texts: Iterable[str], gold: Gold) -> tuple[bool, ...]:
    """Tell for each text whether it is useful: each gold fact pays the one text that states it best.

    Best is the highest recall of the fact's words, the first on a tie, so that a copy earns nothing
    while a long text that half covers a fact does not take it from the entry that states it.
    """
    return _paid([_claims(text, gold) for text in texts])


def settled(entry: Entry, gold: Gold) -> dict[str, float]:
    """Map the contents that an entry held when the messages revoked them to their recall."""
    return {
        f"revoked at turn {operation.turn}: {operation.old}": recall(operation.old, change.former)
        for operation in gold.due()
        for change in entry.changes
        if operation.old and change.follows(operation) and gold.says(operation.old, change.former)
    }


def _claims(text: str, gold: Gold) -> dict[str, float]:
    return {fact: recall(fact, text) for fact in gold.carried(text)}


def _paid(claims: Sequence[Mapping[str, float]]) -> tuple[bool, ...]:
    best: dict[str, int] = {}
    for place, claim in enumerate(claims):
        for fact, closeness in claim.items():
            if fact not in best or closeness > claims[best[fact]][fact]:
                best[fact] = place
    winners = set(best.values())
    return tuple(place in winners for place in range(len(claims)))


def _rivals(operations: Iterable[Operation]) -> dict[str, frozenset[str]]:
    """Group the contents that replaced one another, and map each to the others of its group."""
    groups: dict[str, set[str]] = {}
    for operation in operations:
        if operation.tool == "update_memory" and operation.content and operation.old:
            joined = groups.get(operation.old, {operation.old}) | groups.get(operation.content, {operation.content})
            groups.update(dict.fromkeys(joined, joined))
    return {content: frozenset(group - {content}) for content, group in groups.items()}
