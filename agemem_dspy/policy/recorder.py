"""The tape: what the engine sampled and the adapter tolerated during one LM call.

A context variable, so it works under threads and asyncio alike, and it keeps completions
that no adapter can parse: those are the negative examples, not gaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np

from agemem_dspy.types import Completion


@dataclass(slots=True)
class Tape:
    """Completions and parser notes of one recorded block, in order."""

    completions: list[Completion] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


_tape: ContextVar[Tape | None] = ContextVar("agemem_tape", default=None)
_random: ContextVar[np.random.Generator | None] = ContextVar("agemem_random", default=None)


@contextmanager
def record(tape: Tape | None = None) -> Iterator[Tape]:
    """Collect every completion sampled inside the block, on a new tape or at the end of the given one."""
    tape = Tape() if tape is None else tape
    token = _tape.set(tape)
    try:
        yield tape
    finally:
        _tape.reset(token)


@contextmanager
def sampling_seed(*entropy: int) -> Iterator[None]:
    """Make sampling inside the block depend on `entropy` alone, not on what else is batched."""
    token = _random.set(np.random.default_rng(entropy))
    try:
        yield
    finally:
        _random.reset(token)


def current_tape() -> Tape | None:
    """Return the tape of the innermost `record` block, if any."""
    return _tape.get()


def current_random() -> np.random.Generator | None:
    """Return the random stream of the innermost `sampling_seed` block, if any."""
    return _random.get()


def note(text: str) -> None:
    """Add a parser's remark to the tape, if one is running."""
    tape = _tape.get()
    if tape is not None:
        tape.notes.append(text)
