"""The data room: readers, generators and distractors that yield one kind of `dspy.Example`.

An example holds `id`, `messages` (stage 1), `distractors` (stage 2), `question`, `answer`,
`facts`, `operations`, `support` and `key_items`; its inputs are the messages, the distractors
and the question. An example of a world has an `environment` and a `seed` in place of question and answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import dspy

from agemem_dspy.data import assistant_values, worlds
from agemem_dspy.data.distractors import make_distractors
from agemem_dspy.data.files import check_limit, read_examples, write_examples
from agemem_dspy.data.worlds import world_examples
from agemem_dspy.environments import WORLDS
from agemem_dspy.errors import DataError

__all__ = ["load_dataset", "make_distractors", "published_scores", "read_examples", "world_examples", "write_examples"]

_KINDS = ("assistant", "hotpotqa", "locomo", "agentboard", "jsonl", *WORLDS)
_ACCEPTED = (
    "assistant:train|val|test, assistant:<split>@<seed>, hotpotqa:<path of the official JSON>, hotpotqa:hub, "
    "locomo:<path of the official JSON>, agentboard:<path of its test.jsonl>, jsonl:<path>, or a world: "
    f"{', '.join(f'{kind}:<task>,…@<seed>' for kind in WORLDS)}"
)
_MADE = 100  # rows that are made anew when no limit is given


def load_dataset(spec: str, *, limit: int | None = None, difficulty: str | None = None) -> list[dspy.Example]:
    """Load the examples that `spec` names, at most the first `limit`.

    `difficulty` ("easy", "medium", "hard") keeps the rows of that difficulty; only the assistant
    has difficulties. "assistant:train@7" makes `limit` new rows (100 when left out) of a split from the seed 7, easy
    ones when no difficulty is given. "babyai:GoToObjS6,GoToDoor@7" are episodes of a world: see `worlds.load`.

    Raises:
        DataError: an unknown spec (the message lists what is accepted) or unreadable data.
        MissingDependency: the hub was asked for and `datasets` is not installed, or a world's extra is not.
    """
    # Imported when asked for: `python -m agemem_dspy.data.assistant` must find it not yet loaded.
    from agemem_dspy.data import agentboard, assistant, hotpotqa, locomo

    kind, _, where = spec.partition(":")
    if not where or kind not in _KINDS:
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
    match kind:
        case "hotpotqa":
            return hotpotqa.load(where, limit=limit)
        case "locomo":
            return locomo.load(where, limit=limit)
        case "agentboard":
            return agentboard.load(where, limit=limit)
        case world if world in WORLDS:
            return worlds.load(world, where, limit=limit)
    return read_examples(where, limit=limit)


def published_scores(spec: str) -> Mapping[str, Callable[[Any, str], float]]:
    """Return by name how publications score an answer on the data that `spec` names, for `evaluate(scores=…)`.

    Each takes an example and an answer, and returns a number in [0, 1]. Most data sets have none of their own.

    Raises:
        MissingDependency: a score needs a package that is not installed.
    """
    if spec.partition(":")[0] != "locomo":
        return {}
    from agemem_dspy.data import locomo_score

    return locomo_score.published()
