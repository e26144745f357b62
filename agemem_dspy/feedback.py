"""The reasons behind a reward, in short sentences that a prompt optimizer can act on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agemem_dspy.ledger import Gold, Ledger
from agemem_dspy.scoring import mentions, normalize
from agemem_dspy.terms import retrieved_for_answer
from agemem_dspy.types import Stage, Step, ToolEvent, Trajectory

_LONGEST_QUOTE = 160
_MOST_PER_KIND = 5


def explain(example: Any, trajectory: Trajectory, terms: Mapping[str, float]) -> str:
    """Say why a trajectory earned its reward: what was missed, what was junk, which call failed."""
    gold = Gold.of(example)
    ledger, built = Ledger.of(trajectory), Ledger.of(trajectory, until=Stage.CONSTRUCT)
    parts = (
        _answer(example, trajectory, terms),
        _missing(example, gold, built),
        _useless(gold, built),
        _maintenance(gold, ledger),
        _context(example, gold, trajectory),
        _retrieval(gold, trajectory),
        _calls(trajectory),
    )
    lines = [line for part in parts for line in _few(list(part))]
    scores = ", ".join(f"{name} {value:.2f}" for name, value in terms.items())
    return "\n".join([*lines, f"Scores: {scores}."])


def _answer(example: Any, trajectory: Trajectory, terms: Mapping[str, float]) -> Iterator[str]:
    expected = {name: example[name] for name in trajectory.answer or () if name in example}
    wanted = _fields(expected) if expected else _quote(example.get("answer"))
    outcome, ended = trajectory.outcome, trajectory.stop_reason.value.replace("_", " ")
    if outcome is not None:
        share = "was reached" if outcome.success else f"was not reached, {outcome.progress:.0%} of it was ({ended})"
        yield f"The goal {_quote(outcome.goal)} {share}, in {outcome.actions} actions."
    elif trajectory.answer is None:
        yield f"No answer was given ({ended}); expected {wanted}."
    elif terms.get("answer", 0.0) >= 1.0:
        yield f"The answer was right: {_fields(trajectory.answer)}."
    else:
        yield f"The answer was {_fields(trajectory.answer)}; expected {wanted}."
    if trajectory.context_tokens > trajectory.max_context_tokens:
        yield (
            f"The context held {trajectory.context_tokens} tokens, over the limit of {trajectory.max_context_tokens}: "
            "filter or summarize earlier."
        )


def _missing(example: Any, gold: Gold, ledger: Ledger) -> Iterator[str]:
    for fact in gold.facts:
        if not ledger.holds(fact, gold):
            yield f"A fact was not stored in stage 1: {_quote(fact)}{_stated(example, gold, fact)}."


def _stated(example: Any, gold: Gold, fact: str) -> str:
    messages = list(example.get("messages") or ())
    turns = [one.turn for one in gold.operations if one.content == fact and one.turn < len(messages)]
    turn = turns[-1] if turns else next((n for n, text in enumerate(messages) if gold.says(fact, text)), None)
    return "" if turn is None else f"; message {turn + 1} stated it: {_quote(messages[turn])}"


def _useless(gold: Gold, ledger: Ledger) -> Iterator[str]:
    for entry, useful in zip(ledger.entries, ledger.earned(gold), strict=True):
        if useful or entry.added.automatic:
            continue
        if entry.content is None:
            yield f"An entry was added and deleted though nobody asked for it: {_quote(entry.added.contents[0])}."
        elif gold.carried(entry.content):
            yield f"An entry repeats what another one already holds: {_quote(entry.content)}."
        elif any(operation.old and gold.says(operation.old, entry.content) for operation in gold.due()):
            yield f"An entry is out of date and was left as it was: {_quote(entry.content)}."
        else:
            yield f"An entry carries no fact worth keeping: {_quote(entry.content)}."


def _maintenance(gold: Gold, ledger: Ledger) -> Iterator[str]:
    for operation in gold.due():
        if ledger.done(operation, gold):
            continue
        old, where = _quote(operation.old), f"message {operation.turn + 1}"
        if operation.tool == "update_memory":
            yield f"An update was missed at {where}: {old} should have become {_quote(operation.content)}."
        else:
            yield f"A delete was missed at {where}: {old} should have been removed."
    for change in ledger.harmful(gold):
        yield f"{change.event.tool} lost a fact that still holds: {_quote(change.former)}."


def _context(example: Any, gold: Gold, trajectory: Trajectory) -> Iterator[str]:
    left = {normalize(text) for text in trajectory.context}
    for text in example.get("distractors") or ():
        if any(normalize(text) in one for one in left):
            yield f"A distractor stayed in the context (filter_context removes it): {_quote(text)}."
    for item in gold.key_items:
        if not mentions(item, trajectory.context):
            yield f"{_quote(item)} was needed for the answer but is not in the final context."


def _retrieval(gold: Gold, trajectory: Trajectory) -> Iterator[str]:
    events = [event for event in trajectory.events if retrieved_for_answer(event)]
    if not events:
        yield "Nothing was retrieved in stage 3; call retrieve_memory before answering."
        return
    found = [content for event in events for content in event.contents]
    queries = ", ".join(_quote(event.arguments.get("query", "")) for event in events)
    for fact in gold.support:
        if any(gold.says(fact, text) for text in found):
            continue
        stored = any(gold.says(fact, memory.content) for memory in trajectory.memories)
        reason = "it was stored, so ask for it by its own words" if stored else "it was not stored"
        yield f"Retrieval with {queries} did not find {_quote(fact)}: {reason}."


def _calls(trajectory: Trajectory) -> Iterator[str]:
    for step in trajectory.steps:
        if step.error and step.error not in {event.error for event in step.events}:
            yield f"A step could not be read at {_where(step)}: {_quote(step.error)}."
    for event in trajectory.events:
        if not event.ok and not event.automatic:
            call = f"A call to {event.tool}" if event.tool else "An unreadable call"
            yield f"{call} failed at {_where(event)}: {_quote(event.error or event.observation)}."


def _where(one: Step | ToolEvent) -> str:
    return f"stage {int(one.stage)}, turn {one.turn + 1}"


def _few(lines: list[str]) -> list[str]:
    hidden = len(lines) - _MOST_PER_KIND
    return lines if hidden <= 0 else [*lines[:_MOST_PER_KIND], f"({hidden} more of this kind.)"]


def _fields(fields: Mapping[str, Any]) -> str:
    if len(fields) == 1:
        return _quote(next(iter(fields.values())))
    return ", ".join(f"{name} {_quote(value)}" for name, value in fields.items())


def _quote(value: Any) -> str:
    text = " ".join(str(value).split())
    return f'"{text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1] + "…"}"'
