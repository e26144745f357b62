"""Experiments small enough for tests: an untrained model of 0.2 M parameters, short episodes, one GRPO step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from command_line import short_examples, tiny_model

from agemem_dspy.bench.experiment import Experiment, slug
from agemem_dspy.bench.folder import BenchFolder, Cell

TOML = """
title = "A test"
model = "{model}"
train = "{data}"
columns = ["answer", "em", "f1", "memory_quality", "calls.add_memory"]
against = "base"
max_rounds = 1
max_tokens = 6

[recipe]
warm_examples = 2
max_steps = 1
tasks_per_step = 1
num_generations = 2
top_layers = 1

[[worlds]]
name = "small"
data = "{data}"

[[methods]]
name = "base"
method = "no-memory"

[[methods]]
name = "+LT"
method = "agemem"
tools = "long-term"

[[methods]]
name = "taught"
method = "agemem"
phases = ["warm_start"]

[[methods]]
name = "+RL"
method = "agemem"
phases = ["warm_start", "grpo"]
play = {{ filter_threshold = 0.4 }}

[[methods]]
name = "another's"
method = "rag"
control = "shuffled"

[quick]
seeds = [3]

[[quick.methods]]
name = "base"
method = "no-memory"
"""


def small_experiment(folder: Path, examples: int = 3) -> Path:
    """Write a data file, a model and an experiment that uses them, and return the experiment's path."""
    data = short_examples(folder / "rows.jsonl", examples)
    path = folder / "small.toml"
    path.write_text(TOML.format(model=tiny_model(folder / "tiny"), data=data), encoding="utf-8")
    return path


def experiment(**changes: Any) -> Experiment:
    """Make an experiment of two methods in one world, whose model is never loaded."""
    values: dict[str, Any] = {
        "name": "made",
        "title": "Made",
        "columns": ["answer", "f1", "judge"],
        "against": "base",
        "worlds": [{"name": "w", "data": "assistant:test"}],
        "methods": [{"name": "base", "method": "no-memory"}, {"name": "ours", "method": "agemem"}],
        **changes,
    }
    return Experiment.model_validate(values)


def played(
    folder: Path, made: Experiment, scores: Mapping[tuple[str, str, int], list[float]], *, judge: str | None = None
) -> Path:
    """Write the run whose cells (world, method, seed) have these answer scores, and return its folder."""
    run = BenchFolder(folder)
    run.begin(made)
    for (world, method, seed), values in scores.items():
        cell = Cell(world=world, method=method, seed=seed)
        rows = [_row(place, value) for place, value in enumerate(values)]
        write_rows(run.items / f"{cell.file}.jsonl", rows)
        if judge is not None:
            judged = [{"id": row["id"], "judge": row["answer"]} for row in rows]
            write_rows(folder / "judged" / slug(judge) / f"{cell.file}.jsonl", judged)
        run.finish(cell, n=len(rows), model="m", parameters=2_500_000)
    return folder


def _row(place: int, answer: float) -> dict[str, Any]:
    return {
        "id": f"q{place}",
        "question": "Where?",
        "gold": "Rome",
        "prediction": {"answer": "Rome" if answer >= 0.5 else "?"},
        "answer": answer,
        "memories": ["home: Rome"],
        "calls": {"add_memory": {"attempted": place, "ok": place}},
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
