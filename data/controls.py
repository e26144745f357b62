"""Controls: the same questions with other things to remember, so that an answer can be traced to what it came from.

Each function returns new examples with the ids of the old ones, for paired comparison.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import dspy

from agemem_dspy.data.assistant_values import Split
from agemem_dspy.data.distractors import make_distractors
from agemem_dspy.errors import DataError


def shuffled_memory(examples: Sequence[dspy.Example], *, seed: int = 0) -> list[dspy.Example]:
    """Give every question the messages of another example: whatever is retrieved is another user's.

    Facts and operations are left as they were: they are what the question needed.

    Raises:
        DataError: there is one example only.
    """
    if len(examples) < 2:
        raise DataError("shuffled memory needs two examples at least: each gets another one's messages")
    order = list(range(len(examples)))
    random.Random(f"shuffled/{seed}").shuffle(order)
    other = dict(zip(order, [*order[1:], order[0]], strict=True))  # one cycle, so that none keeps its own
    return [
        example.copy(messages=list(examples[other[place]].messages), operations=[])
        for place, example in enumerate(examples)
    ]


def gold_support(examples: Sequence[dspy.Example]) -> list[dspy.Example]:
    """Give every question nothing but the facts that support its answer, without distractors.

    Raises:
        DataError: an example does not say what supports its answer.
    """
    for example in examples:
        if "support" not in example:
            raise DataError(f"example {example.get('id', '?')!r} has no 'support', so there is nothing to give")
    return [example.copy(messages=list(example.support), distractors=[], operations=[]) for example in examples]


def with_distractors(
    examples: Sequence[dspy.Example], n: int, *, seed: int = 0, split: Split | None = None
) -> list[dspy.Example]:
    """Give every example `n` distractors, drawn anew; none is related to its messages or its question.

    Raises:
        DataError: fewer are unrelated to an example.
    """
    return [
        example.copy(
            distractors=make_distractors(
                n,
                seed=f"{seed}/{example.get('id')}",
                avoid=[
                    *example.messages,
                    *(str(example.get(name) or "") for name in ("question", "answer", "goal")),
                    *(example.get("facts") or ()),
                ],
                split=split,
            )
        )
        for example in examples
    ]
