"""The named reward terms, each a function of an example and a trajectory (spec 6.1).

They read the append-only event log, the answer and the final counts, never the live context.

Deviations from the paper:
1. An operation that failed, was automatic or freed no tokens earns nothing anywhere; nor does clearing the context
   in stage 1, where it is wiped anyway and filtering a fact away would pay as well as a distractor.
2. Storage gives no credit for duplicates (each fact pays the one entry that states it best), and
   keeps the credit of an entry that the messages later asked to replace or to forget. With nothing
   to store, storing nothing earns 1.
3. Maintenance is the share of the asked-for updates and deletes that were done, counted over
   those plus the harmful ones (which lost a gold fact). The paper pays 1 for any success, which
   buys a needless delete in every episode. Nothing asked for and nothing lost earns 1, unless
   the agent never stored anything: there was nothing to keep.
4. Relevance counts only what the policy itself retrieved in stage 3. When the question needs no
   fact ("I don't know"), having looked is enough.
5. In a world the progress stands in place of the answer score, and acting in place of answering.
6. The round-limit penalty needs a missing answer: an answer in the last round is an answer. Giving up
   early, after replies that could not be read, costs the same. A world that ends is no round limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agemem_dspy.errors import RewardError
from agemem_dspy.ledger import Entry, Gold, Ledger, settled, useful
from agemem_dspy.scoring import answer_score, mentions, normalize
from agemem_dspy.types import Embedder, Stage, StopReason, ToolEvent, Trajectory


class AnswerJudge(Protocol):
    """Scores an answer in [0, 1]."""

    def __call__(self, *, question: str, expected: str, answer: str) -> float:
        """Return the score."""
        ...


class UsefulnessJudge(Protocol):
    """Scores in [0, 1] how useful one stored entry is, given the facts worth storing."""

    def __call__(self, *, entry: str, facts: list[str]) -> float:
        """Return the score."""
        ...


class RelevanceJudge(Protocol):
    """Scores in [0, 1] how relevant one retrieved entry is to the question."""

    def __call__(self, *, question: str, entry: str) -> float:
        """Return the score."""
        ...


class MemoryJudge(Protocol):
    """Scores in [0, 1] how well the stored entries cover the facts."""

    def __call__(self, *, entries: list[str], facts: list[str]) -> float:
        """Return the score."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TermContext:
    """What the terms may ask beside the log: an embedder and judges, each optional."""

    embedder: Embedder | None = None
    answer_judge: AnswerJudge | None = None
    usefulness_judge: UsefulnessJudge | None = None
    relevance_judge: RelevanceJudge | None = None
    memory_judge: MemoryJudge | None = None


Term = Callable[[Any, Trajectory, TermContext], float]


def answer(example: Any, trajectory: Trajectory, ctx: TermContext) -> float:
    """Return the unweighted answer score in [0, 1], in a world the progress; 0 when the agent never answered."""
    if not trajectory.answered:
        return 0.0
    outcome = trajectory.outcome
    return score_fields(example, trajectory.answer or {}, ctx) if outcome is None else outcome.progress


def task(example: Any, trajectory: Trajectory, ctx: TermContext) -> float:
    """Return R_task: the answer score in [0, 1], or -1 without an answer; in a world, without an action."""
    return answer(example, trajectory, ctx) if trajectory.answered else -1.0


def compression(example: Any, trajectory: Trajectory, ctx: TermContext) -> float:
    """Return max(0, 1 - T_used / T_max), in [0, 1]."""
    if trajectory.max_context_tokens <= 0:
        raise RewardError(f"max_context_tokens is {trajectory.max_context_tokens}; it must be the positive limit T_max")
    return min(1.0, max(0.0, 1.0 - trajectory.context_tokens / trajectory.max_context_tokens))


def preventive(example: Any, trajectory: Trajectory, ctx: TermContext) -> float:
    """Return 1 if the policy's filter or summarize freed tokens after stage 1 and before any overflow, else 0."""
    limit = trajectory.max_context_tokens
    for event in sorted(trajectory.events, key=lambda event: event.index):
        if event.tokens_before > limit:
            return 0.0
        clears = event.tool in ("filter_context", "summarize_context") and event.stage > Stage.CONSTRUCT
        if clears and _earns(event) and _freed(event):
            return 1.0
        if event.tokens_after > limit:
            return 0.0
    return 0.0


def preservation(example: Any, trajectory: Trajectory, ctx: TermContext) -> float:
    """Return the share of the key items in the final context, in [0, 1]; 1 without key items."""
    items = Gold.of(example).key_items
    return _mean([float(mentions(item, trajectory.context)) for item in items], empty=1.0)


def storage(example: Any, trajectory: Trajectory, ctx: TermContext) -> float:
    """Return useful entries / entries added in stage 1, in [0, 1] (deviation 2)."""
    gold = Gold.of(example, ctx.embedder)
    ledger = Ledger.of(trajectory, until=Stage.CONSTRUCT)
    if not any(not entry.added.automatic for entry in ledger.entries):
        wanted = gold.facts or any(operation.tool == "add_memory" for operation in gold.operations)
        return 0.0 if wanted else 1.0
    verdicts = ledger.earned(gold) if ctx.usefulness_judge is None else _judged(ledger.entries, gold, ctx)
    earned = [float(one) for entry, one in zip(ledger.entries, verdicts, strict=True) if not entry.added.automatic]
    return sum(earned) / len(earned)


