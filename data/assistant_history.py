"""One history in the making: what is said turn by turn, what should be stored, what is asked.

Turns count from 0. The gold operations of a turn are those that its message calls for.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace
from typing import Any

from agemem_dspy.data.assistant_frames import FRAMES
from agemem_dspy.data.assistant_phrases import ATTRIBUTES, COMPANION, Attribute
from agemem_dspy.data.assistant_values import SHARED_WORDS, Split, people, pool

UNKNOWN = "I don't know"
_TRIES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """An attribute of somebody with its value; `owner` is "" for the user."""

    owner: str
    attribute: Attribute
    value: str

    @property
    def subject(self) -> str:
        """The label with its owner, as stored: "diet" or "Marta's diet"."""
        return f"{self.owner}'s {self.attribute.label}" if self.owner else self.attribute.label

    @property
    def spoken(self) -> str:
        """The subject as the user says it: "my diet" or "Marta's diet"."""
        return self.subject if self.owner else f"my {self.subject}"

    @property
    def content(self) -> str:
        """The sentence that should be stored."""
        return f"{self.subject}: {self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with its answer and the subjects it is about."""

    kind: str
    text: str
    answer: str
    asks: tuple[str, ...]
    support: tuple[Fact, ...]


def value_words(text: str) -> frozenset[str]:
    """Return the lower-case words that tell one value from another."""
    return frozenset(re.findall(r"[a-z0-9:-]+", text.lower())) - SHARED_WORDS


