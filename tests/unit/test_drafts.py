"""Drafts come from what followed most, from what is repeated, and only as far as they were right before."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_dspy.policy.drafts import Draft, History, Phrasebook

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=40)
STOP = frozenset({0})


def test_the_longest_context_that_is_known_decides() -> None:
    phrases = Phrasebook()
    phrases.learn([1, 2, 3, 9, 2, 3, 8], start=3)
    assert phrases.likely([1, 2, 3]) == (9, (1, 3, 3))
    assert phrases.likely([7, 2, 3]) == (8, (1, 2, 2))  # of two equals the latest
    assert phrases.likely([7, 7]) is None
    assert Phrasebook().likely([1]) is None


def test_what_followed_most_is_likeliest_and_clear_where_nothing_else_did() -> None:
    phrases = Phrasebook()
    for token in (5, 6, 5, 5):
        phrases.learn([1, token], start=1)
    assert phrases.likely([1]) == (5, (1, 1, 3))  # three of four
    for _ in range(20):
        phrases.learn([2, 7], start=1)
    assert phrases.likely([2]) == (7, (1, 1, 4))


def test_contexts_that_were_met_longest_ago_are_dropped() -> None:
    phrases = Phrasebook(max_contexts=2)
    phrases.learn([1, 2], start=1)
    phrases.learn([3, 4], start=1)
    phrases.learn([1, 2], start=1)
    phrases.learn([5, 6], start=1)
    assert [phrases.likely([token]) is not None for token in (1, 3, 5)] == [True, False, True]


def test_what_follows_one_context_is_bounded() -> None:
    phrases = Phrasebook()
    for token in range(100):
        phrases.learn([1, token], start=1)
    assert len(phrases.dump()["following"]) == 16
    assert phrases.likely([1]) == (99, (1, 1, 0))


def test_a_source_is_believed_as_often_as_it_was_right() -> None:
    phrases, evidence = Phrasebook(), (1, 3, 4)
    assert phrases.chance(evidence) == 0.5
    phrases.judge(Draft([7, 7, 7, 7], [evidence] * 4), right=2)  # two right, the third wrong, the fourth not looked at
    assert phrases.chance(evidence) == pytest.approx(3 / 5)
    phrases.judge(Draft([7], [evidence]), right=1)
    assert phrases.chance(evidence) == pytest.approx(4 / 6)


@settings(max_examples=25, deadline=None)
@given(completions=st.lists(TOKENS, max_size=4), right=st.integers(0, 3))
def test_a_phrasebook_comes_back_as_it_was(completions: list[list[int]], right: int) -> None:
    phrases = Phrasebook(max_contexts=30)
    for ids in completions:
        phrases.learn(ids, start=1)
    phrases.judge(History([1, 2, 1, 2]).draft(phrases, 3, rows=1, stop_ids=STOP), right)
    copy = Phrasebook(max_contexts=30)
    copy.learn([1, 1, 1], start=1)
    copy.load(phrases.dump())
    for ids in ([3, 1, 3], [2, 2]):  # it goes on alike, too: the same is dropped next
        phrases.learn(ids, start=1)
        copy.learn(ids, start=1)
    assert {name: rows.tolist() for name, rows in copy.dump().items()} == {
        name: rows.tolist() for name, rows in phrases.dump().items()
    }


@settings(max_examples=100, deadline=None)
@given(ids=TOKENS)
def test_a_repetition_is_the_longest_of_the_latest(ids: list[int]) -> None:
    def common(at: int) -> int:
        return next((n for n in range(at) if ids[at - 1 - n] != ids[-1 - n]), at)

    places = [at for at in range(len(ids) - 1, 0, -1) if ids[at - 1] == ids[-1]][:8]
    expected = max(((min(common(at), 12), at) for at in places), default=(0, 0))
    assert History(ids).repetition()[::-1] == expected


@settings(max_examples=100, deadline=None)
@given(ids=TOKENS, known=st.lists(TOKENS, max_size=3), most=st.integers(0, 6), rows=st.integers(1, 64))
def test_a_draft_keeps_to_its_bounds(ids: list[int], known: list[list[int]], most: int, rows: int) -> None:
    phrases = Phrasebook()
    for completion in known:
        phrases.learn(completion, start=1)
    draft = History(ids).draft(phrases, most, rows=rows, stop_ids=STOP)
    assert len(draft.tokens) == len(draft.evidence) <= most
    assert not STOP & set(draft.tokens[:-1])
    assert set(draft.tokens) <= {*ids, *(token for completion in known for token in completion)}


def test_a_row_that_repeats_itself_is_copied_until_it_parts() -> None:
    history, phrases = History([5, 6, 7, 8, 9, 5, 6]), Phrasebook()
    for _ in range(30):
        phrases.judge(Draft([1] * 3, [(0, 2, 0), (0, 3, 0), (0, 4, 0)]), right=3)
    assert history.draft(phrases, 3, rows=1, stop_ids=STOP).tokens == [7, 8, 9]
    history.append(1)
    assert history.draft(phrases, 3, rows=1, stop_ids=STOP).tokens == []


def test_what_is_hardly_ever_right_is_drafted_only_where_a_pass_is_dear() -> None:
    """A lone row pays for a whole pass, one of many for little more than its token."""
    history, phrases = History([5, 6, 7, 5]), Phrasebook()
    for _ in range(20):
        phrases.judge(Draft([1], [(0, 1, 0)]), right=0)
    for _ in range(4):
        phrases.judge(Draft([1], [(0, 1, 0)]), right=1)
    assert phrases.chance((0, 1, 0)) == pytest.approx(5 / 26)
    assert history.draft(phrases, 1, rows=1, stop_ids=STOP).tokens == [6]
    assert history.draft(phrases, 1, rows=32, stop_ids=STOP).tokens == []
