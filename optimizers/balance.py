"""Which examples are demonstrated: rare operations as often as common ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest

import dspy


def balanced(examples: Sequence[dspy.Example]) -> list[dspy.Example]:
    """Return the examples in turn from each kind, for as long as a kind lasts.

    A kind is the set of tools that the gold operations call; examples without any are one more. So every beginning of
    the result has the kinds in equal shares, in the order in which they first came, until the rarest is used up.
    """
    kinds: dict[frozenset[str], list[dspy.Example]] = defaultdict(list)
    for example in examples:
        kinds[frozenset(operation["tool"] for operation in example.get("operations") or ())].append(example)
    return [example for turn in zip_longest(*kinds.values()) for example in turn if example is not None]
