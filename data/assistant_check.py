"""The check that an assistant example can be solved from what is said in it."""

from __future__ import annotations

import re

import dspy

from agemem_dspy.data.assistant_history import UNKNOWN
from agemem_dspy.data.distractors import content_words
from agemem_dspy.errors import DataError


def verify(example: dspy.Example) -> None:
    """Replay the gold operations and check facts, support, answer, key items and distractors.

    Raises:
        DataError: names the example and the first thing that does not fit.
    """
    problem = _operations_problem(example) or _question_problem(example) or _distractors_problem(example)
    if problem:
        raise DataError(f"example {example.id!r}: {problem}")


def _split(fact: str) -> tuple[str, str]:
    subject, _, value = fact.partition(": ")
    return subject, value


def _operations_problem(example: dspy.Example) -> str | None:
    stored: list[str] = []
    turns = [operation["turn"] for operation in example.operations]
    if turns != sorted(turns):
        return f"operations: the turns {turns} are out of order"
    for operation in example.operations:
        turn, tool = operation["turn"], operation["tool"]
        content, old = operation.get("content", ""), operation.get("old", "")
        if not 0 <= turn < len(example.messages):
            return f"operations: there is no message {turn}"
        said, (subject, value) = example.messages[turn], _split(content or old)
        if content and (not subject or not value):
            return f"operations: {content!r} is not of the form 'subject: value'"
        if content and not re.search(rf"(?<!\w){re.escape(value)}(?!\w)", said):
            return f"operations: the value {value!r} is not in message {turn}: {said!r}"
        if tool == "delete_memory" and subject.lower() not in said.lower():
            return f"operations: message {turn} does not say to forget {subject!r}: {said!r}"
        if tool != "add_memory" and old not in stored:
            return f"operations: {old!r} is not stored at turn {turn}"
        if tool == "add_memory":
            if subject in (_split(fact)[0] for fact in stored):
                return f"operations: {subject!r} is added twice"
            stored.append(content)
        elif tool == "update_memory":
            if _split(old)[0] != subject or old == content:
                return f"operations: {content!r} does not change {old!r}"
            stored[stored.index(old)] = content
        else:
            stored.remove(old)
    if stored != example.facts:
        return f"facts: the operations leave {stored}, the example says {example.facts}"
    return None


def _question_problem(example: dspy.Example) -> str | None:
    facts = dict(_split(fact) for fact in example.facts)
    known = [f"{subject}: {facts[subject]}" for subject in example.asks if subject in facts]
    if not example.asks:
        return "asks: at least one subject must be asked for"
    if example.answer == UNKNOWN:
        if known or example.support or example.key_items:
            return f"answer: it is {UNKNOWN!r}, so nothing asked for may be stored, support or key item: {known}"
        return None
    if example.support != known or len(known) != len(example.asks):
        return f"support: {example.support} is not what holds for the subjects asked for, {example.asks}"
    values = [facts[subject] for subject in example.asks]
    expected = values[-1] if example.kind == "bridge" else " and ".join(values)
    if example.answer != expected:
        return f"answer: {example.answer!r} is not what the facts say, {expected!r}"
    owners = [subject.partition("'s ")[0] for subject in example.asks if "'s " in subject]
    if sorted(set(example.key_items)) != sorted({*values, *owners}) or len(set(example.key_items)) < len(
        example.key_items
    ):
        return f"key_items: {example.key_items} are not the values and people of the support"
    return None


def _distractors_problem(example: dspy.Example) -> str | None:
    told = [
        text for operation in example.operations for text in (operation.get("content"), operation.get("old")) if text
    ]
    related = frozenset[str]().union(*map(content_words, [*told, *example.asks, example.question]))
    for text in example.distractors:
        shared = sorted(content_words(text) & related)
        if shared:
            return f"distractors: {text!r} shares {shared} with the task"
    if len({*example.distractors, *example.messages}) < len(example.distractors) + len(set(example.messages)):
        return "distractors: one is said twice"
    return None
