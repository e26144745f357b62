"""The audit of a memory: junk, duplicates, possible contradictions, what has expired.

It only reads. What it calls junk and a contradiction is decided by rules that can be read here; they know a few words
of four languages and how a text begins, and point at entries for a person to look at.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.checks import now
from agemem_dspy.memory.embedder import embed_checked
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.quarantine import is_set_aside
from agemem_dspy.types import Entry, Memory, Provenance

_RELATED = 0.5  # the cosine from which two entries may be about the same thing
_VALUE = 3  # words of a value, at most, where no colon shows its beginning
_BLOCK = 1024  # rows compared at once
_WORD = re.compile(r"\w+(?:['’]\w+)?")
_COURTESIES = frozenset(
    """hi hello hey thanks thank you so much very ok okay bye goodbye good morning afternoon evening night day welcome
    please great cool sure yes no yep nope hola gracias muchas buenos buenas dias días tardes noches adiós vale sí
    bonjour salut merci beaucoup bonsoir oui non au revoir hallo danke schön guten morgen tag abend nacht tschüss ja
    nein bitte""".split()
)
_NEGATIONS = frozenset("not no never don't doesn't isn't aren't nicht kein keine nie ne pas jamais nunca".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Junk:
    """An entry that is of no use: "quarantined" by a guard, "no words" in it, or a "courtesy" and nothing else."""

    memory: Memory
    reason: Literal["quarantined", "no words", "courtesy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two entries, the older first, and the cosine of their contents."""

    first: Memory
    second: Memory
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What an audit found among the `entries` that are in sight.

    `duplicates` are groups with the same content but for case and spaces, oldest first. `near_duplicates` are pairs
    with another content and a cosine from the threshold on; a pair is in `contradictions` instead when one seems to
    replace the other: both begin alike and go on to another value. `never_retrieved` is None where the store does not
    note what was. `expired` is out of sight and not purged yet.
    """

    user_id: str
    entries: int
    junk: tuple[Junk, ...]
    duplicates: tuple[tuple[Memory, ...], ...]
    near_duplicates: tuple[Pair, ...]
    contradictions: tuple[Pair, ...]
    never_retrieved: tuple[Memory, ...] | None
    expired: tuple[Memory, ...]

    @property
    def junk_rate(self) -> float:
        """Return the share of junk among what is in sight or in quarantine, from 0 to 1."""
        aside = sum(one.reason == "quarantined" for one in self.junk)
        return len(self.junk) / (self.entries + aside) if self.junk else 0.0


def audit(store: LongTermMemory, *, threshold: float = 0.9, retrieved: Iterable[str] | None = None) -> AuditReport:
    """Look through everything of a user; every content is embedded, and compared with every other.

    Args:
        threshold: the cosine from which two entries are near duplicates, from 0.5 to 1.
        retrieved: the ids that were ever retrieved, such as those in the `memory_ids` of `ToolEvent`s; what searches
            of this store have returned when left out.

    Raises:
        ConfigurationError: another threshold.
    """
    if not _RELATED <= threshold <= 1.0:
        raise ConfigurationError(f"the threshold of near duplicates must be from {_RELATED} to 1, not {threshold}")
    moment = now()
    junk: list[Junk] = []
    seen: list[Memory] = []
    expired: list[Memory] = []
    for entry in store.entries():
        memory, last = _memory(entry), entry.versions[-1]
        if is_set_aside(last):
            junk.append(Junk(memory=memory, reason="quarantined"))
        elif last.live and memory.expires_at is not None and memory.expires_at <= moment:
            expired.append(memory)
        elif last.live:
            seen.append(memory)
            if reason := _junk(memory.content):
                junk.append(Junk(memory=memory, reason=reason))
    groups: defaultdict[str, list[Memory]] = defaultdict(list)
    for memory in seen:
        groups[" ".join(memory.content.casefold().split())].append(memory)
    near: list[Pair] = []
    against: list[Pair] = []
    for pair in _related([group[0] for group in groups.values()], store):
        if contradict(pair.first.content, pair.second.content):
            against.append(pair)
        elif pair.cosine >= threshold:
            near.append(pair)
    known = store.retrieved() if retrieved is None else frozenset(retrieved)
    return AuditReport(
        user_id=store.user_id,
        entries=len(seen),
        junk=tuple(junk),
        duplicates=tuple(tuple(group) for group in groups.values() if len(group) > 1),
        near_duplicates=tuple(near),
        contradictions=tuple(against),
        never_retrieved=None if known is None else tuple(one for one in seen if one.id not in known),
        expired=tuple(expired),
    )


def contradict(first: str, second: str) -> bool:
    """Tell whether two texts may say different things of the same subject.

    They do when what is before the first colon is the same and what is after it is not; when they have the same words
    but for a negation; or when they begin with the same words and differ in at most three words each, which are no
    more than they share. Texts that begin differently are about different subjects: "Ana is vegan", "Bo is vegan".
    """
    one, other = _words(first), _words(second)
    if one == other:
        return False
    subjects = [_words(text.partition(":")[0]) for text in (first, second) if ":" in text]
    if len(subjects) == 2 and subjects[0] and subjects[0] == subjects[1]:
        return True
    begin = _alike(one, other)
    end = _alike(one[begin:][::-1], other[begin:][::-1])
    values = one[begin : len(one) - end], other[begin : len(other) - end]
    if not all(values):
        return begin + end > 0 and _NEGATIONS.issuperset((*values[0], *values[1]))
    return begin > 0 and max(map(len, values)) <= min(_VALUE, begin + end)


def _memory(entry: Entry) -> Memory:
    last = entry.versions[-1]
    return Memory(
        id=entry.id,
        content=last.content,
        metadata=last.metadata,
        memory_type=entry.memory_type,
        created_at=entry.versions[0].at,
        updated_at=last.at,
        expires_at=last.expires_at,
        provenance=Provenance.of(last.by),
        agent_id=entry.agent_id,
        session_id=entry.session_id,
    )


def _junk(content: str) -> Literal["no words", "courtesy"] | None:
    found = _words(content)
    if not found:
        return "no words"
    return "courtesy" if _COURTESIES.issuperset(found) else None


def _words(text: str) -> list[str]:
    return [word.replace("’", "'") for word in _WORD.findall(text.casefold()) if word.strip("_")]


def _alike(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many words two texts begin with alike."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def _related(memories: Sequence[Memory], store: LongTermMemory) -> Iterator[Pair]:
    """Yield the pairs of entries that may be about the same thing, in their order."""
    if len(memories) < 2:
        return
    rows: NDArray[np.float32] = embed_checked(store.embedder, [memory.content for memory in memories])
    for start in range(0, len(rows), _BLOCK):
        cosines = rows[start : start + _BLOCK] @ rows[start:].T
        for left, right in np.argwhere(np.triu(cosines >= _RELATED, k=1)).tolist():
            cosine = min(1.0, float(cosines[left, right]))
            yield Pair(first=memories[start + left], second=memories[start + right], cosine=cosine)
