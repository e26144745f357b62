"""The token tree spells every call, holds each token once, and says where each prediction is made."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from trajectories import make_sample as sample

from agemem_dspy.optimizers.tree import Sample, Segment, TokenTree

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=5)


samples_of_few_tokens = st.lists(st.builds(sample, tokens, tokens), min_size=1, max_size=8)


def inputs(one: Sample) -> list[int]:
    return [*one.prompt_ids.tolist(), *one.completion_ids[:-1].tolist()]


def spelled(tree: TokenTree, segment: Segment) -> list[int]:
    """Return all tokens up to the end of a segment, its past read from the trunk."""
    trunk = [token for part in tree.trunk for token in part.ids.tolist()]
    return [token for a, b in segment.past for token in trunk[a:b]] + segment.ids.tolist()


@settings(max_examples=200, deadline=None)
@given(samples_of_few_tokens)
def test_each_prefix_is_there_once(samples: list[Sample]) -> None:
    tree = TokenTree(samples)
    wanted = {tuple(inputs(one)[: n + 1]) for one in samples for n in range(len(inputs(one)))}
    found = []
    for segment in [*tree.trunk, *tree.leaves]:
        whole = spelled(tree, segment)
        assert len(whole) == segment.start + len(segment.ids)
        found += [tuple(whole[: segment.start + n + 1]) for n in range(len(segment.ids))]
    assert sorted(found) == sorted(wanted)
    assert tree.tokens == len(wanted)


@settings(max_examples=200, deadline=None)
@given(samples_of_few_tokens)
def test_each_completion_token_is_predicted_once_from_what_comes_before_it(samples: list[Sample]) -> None:
    tree = TokenTree(samples)
    every = [(one, i) for one in samples for i in range(len(one.completion_ids))]
    seen = []
    for segment in [*tree.trunk, *tree.leaves]:
        whole = spelled(tree, segment)
        for offset, target, owner in zip(segment.offsets, segment.targets, segment.owners, strict=True):
            one, i = every[owner]
            before = [*one.prompt_ids.tolist(), *one.completion_ids[:i].tolist()]
            assert whole[: segment.start + offset + 1] == before
            assert target == one.completion_ids[i]
            seen.append(owner)
    assert sorted(seen) == list(range(len(every)))


@settings(max_examples=100, deadline=None)
@given(samples_of_few_tokens)
def test_the_trunk_is_what_is_continued_and_ancestors_come_first(samples: list[Sample]) -> None:
    tree = TokenTree(samples)
    end = 0
    for segment in tree.trunk:
        assert segment.children
        assert all(b <= end for _, b in segment.past)
        end += len(segment.ids)
    assert tree.trunk_tokens == end
    assert tree.leaves
    assert not any(leaf.children for leaf in tree.leaves)


@settings(max_examples=100, deadline=None)
@given(samples_of_few_tokens, st.integers(1, 20))
def test_batches_hold_every_leaf_once_within_the_bound(samples: list[Sample], most: int) -> None:
    tree = TokenTree(samples)
    found = tree.batches(most)
    assert [leaf for batch in found for leaf in batch] == tree.leaves
    for batch in found:
        assert len(batch) == 1 or sum(len(leaf.ids) for leaf in batch) <= most


def test_a_conversation_that_only_grows_is_one_leaf() -> None:
    tree = TokenTree([sample([1, 2], [3]), sample([1, 2, 3, 4], [5, 6]), sample([1, 2, 3, 4, 5, 6, 7], [8])])
    assert [leaf.ids.tolist() for leaf in tree.leaves] == [[1, 2, 3, 4, 5, 6, 7]]
    assert not tree.trunk
    assert tree.leaves[0].targets == [3, 5, 6, 8]


def test_an_edit_branches_where_it_cut() -> None:
    tree = TokenTree([sample([1, 2, 9, 9], [3]), sample([1, 2, 4], [5, 6])])
    assert [segment.ids.tolist() for segment in tree.trunk] == [[1, 2]]
    assert [(leaf.ids.tolist(), leaf.past) for leaf in tree.leaves] == [([9, 9], ((0, 2),)), ([4, 5], ((0, 2),))]
