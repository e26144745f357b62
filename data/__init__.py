"""The data room: readers, generators and distractors that yield one kind of `dspy.Example`.

An example holds `id`, `messages` (stage 1), `distractors` (stage 2), `question`, `answer`,
`facts`, `operations`, `support` and `key_items`; its inputs are the messages, the distractors
and the question.
"""

from __future__ import annotations

from typing import cast

import dspy

from agemem_dspy.data import assistant_values
from agemem_dspy.data.distractors import make_distractors
from agemem_dspy.data.files import check_limit, read_examples, write_examples
from agemem_dspy.errors import DataError

__all__ = ["load_dataset", "make_distractors", "read_examples", "write_examples"]

_ACCEPTED = (
    "assistant:train|val|test, hotpotqa:<path of the official JSON>, hotpotqa:hub, jsonl:<path>, or "
    "assistant:<split>@<seed>"
)

_MADE = 100  # rows that are made anew when no limit is given


def load_dataset(spec: str, *, limit: int | None = None, difficulty: str | None = None) -> list[dspy.Example]:
    """Load the examples that `spec` names, at most the first `limit`.

    `difficulty` ("easy", "medium", "hard") keeps the rows of that difficulty; only the assistant
    has difficulties. "assistant:train@7" makes `limit` new rows (100 when left out) of a split from the seed 7, easy
    ones when no difficulty is given.

    Raises:
        DataError: an unknown spec (the message lists what is accepted) or unreadable data.
        MissingDependency: the hub was asked for and `datasets` is not installed.
    """
    # Imported when asked for: `python -m agemem_dspy.data.assistant` must find it not yet loaded.
    from agemem_dspy.data import assistant, hotpotqa

    kind, _, where = spec.partition(":")
    if not where or kind not in ("assistant", "hotpotqa", "jsonl"):
        raise DataError(f"unknown data {spec!r}; accepted: {_ACCEPTED}")
    if kind == "assistant":
        split, made, seed = where.partition("@")
        if split not in assistant_values.SPLITS or (made and not seed.isdecimal()):
            raise DataError(f"unknown split in {spec!r}; accepted: {_ACCEPTED}")
        level = cast("assistant.Difficulty | None", difficulty)  # checked, with a message, by the two below
        if made:
            check_limit(limit)
            return assistant.generate(split, limit or _MADE, seed=int(seed), difficulty=level or "easy")
        return assistant.load(split, difficulty=level, limit=limit)
    if difficulty is not None:
        raise DataError(f"difficulty {difficulty!r} was asked of {spec!r}, but only assistant data has difficulties")
    return hotpotqa.load(where, limit=limit) if kind == "hotpotqa" else read_examples(where, limit=limit)