def maintenance(example: Any, trajectory: Trajectory, ctx: TermContext) -> float:
    """Return the share of due updates and deletes done, against harmful ones, in [0, 1] (deviation 3)."""
    gold, ledger = Gold.of(example, ctx.embedder), Ledger.of(trajectory)
    if gold.facts and not any(not entry.added.automatic for entry in ledger.entries):
        return 0.0
    due, harmful = gold.due(), ledger.harmful(gold)
    if not due and not harmful:
        return 1.0
    return sum(ledger.done(operation, gold) for operation in due) / (len(due) + len(harmful))


def relevance(example: Any, trajectory: Trajectory, ctx: TermContext) -> float:
    """Return the relevance of what the policy retrieved in stage 3, in [0, 1] (deviation 4)."""
    gold = Gold.of(example, ctx.embedder)
    retrieved = [event for event in trajectory.events if retrieved_for_answer(event)]
    if not gold.support:
        return float(bool(retrieved))
    found = list(dict.fromkeys(content for event in retrieved for content in event.contents))
    judge = ctx.relevance_judge
    if judge is None:
        return _mean([float(any(gold.says(fact, text) for fact in gold.support)) for text in found], empty=0.0)
    question = str(example.get("question") or (trajectory.outcome.goal if trajectory.outcome else ""))
    return _mean([verdict("relevance_judge", judge, question=question, entry=text) for text in found], empty=0.0)


def penalty(example: Any, trajectory: Trajectory, ctx: TermContext) -> float:
    """Return P in [-1.5, 0]: -1 for a question given up without an answer, -0.5 for T_used > T_max."""
    gave_up = trajectory.stop_reason in (StopReason.ROUND_LIMIT, StopReason.UNREADABLE)
    unanswered = trajectory.answer is None and gave_up
    overflown = trajectory.context_tokens > trajectory.max_context_tokens
    return 0.0 - 1.0 * unanswered - 0.5 * overflown


def memory_quality(example: Any, trajectory: Trajectory, ctx: TermContext) -> float:
    """Return MQ in [0, 1]: the F1 of gold facts covered by the final entries, or the judge's score.

    Precision is over entries, a duplicate counting as useless; recall is over facts.
    """
    gold = Gold.of(example, ctx.embedder)
    entries = [memory.content for memory in trajectory.memories]
    judge = ctx.memory_judge
    if judge is not None:
        return verdict("memory_judge", judge, entries=entries, facts=list(gold.facts))
    if not gold.facts or not entries:
        return float(not gold.facts and not entries)
    precision = sum(useful(entries, gold)) / len(entries)
    recall = sum(any(gold.says(fact, text) for text in entries) for fact in gold.facts) / len(gold.facts)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def score_fields(example: Any, fields: Mapping[str, Any], ctx: TermContext) -> float:
    """Return the mean answer score over the output fields that the example labels, in [0, 1].

    Raises:
        RewardError: the example labels none of the fields.
    """
    labels = [name for name in fields if name in example and name not in _inputs(example)]
    pairs = [(fields[name], example[name]) for name in labels]
    if not pairs and len(fields) == 1 and "answer" in example:
        pairs = [(next(iter(fields.values())), example["answer"])]
    if not pairs:
        raise RewardError(
            f"the example labels none of the answer's fields {sorted(fields)}; it has {sorted(example.keys())}: "
            "add the expected value under the field's name"
        )
    return _mean([_score(example, given, expected, ctx) for given, expected in pairs], empty=0.0)


def retrieved_for_answer(event: ToolEvent) -> bool:
    """Tell whether an event is a successful retrieve of the policy's own in stage 3."""
    return event.tool == "retrieve_memory" and event.stage is Stage.REASON and _earns(event)


def verdict(name: str, judge: Callable[..., float], **inputs: Any) -> float:
    """Ask a judge for its score in [0, 1].

    Raises:
        RewardError: the judge raised, or its score is not a number in [0, 1]; names the judge.
    """
    try:
        score = float(judge(**inputs))
    except Exception as error:
        raise RewardError(f"{name} failed: {type(error).__name__}: {error}") from error
    if not math.isfinite(score) or not 0.0 <= score <= 1.0:
        raise RewardError(f"{name} returned {score}; a judge must return a number in [0, 1]")
    return score


def _score(example: Any, given: Any, expected: Any, ctx: TermContext) -> float:
    golds = [str(one) for one in expected] if isinstance(expected, list | tuple) else [str(expected)]
    judge = ctx.answer_judge
    if judge is None:
        return max((answer_score(str(given), gold) for gold in golds), default=0.0)
    question = str(example.get("question", ""))
    return verdict("answer_judge", judge, question=question, expected=" | ".join(golds), answer=str(given))


def _judged(entries: Sequence[Entry], gold: Gold, ctx: TermContext) -> list[float]:
    judge, facts = ctx.usefulness_judge, list(gold.facts)
    seen: set[str] = set()
    scores: list[float] = []
    for entry in entries:
        text = entry.content
        if text is None or judge is None:
            scores.append(float(bool(settled(entry, gold))))
        elif normalize(text) in seen:
            scores.append(0.0)
        else:
            seen.add(normalize(text))
            scores.append(verdict("usefulness_judge", judge, entry=text, facts=facts))
    return scores


def _inputs(example: Any) -> set[str]:
    return set(getattr(example, "_input_keys", None) or ())


def _earns(event: ToolEvent) -> bool:
    return event.ok and not event.automatic


def _freed(event: ToolEvent) -> bool:
    return bool(event.contents) and (not event.tokens_before or event.tokens_after < event.tokens_before)


def _mean(values: Sequence[float], *, empty: float) -> float:
    return sum(values) / len(values) if values else empty
