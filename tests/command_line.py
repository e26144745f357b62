"""Runs `agemem` inside the test's process, and makes the small files its commands need."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agemem_dspy.cli import main
from agemem_dspy.data import load_dataset, write_examples
from agemem_dspy.policy.tiny import tiny_llama

ROOT = Path(__file__).resolve().parents[1]
_PATIENCE_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one command returned and printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """All of stdout, which must be one JSON value."""
        return json.loads(self.out)


def agemem(capsys: pytest.CaptureFixture[str], *words: object) -> Outcome:
    """Run one command."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    return Outcome(code=code, out=printed.out, err=printed.err)


def interrupted(until: Callable[[], bool], *words: object, how: signal.Signals = signal.SIGINT) -> Outcome:
    """Run one command in a process of its own and press Ctrl-C, or send another signal, as soon as `until` holds."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from agemem_dspy.cli import main; sys.exit(main())", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None and not until():
        time.sleep(0.02)
    process.send_signal(how)
    out, err = process.communicate(timeout=_PATIENCE_S)
    return Outcome(code=process.returncode, out=out, err=err)


def refused(outcome: Outcome) -> str:
    """Check that bad input got exit code 2 and one line, and return that line."""
    assert outcome.code == 2, outcome.err
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, outcome.err
    assert "Traceback" not in outcome.err
    return lines[0]


def tiny_model(folder: Path) -> Path:
    """Build an untrained model of 0.2 M parameters."""
    corpus = [text for example in load_dataset("assistant:train", limit=30) for text in example.messages]
    return tiny_llama(folder, corpus=corpus)


def short_examples(path: Path, count: int) -> str:
    """Write a data file of small examples, one message and one distractor each, and return its `--data`."""
    examples = load_dataset("assistant:val", difficulty="easy", limit=count)
    for example in examples:
        first = [one for one in example.operations if one["turn"] == 0 and one["tool"] == "add_memory"]
        example.messages, example.distractors = example.messages[:1], example.distractors[:1]
        example.operations, example.facts = first, [one["content"] for one in first]
        example.support, example.key_items = [], []
    return f"jsonl:{write_examples(path, examples)}"
