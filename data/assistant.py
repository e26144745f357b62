"""Personal-assistant histories: a month of travel planning, made from a seed.

The user states facts in passing, changes their mind, asks to forget, chats; later a question
needs the newest values. Train, val and test share no person, value or phrasing.
`python -m agemem_dspy.data.assistant` writes the shipped rows anew.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Literal, get_args

import dspy

from agemem_dspy.data.assistant_check import verify
from agemem_dspy.data.assistant_history import History, Question
from agemem_dspy.data.assistant_phrases import BY_LABEL, COMPANION
from agemem_dspy.data.assistant_values import SPLITS, Split
from agemem_dspy.data.distractors import make_distractors
from agemem_dspy.data.files import INPUTS, check_limit, read_examples, write_examples
from agemem_dspy.errors import DataError

__all__ = ["SHIPPED", "Difficulty", "Split", "generate", "load", "ship", "verify"]

Difficulty = Literal["easy", "medium", "hard"]
DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)

# Rows of each difficulty in the files that come with the package.
SHIPPED: dict[Split, dict[Difficulty, int]] = {
    "train": {"easy": 120, "medium": 50, "hard": 30},
    "val": {"easy": 36, "medium": 15, "hard": 9},
    "test": {"easy": 54, "medium": 22, "hard": 14},
}
_FOLDER = Path(__file__).parent
_DRAWS = 100
_DISTRACTORS: dict[Difficulty, int] = {"easy": 1, "medium": 3, "hard": 5}


def generate(split: Split, n: int, *, seed: int = 0, difficulty: Difficulty = "easy") -> list[dspy.Example]:
    """Make `n` examples; the same arguments give the same examples, and a smaller `n` a prefix.

    Raises:
        DataError: an unknown split or difficulty, or a negative `n`.
    """
    _check_choice("split", split, SPLITS)
    _check_choice("difficulty", difficulty, DIFFICULTIES)
    if n < 0:
        raise DataError(f"n must be 0 or more, not {n}")
    return [_make(split, difficulty, seed, index) for index in range(n)]


def load(split: Split, *, difficulty: Difficulty | None = None, limit: int | None = None) -> list[dspy.Example]:
    """Read the shipped rows of a split, of one difficulty or (None) of all, at most `limit`.

    Raises:
        DataError: an unknown split or difficulty, or a damaged file.
    """
    _check_choice("split", split, SPLITS)
    if difficulty is not None:
        _check_choice("difficulty", difficulty, DIFFICULTIES)
    check_limit(limit)
    rows = read_examples(_FOLDER / f"assistant_{split}.jsonl")
    return [row for row in rows if difficulty in (None, row.difficulty)][:limit]


def ship(folder: Path = _FOLDER) -> list[Path]:
    """Write the shipped files of all splits into `folder` and return their paths."""
    paths = []
    for split, counts in SHIPPED.items():
        rows = [row for difficulty, n in counts.items() for row in generate(split, n, difficulty=difficulty)]
        for row in rows:
            verify(row)
        paths.append(write_examples(folder / f"assistant_{split}.jsonl", rows))
    return paths


def _make(split: Split, difficulty: Difficulty, seed: int, index: int) -> dspy.Example:
    name = f"assistant-{split}-{difficulty}-{seed}-{index}"
    rng = random.Random(name)
    history, question = {"easy": _easy, "medium": _medium, "hard": _hard}[difficulty](rng, split)
    # A word of any fact, even a forgotten one, or of the question would tie a distractor to the task.
    told = [operation[key] for operation in history.operations for key in ("content", "old") if key in operation]
    related = [*told, *question.asks, question.text, *history.friends]
    distractors = make_distractors(_DISTRACTORS[difficulty], seed=name, avoid=related, split=split)
    key_items: dict[str, None] = {}
    for fact in question.support:
        key_items |= dict.fromkeys([fact.owner, fact.value] if fact.owner else [fact.value])
    return dspy.Example(
        id=name,
        difficulty=difficulty,
        kind=question.kind,
        messages=history.messages,
        distractors=distractors,
        question=question.text,
        answer=question.answer,
        facts=[fact.content for fact in history.facts],
        operations=history.operations,
        support=[fact.content for fact in question.support],
        asks=list(question.asks),
        key_items=list(key_items),
    ).with_inputs(*INPUTS)


def _easy(rng: random.Random, split: Split) -> tuple[History, Question]:
    plan = rng.choices(
        ("add", "add add", "chat add", "add change", "add forget"),
        weights=(30, 15, 20, 25, 10),
    )[0].split()
    history = History.begin(rng, split)
    _play(history, plan, keep=0)
    # All that was to be forgotten and 5 % of the others: 15 % of the questions have no answer in memory.
    unknown = not history.facts or rng.random() < 0.05
    return history, history.unknown_question() if unknown else history.single_question()


def _medium(rng: random.Random, split: Split) -> tuple[History, Question]:
    history = History.begin(rng, split)
    plan = ["add"] * 3 + ["change"] * (rng.random() < 0.85) + ["forget"] * (rng.random() < 0.5)
    length = rng.choice((5, 6))
    while len(plan) < length:
        plan.append(rng.choice(("add", "change", "chat")))
    _play(history, _shuffled(rng, plan), keep=2)
    if rng.random() < 0.15:
        return history, history.unknown_question()
    return history, history.double_question() if rng.random() < 0.5 else history.single_question()


def _hard(rng: random.Random, split: Split) -> tuple[History, Question]:
    history = History.begin(rng, split, friends=rng.choice((1, 2)))
    plan = ["add"] * 2 + ["friend"] * 2 + ["announce", "change", "change", "forget", "chat"]
    length = rng.choice((9, 10, 11))  # one message more than acts: "announce" takes two
    if rng.random() < 0.6:
        plan[0] = "companion"
    while len(plan) < length:
        plan.append(rng.choice(("add", "friend", "change", "chat")))
    _play(history, _shuffled(rng, plan), keep=2)
    return history, history.unknown_question() if rng.random() < 0.12 else history.double_question()


def _shuffled(rng: random.Random, plan: list[str]) -> list[str]:
    """Shuffle a plan so that a forgetting or a change comes after at least three facts."""
    rng.shuffle(plan)
    late = [act for act in plan if act in ("change", "forget")]
    rest = [act for act in plan if act not in ("change", "forget")]
    facts = [at for at, act in enumerate(rest) if act != "chat"]
    for act in late:
        rest.insert(rng.randint(facts[2] + 1, len(rest)), act)
    return rest


def _play(history: History, plan: list[str], *, keep: int) -> None:
    """Carry out the acts of a plan; `keep` facts at least are never forgotten."""
    for act in plan:
        # An attribute drawn may be told already or out of values: the next draw is another one. When every fact is
        # out of values nothing can change, and something new is told instead.
        done = any(_carry_out(history, act, keep) for _ in range(_DRAWS))
        while not done:
            done = history.state()


def _carry_out(history: History, act: str, keep: int) -> bool:
    match act:
        case "add":
            return history.state()
        case "announce":
            return history.state(announced=True)
        case "friend":
            return history.state(owner=history.rng.choice(history.friends))
        case "companion":
            return history.state(attribute=BY_LABEL[COMPANION]) or history.state()
        case "change":
            return history.change()
        case "forget":
            return history.forget(keep=keep)
    return history.chat()


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise DataError(f"unknown {what} {value!r}; choose one of {', '.join(choices)}")


if __name__ == "__main__":
    sys.stdout.writelines(f"{path}\n" for path in ship())