@dataclass(slots=True, kw_only=True)
class History:
    """A growing conversation of one user in one split; every choice comes from `rng`."""

    rng: random.Random
    split: Split
    friends: tuple[str, ...] = ()
    messages: list[str] = field(default_factory=list)
    operations: list[dict[str, Any]] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    deleted: list[Fact] = field(default_factory=list)
    _told: set[tuple[str, str]] = field(default_factory=set)
    _used: set[str] = field(default_factory=set)

    @classmethod
    def begin(cls, rng: random.Random, split: Split, *, friends: int = 0) -> History:
        """Start an empty history with so many friends."""
        names = tuple(rng.sample(people(split), friends))
        return cls(rng=rng, split=split, friends=names, _used={name.lower() for name in names})

    def state(self, *, owner: str = "", attribute: Attribute | None = None, announced: bool = False) -> bool:
        """Let the user state a new fact; `announced` spreads it over two messages.

        Returns False, having done nothing, when no unused value was found.
        """
        attribute = attribute or self.rng.choice([a for a in ATTRIBUTES if not owner or a.label != COMPANION])
        value = self._new_value(owner, attribute)
        if value is None or (owner, attribute.label) in self._told:
            return False
        fact = Fact(owner=owner, attribute=attribute, value=value)
        frames, wording = FRAMES[self.split], attribute.wordings[self.split]
        if announced:
            self._say(self.rng.choice(frames.leads), fact)
            sentence = self.rng.choice(frames.follows)
        else:
            sentence = self._pick(frames.states, wording.states, owner)
        self._say(sentence, fact)
        self._operate("add_memory", content=fact.content)
        self.facts.append(fact)
        self._told.add((owner, attribute.label))
        self._use(value)
        return True

    def change(self) -> bool:
        """Let the user replace the value of a fact. Returns False when none can change."""
        if not self.facts:
            return False
        at = self.rng.randrange(len(self.facts))
        old = self.facts[at]
        value = self._new_value(old.owner, old.attribute)
        if value is None:
            return False
        new = replace(old, value=value)
        frames, wording = FRAMES[self.split], old.attribute.wordings[self.split]
        self._say(self._pick(frames.changes, wording.changes, old.owner), new, old=old.value)
        self._operate("update_memory", content=new.content, old=old.content)
        self.facts[at] = new
        self.changed.add(new.subject)
        self._use(value)
        return True

    def forget(self, *, keep: int) -> bool:
        """Let the user ask to forget a fact. Returns False when only `keep` are left."""
        if len(self.facts) <= keep:
            return False
        fact = self.facts.pop(self.rng.randrange(len(self.facts)))
        self._say(self.rng.choice(FRAMES[self.split].forgets), fact)
        self._operate("delete_memory", old=fact.content)
        self.deleted.append(fact)
        return True

    def chat(self) -> bool:
        """Let the user say something that is not worth storing."""
        fresh = [text for text in FRAMES[self.split].small_talk if text not in self.messages]
        self.messages.append(self.rng.choice(fresh))
        return True

    def unknown_question(self) -> Question:
        """Ask for something deleted (preferred) or never told."""
        if self.deleted and self.rng.random() < 0.8:
            fact, kind = self.rng.choice(self.deleted), "deleted"
        else:
            owner = self.rng.choice(("", *self.friends))
            untold = [a for a in ATTRIBUTES if (owner, a.label) not in self._told]
            fact, kind = Fact(owner=owner, attribute=self.rng.choice(untold), value=""), "untold"
        return Question(kind=kind, text=self._ask(fact), answer=UNKNOWN, asks=(fact.subject,), support=())

    def single_question(self) -> Question:
        """Ask for one stored fact, rather a changed one than another."""
        changed = [fact for fact in self.facts if fact.subject in self.changed]
        fact = self.rng.choice(changed if changed and self.rng.random() < 0.7 else self.facts)
        kind = "changed" if fact in changed else "told"
        return Question(kind=kind, text=self._ask(fact), answer=fact.value, asks=(fact.subject,), support=(fact,))

    def double_question(self) -> Question:
        """Ask for two facts at once, or for one that is reached through the travel companion."""
        bridge = self._bridge()
        if bridge and self.rng.random() < 0.6:
            companion, fact = bridge
            text = self.rng.choice(FRAMES[self.split].bridge_asks).format(l=fact.attribute.label)
            asks, answer, kind = (companion.subject, fact.subject), fact.value, "bridge"
            return Question(kind=kind, text=text, answer=answer, asks=asks, support=bridge)
        one, two = self.rng.sample(self.facts, 2)
        text = self.rng.choice(FRAMES[self.split].joint_asks).format(s=one.spoken, t=two.spoken)
        answer = f"{one.value} and {two.value}"
        return Question(kind="joint", text=text, answer=answer, asks=(one.subject, two.subject), support=(one, two))

    def _bridge(self) -> tuple[Fact, Fact] | None:
        for companion in self.facts:
            if companion.attribute.label == COMPANION and not companion.owner:
                known = [fact for fact in self.facts if fact.owner == companion.value]
                return (companion, self.rng.choice(known)) if known else None
        return None

    def _ask(self, fact: Fact) -> str:
        own = fact.attribute.wordings[self.split].asks
        return self._pick(FRAMES[self.split].asks, own, fact.owner).format(s=fact.spoken)

    def _pick(self, general: tuple[str, ...], own: tuple[str, ...], owner: str) -> str:
        """Pick a general wording or, for the user's own facts half the time, the attribute's."""
        return self.rng.choice(general if owner or self.rng.random() < 0.5 else own)

    def _say(self, sentence: str, fact: Fact, *, old: str = "") -> None:
        spoken = fact.spoken
        subject = spoken[0].upper() + spoken[1:]
        self.messages.append(sentence.format(s=spoken, S=subject, v=fact.value, old=old))

    def _operate(self, tool: str, **arguments: str) -> None:
        self.operations.append({"turn": len(self.messages) - 1, "tool": tool, **arguments})

    def _new_value(self, owner: str, attribute: Attribute) -> str | None:
        values = pool(attribute.pool, self.split)
        if attribute.label == COMPANION and not owner and self.friends:
            current = {fact.value for fact in self.facts if fact.attribute is attribute}
            values = tuple(name for name in self.friends if name not in current)
            return self.rng.choice(values) if values else None
        for _ in range(_TRIES):
            value = self.rng.choice(values)
            if not value_words(value) & self._used:
                return value
        return None

    def _use(self, value: str) -> None:
        self._used |= value_words(value)
