"""Evaluation: any program over any split, one JSONL row a question, resumable.

A pool of threads with the caller's DSPy context is used rather than `dspy.Parallel`: that one
plays slow questions twice, turns a failed question into None and goes on. Here a program or
metric that raises stops the run with its name, and what was played is kept.
"""

from __future__ import annotations

import contextvars
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import dspy

from agemem_dspy.errors import ConfigurationError, DataError, RunError
from agemem_dspy.journal import Journal
from agemem_dspy.policy.recorder import sampling_seed
from agemem_dspy.programs.description import describe_adapter, describe_lm, describe_program
from agemem_dspy.progress import progress_rate
from agemem_dspy.results import EvaluationResult, Interval
from agemem_dspy.rewards import TrajectoryReward, trajectory_of
from agemem_dspy.types import Outcome, Trajectory

__all__ = ["EvaluationResult", "Interval", "Score", "evaluate"]

Score = Callable[[Any, str], float]  # of an example and the answer given to it

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def evaluate(
    program: Any,
    dataset: Sequence[Any],
    metric: Callable[..., Any],
    *,
    scores: Mapping[str, Score] | None = None,
    num_threads: int = 1,
    log_dir: str | Path | None = None,
    name: str = "eval",
    resume: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Play every example once and score it.

    With a `log_dir`, each question is a row of `<log_dir>/<name>.jsonl`, written as soon as it is
    played; a row of the same program, LM, metric and example is not played again. `progress` is
    called with (questions done, questions in all). A `TrajectoryReward` gives all its terms, or
    the `answer` score alone where the program returns no trajectory; any other metric `reward`.
    An episode in a world adds `success`, `progress_rate` (as `progress` has it) and `actions`, their number.
    Each of `scores` adds a column of its name for the answer alone: 0 where there is none.
    A local policy that samples draws the same random numbers for an example in every evaluation with the same `seed`.

    Raises:
        ConfigurationError: `num_threads` is below 1.
        DataError: the data set is empty, or two examples share an id.
        RunError: the program, the metric or a score raised on a question, or the log cannot be written.
    """
    if num_threads < 1:
        raise ConfigurationError(f"num_threads is {num_threads}; it must be at least 1")
    examples, scores = _identified(dataset), scores or {}
    config = _describe_run(program, metric, scores, seed)
    prints = {key: _digest(config + _canonical(dict(example.items()))) for key, example in examples.items()}
    journal = Journal(Path(log_dir) / f"{name}.jsonl", resume=resume) if log_dir is not None else None
    written = {row.get("fingerprint"): row for row in journal.rows} if journal is not None else {}
    rows = {key: written[mark] for key, mark in prints.items() if mark in written}
    kept = f"; what was played before is kept in {journal.path}" if journal is not None else ""

    def play(key: str) -> dict[str, Any]:
        try:
            with sampling_seed(int(_digest(key), 16), seed):
                row = _play(program, examples[key], metric, scores)
        except Exception as error:
            raise RunError(
                f"evaluation {name!r} stopped at question {key!r}: {type(error).__name__}: {error}{kept}"
            ) from error
        row = {"id": key, "fingerprint": prints[key], **row}
        if journal is not None:
            journal.append(row)
        return row

    for row in _in_threads(play, [key for key in examples if key not in rows], num_threads):
        rows[row["id"]] = row
        if progress is not None:
            progress(len(rows), len(examples))
    return EvaluationResult(name=name, rows=tuple(rows[key] for key in examples))


def _in_threads(
    play: Callable[[str], dict[str, Any]], keys: Sequence[str], num_threads: int
) -> Iterator[dict[str, Any]]:
    """Yield the rows as they are done; the first error cancels what has not begun."""
    if num_threads == 1:
        yield from map(play, keys)
        return
    with ThreadPoolExecutor(num_threads) as pool:
        futures = [pool.submit(contextvars.copy_context().run, play, key) for key in keys]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _play(program: Any, example: Any, metric: Callable[..., Any], scores: Mapping[str, Score]) -> dict[str, Any]:
    begun = time.perf_counter()
    pred = program(**example.inputs())
    seconds = time.perf_counter() - begun
    trajectory = trajectory_of(pred)
    answer = trajectory.answer if trajectory is not None else _answer_fields(pred)
    text = _text(answer)
    return {
        "kind": _plain(example.get("kind")),
        "question": _plain(example.get("question", example.get("goal"))),
        "gold": _plain(example.get("answer")),
        "prediction": None if answer is None else {field: _plain(value) for field, value in answer.items()},
        **_metric(example, pred, metric, trajectory),
        **{name: 0.0 if text is None else float(score(example, text)) for name, score in scores.items()},
        **(_counts(trajectory) if trajectory is not None else {}),
        **(_came_of(example, trajectory, trajectory.outcome) if trajectory and trajectory.outcome else {}),
        "seconds": seconds,
    }


def _text(answer: Mapping[str, Any] | None) -> str | None:
    """Return the field "answer", or else the first; None for no answer."""
    given = answer.get("answer", next(iter(answer.values()))) if answer else None
    return None if given is None else str(given)


def _metric(example: Any, pred: Any, metric: Callable[..., Any], trajectory: Trajectory | None) -> dict[str, float]:
    if not isinstance(metric, TrajectoryReward):
        value = metric(example, pred)
        return {"reward": float(getattr(value, "score", value))}
    if trajectory is None:
        return {"answer": metric.score_answer(example, _answer_fields(pred))}
    return metric.terms(example, trajectory)


def _counts(trajectory: Trajectory) -> dict[str, Any]:
    acts = [step for step in trajectory.steps if step.kind == "act"]
    calls = [event for event in trajectory.events if not event.automatic]
    attempted = Counter(event.tool or "unreadable" for event in calls)
    done = Counter(event.tool for event in calls if event.ok)
    taped = [step.completion for step in trajectory.steps if step.completion is not None]
    return {
        "prompt_tokens": sum(step.prompt_tokens for step in trajectory.steps),
        "completion_tokens": sum(len(one.completion_ids) for one in taped) if taped else None,
        "steps": len(trajectory.steps),
        "tool_calls": len(calls),
        "calls": {tool: {"attempted": attempted[tool], "ok": done[tool]} for tool in sorted(attempted)},
        "parse_rate": sum(step.parsed for step in acts) / len(acts) if acts else None,
        "tool_success": done.total() / len(calls) if calls else None,
        "stop_reason": trajectory.stop_reason.value,
        "memories": [memory.content for memory in trajectory.memories],
    }


def _came_of(example: Any, trajectory: Trajectory, outcome: Outcome) -> dict[str, Any]:
    """Return what an episode in a world is measured by."""
    rate = progress_rate(example, trajectory)
    return {"success": float(outcome.success), "progress_rate": rate, "actions": outcome.actions}


def _answer_fields(pred: Any) -> dict[str, Any]:
    return dict(pred.items())


def _identified(dataset: Sequence[Any]) -> dict[str, Any]:
    """Key the examples by their id, or by a digest of their content."""
    examples: dict[str, Any] = {}
    for example in dataset:
        key = str(example.get("id") or _digest(_canonical(dict(example.items()))))
        if key in examples:
            raise DataError(f"two examples share the id {key!r}; give each its own")
        examples[key] = example
    if not examples:
        raise DataError("the data set is empty; pass at least one example")
    return examples


def _describe_run(program: Any, metric: Callable[..., Any], scores: Mapping[str, Score], seed: int) -> str:
    """Return as canonical JSON what decides an outcome: prompts, settings, LMs, adapter, metric, scores, seed."""
    described = metric.describe() if isinstance(metric, TrajectoryReward) else _name_of(metric)
    return _canonical(
        {
            "program": _name_of(program),
            "modules": describe_program(program) if isinstance(program, dspy.Module) else {},
            "lm": describe_lm(dspy.settings.lm),
            "adapter": describe_adapter(dspy.settings.adapter),
            "metric": described,
            "scores": {name: getattr(score, "name", _name_of(score)) for name, score in scores.items()},
            "seed": seed,
        }
    )


def _name_of(one: Any) -> str:
    return str(getattr(one, "__qualname__", type(one).__qualname__))


def _canonical(value: Mapping[str, Any]) -> str:
    return _ADDRESS.sub("", json.dumps(value, sort_keys=True, default=str))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
