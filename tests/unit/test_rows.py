"""Rows hold every completion once, behind its own prompt, and share what can be shared."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from trajectories import make_sample as sample

from agemem_dspy.optimizers.rows import Row, batches, pack, shared_prefix
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.types import Completion

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=4)


@st.composite
def trajectories(draw: st.DrawFn) -> list[list[Sample]]:
    """Episodes over few tokens: each call continues the context, edits it, or starts over."""
    system = draw(tokens)
    played = []
    for _ in range(draw(st.integers(1, 3))):
        context, samples = [*system, *draw(tokens)], []
        for _ in range(draw(st.integers(1, 4))):
            completion = draw(tokens)
            samples.append(sample(context, completion))
            context = [*context, *completion, *draw(tokens)]
            cut = draw(st.integers(0, 3))
            if cut == 1:
                context = [*system, *draw(tokens)]
            elif cut == 2:
                context = [*context[: draw(st.integers(1, len(context)))], *draw(tokens)]
        played.append(samples)
    return played


@settings(max_examples=50, deadline=None)
@given(trajectories())
def test_every_sample_lies_in_exactly_one_row_behind_its_own_prompt(played: list[list[Sample]]) -> None:
    rows = pack(played)
    laid = [sample for row in rows for sample in row.samples]
    assert sorted(map(id, laid)) == sorted(id(sample) for samples in played for sample in samples)
    for row in rows:
        covered: set[int] = set()
        for start, own in zip(row.starts, row.samples, strict=True):
            end = start + len(own.completion_ids)
            assert row.ids[:start].tolist() == own.prompt_ids.tolist()
            assert row.ids[start:end].tolist() == own.completion_ids.tolist()
            assert covered.isdisjoint(range(start, end))
            covered.update(range(start, end))
        assert max(covered) == len(row.ids) - 1


@settings(max_examples=50, deadline=None)
@given(trajectories())
def test_rows_hold_samples_of_one_trajectory(played: list[list[Sample]]) -> None:
    owner = {id(sample): k for k, samples in enumerate(played) for sample in samples}
    assert all(len({owner[id(sample)] for sample in row.samples}) == 1 for row in pack(played))


def test_appending_keeps_one_row_and_an_edit_starts_another() -> None:
    first, second = sample([1, 2], [3]), sample([1, 2, 3, 4], [5, 6])
    edited, after = sample([1, 4], [7]), sample([1, 4, 7, 8], [9])
    rows = pack([[first, second, edited, after]])
    assert [row.ids.tolist() for row in rows] == [[1, 2, 3, 4, 5, 6], [1, 4, 7, 8, 9]]
    assert [row.starts for row in rows] == [[2, 4], [2, 4]]


def test_a_prompt_that_differs_in_one_earlier_token_is_no_continuation() -> None:
    rows = pack([[sample([1, 2], [3]), sample([1, 2, 9, 4], [5])]])
    assert [row.ids.tolist() for row in rows] == [[1, 2, 3], [1, 2, 9, 4, 5]]


def test_the_same_prompt_twice_makes_two_rows() -> None:
    assert len(pack([[sample([1, 2], [3]), sample([1, 2], [4])]])) == 2


@settings(max_examples=50, deadline=None)
@given(trajectories())
def test_the_shared_prefix_is_the_longest_that_leaves_every_prediction_outside(played: list[list[Sample]]) -> None:
    rows = pack(played)
    n = shared_prefix(rows)
    assert all(row.ids[:n].tolist() == rows[0].ids[:n].tolist() for row in rows)
    limit = min(row.starts[0] for row in rows) - 1
    assert 0 <= n <= limit
    assert n == limit or len({int(row.ids[n]) for row in rows}) > 1


@settings(max_examples=50, deadline=None)
@given(trajectories(), st.integers(1, 40))
def test_batches_hold_every_row_once_within_the_bound(played: list[list[Sample]], most: int) -> None:
    rows = pack(played)
    prefix = shared_prefix(rows)
    found = batches(rows, most, prefix)
    assert sorted(id(row) for batch in found for row in batch) == sorted(map(id, rows))
    for batch in found:
        padded = len(batch) * max(len(row.ids) - prefix for row in batch)
        assert padded <= most or len(batch) == 1


def test_a_sample_is_the_completion_as_it_was_taped() -> None:
    completion = Completion(
        model="local/tiny",
        prompt_ids=(1, 2),
        completion_ids=(3, 4),
        logprobs=(-0.5, -1.25),
        text="x",
        temperature=1.0,
        finish_reason="stop",
    )
    taken = Sample.of(completion, advantage=-0.5, weight=0.25)
    assert (taken.prompt_ids.tolist(), taken.completion_ids.tolist()) == ([1, 2], [3, 4])
    assert (taken.logprobs.tolist(), taken.advantage, taken.weight) == ([-0.5, -1.25], -0.5, 0.25)
    row = Row(ids=taken.prompt_ids)
    row.extend(taken)
    assert row.ids.tolist() == [1, 2, 3, 4]
