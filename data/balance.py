"""What to learn from: examples in an order that shows rare operations as often as common ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest

import dspy

from agemem_dspy.errors import DataError


def balanced(examples: Sequence[dspy.Example]) -> list[dspy.Example]:
    """Return the examples in turn from each kind, for as long as a kind lasts.

    A kind is the set of tools that the gold operations call. So every beginning of the result has the kinds in equal
    shares, in the order in which they first came, until the rarest is used up.

    Raises:
        DataError: an example has no gold `operations`.
    """
    kinds: dict[frozenset[str], list[dspy.Example]] = defaultdict(list)
    for example in examples:
        if "operations" not in example:
            raise DataError(f"example {example.get('id', '?')!r} has no gold `operations`, by which it could be sorted")
        kinds[frozenset(operation["tool"] for operation in example.operations)].append(example)
    turns = zip_longest(*kinds.values())
    return [example for turn in turns for example in turn if example is not None]
