"""Samples and their token tree: what an update has to compute, each token once.

A `Sample` is one LM call. The calls of an update share most of their tokens: a prompt continues the call before it,
or an edited context up to the edit; the K trajectories of a task begin alike. In the radix tree of all prompts and
completions a token stands once for all calls that have the same tokens before it, so computing the tree gives
exactly what a row for every call gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agemem_dspy.policy.reuse import TokenIds, common_prefix
from agemem_dspy.types import Completion


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One LM call to learn from: prompt (P,), completion (T,), the sampler's log-probs (T,).

    `advantage` is the trajectory's, `weight` what each of the T tokens counts in the update's sum.
    """

    prompt_ids: TokenIds
    completion_ids: TokenIds
    logprobs: NDArray[np.float64]
    advantage: float
    weight: float

    @classmethod
    def of(cls, completion: Completion, *, advantage: float, weight: float) -> Sample:
        """Take a taped completion as it is."""
        return cls(
            prompt_ids=np.array(completion.prompt_ids, dtype=np.int64),
            completion_ids=np.array(completion.completion_ids, dtype=np.int64),
            logprobs=np.array(completion.logprobs, dtype=np.float64),
            advantage=advantage,
            weight=weight,
        )


@dataclass(slots=True, eq=False)
class Segment:
    """A stretch of the tree without branches.

    Attributes:
        ids: its tokens (n,), the first of which has the position `start` in every sequence through it.
        past: where its ancestors' tokens lie in the trunk, as slices [a, b) in order; together `start` tokens.
        offsets, targets, owners: the predictions made from it (m,): from which of the n tokens, of which token, and
            as which of all the samples' completion tokens.
    """

    ids: TokenIds
    start: int = 0
    past: tuple[tuple[int, int], ...] = ()
    children: dict[int, Segment] = field(default_factory=dict)
    offsets: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)


class TokenTree:
    """The radix tree of some samples.

    Args:
        samples: their completion tokens, one sample after the other, are counted from 0: `owners` refers to that.

    Attributes:
        trunk: segments that others continue, each after its ancestors; laid end to end they make the trunk.
        leaves: all other segments; neighbours share most of their past.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        root = Segment(ids=np.empty(0, dtype=np.int64))
        # The last token of a completion predicts nothing.
        inputs = [np.concatenate([sample.prompt_ids, sample.completion_ids[:-1]]) for sample in samples]
        for ids in inputs:
            _insert(root, ids)
        self.trunk: list[Segment] = []
        self.leaves: list[Segment] = []
        self._lay_out(root)
        owner = 0
        for sample, ids in zip(samples, inputs, strict=True):
            first = len(sample.prompt_ids) - 1
            for segment in _walk(root, ids):
                for position in range(max(first, segment.start), min(len(ids), segment.start + len(segment.ids))):
                    segment.offsets.append(position - segment.start)
                    segment.targets.append(int(sample.completion_ids[position - first]))
                    segment.owners.append(owner + position - first)
            owner += len(sample.completion_ids)

    @property
    def tokens(self) -> int:
        """Number of tokens to compute."""
        return sum(len(segment.ids) for segment in [*self.trunk, *self.leaves])

    @property
    def trunk_tokens(self) -> int:
        """Number of tokens of the trunk, which is computed at once."""
        return sum(len(segment.ids) for segment in self.trunk)

    def batches(self, max_tokens: int) -> list[list[Segment]]:
        """Split the leaves, in order, into batches of at most `max_tokens` tokens, or of one leaf."""
        result: list[list[Segment]] = []
        size = 0
        for leaf in self.leaves:
            if result and size + len(leaf.ids) <= max_tokens:
                result[-1].append(leaf)
                size += len(leaf.ids)
            else:
                result.append([leaf])
                size = len(leaf.ids)
        return result

    def _lay_out(self, root: Segment) -> None:
        waiting = list(reversed(root.children.values()))
        end = 0
        while waiting:
            segment = waiting.pop()
            if not segment.children:
                self.leaves.append(segment)
                continue
            self.trunk.append(segment)
            own = (end, end + len(segment.ids))
            end = own[1]
            for child in reversed(segment.children.values()):
                child.start = segment.start + len(segment.ids)
                child.past = (*segment.past, own)
                waiting.append(child)


def parts(trajectories: Sequence[Sequence[Sample]], max_trunk: int) -> Iterator[list[Sample]]:
    """Yield the samples, in halves where the trunk of all of them would have more tokens than memory allows."""
    samples = [sample for own in trajectories for sample in own]
    if len(trajectories) > 1 and TokenTree(samples).trunk_tokens > max_trunk:
        half = len(trajectories) // 2
        yield from parts(trajectories[:half], max_trunk)
        yield from parts(trajectories[half:], max_trunk)
    elif samples:
        yield samples


def _insert(root: Segment, ids: TokenIds) -> None:
    node = root
    while len(ids):
        child = node.children.get(int(ids[0]))
        if child is None:
            node.children[int(ids[0])] = Segment(ids=ids)
            return
        n = common_prefix(child.ids, ids)
        rest = ids[n:]
        if not len(rest):
            return
        if n == len(child.ids) and not child.children:  # a leaf goes on
            child.ids = np.concatenate([child.ids, rest])
            return
        if n < len(child.ids):
            upper = Segment(ids=child.ids[:n], children={int(child.ids[n]): child})
            child.ids = child.ids[n:]
            node.children[int(ids[0])] = child = upper
        node, ids = child, rest


def _walk(root: Segment, ids: TokenIds) -> Iterator[Segment]:
    """Yield the segments that a sequence runs through."""
    node, at = root, 0
    while at < len(ids):
        node = node.children[int(ids[at])]
        yield node
        at += len(node.ids)
