"""The data room: readers, generators and distractors that yield one kind of `dspy.Example`.

An example holds `id`, `messages` (stage 1), `distractors` (stage 2), `question`, `answer`,
`facts`, `operations`, `support` and `key_items`; its inputs are the messages, the distractors
and the question. An example of a world has an `environment` and a `seed` in place of question and answer.
"""

from __future__ import annotations

from typing import cast

import dspy

from agemem_dspy.data import assistant_values
from agemem_dspy.data.distractors import make_distractors
from agemem_dspy.data.files import read_examples, write_examples
from agemem_dspy.data.worlds import world_examples
from agemem_dspy.errors import DataError

__all__ = ["load_dataset", "make_distractors", "read_examples", "world_examples", "write_examples"]

_ACCEPTED = (
    "assistant:train|val|test, hotpotqa:<path of the official JSON>, hotpotqa:hub, "
    "agentboard:<path of its test.jsonl>, or jsonl:<path>"
)


def load_dataset(spec: str, *, limit: int | None = None, difficulty: str | None = None) -> list[dspy.Example]:
    """Load the examples that `spec` names, at most the first `limit`.

    `difficulty` ("easy", "medium", "hard") keeps the rows of that difficulty; only the assistant
    has difficulties.

    Raises:
        DataError: an unknown spec (the message lists what is accepted) or unreadable data.
        MissingDependency: the hub was asked for and `datasets` is not installed, or a world's extra is not.
    """
    # Imported when asked for: `python -m agemem_dspy.data.assistant` must find it not yet loaded.
    from agemem_dspy.data import agentboard, assistant, hotpotqa

    kind, _, where = spec.partition(":")
    if not where or kind not in ("assistant", "hotpotqa", "agentboard", "jsonl"):
        raise DataError(f"unknown data {spec!r}; accepted: {_ACCEPTED}")
    if kind == "assistant":
        if where not in assistant_values.SPLITS:
            raise DataError(f"unknown split in {spec!r}; accepted: {_ACCEPTED}")
        level = cast("assistant.Difficulty | None", difficulty)  # checked, with a message, by load
        return assistant.load(where, difficulty=level, limit=limit)
    if difficulty is not None:
        raise DataError(f"difficulty {difficulty!r} was asked of {spec!r}, but only assistant data has difficulties")
    match kind:
        case "hotpotqa":
            return hotpotqa.load(where, limit=limit)
        case "agentboard":
            return agentboard.load(where, limit=limit)
    return read_examples(where, limit=limit)
