"""The lexical half of retrieval."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_dspy.memory.lexical import index_of, query_vector, shared, text_vector, words

TEXTS = st.text(max_size=200)


def test_words_are_folded_and_cut() -> None:
    assert words("Caf\u00e9-terraces, ISTANBUL's QU247!") == {"cafe", "terrac", "istanb", "s", "qu247"}
    assert words("Fluge") == words("FL\u00dcGE")
    assert words("...") == set()


def test_a_share_is_by_the_square_of_lengths() -> None:
    assert shared("is Rome", "Rome, Rome and Paris") == pytest.approx(16 / 20)
    assert shared("is Rome", "this is it") == pytest.approx(4 / 20)
    assert shared("...", "this is it") == 0.0


@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS)
def test_a_share_is_the_dot_product_and_between_0_and_1(query: str, text: str) -> None:
    asked, held = query_vector(query), text_vector(text)
    assert all(0 <= index < 2**31 for index in (*asked, *held))
    share = shared(query, text)
    assert share == pytest.approx(sum(weight * held.get(index, 0.0) for index, weight in asked.items()))
    assert 0 <= share <= 1 + 1e-9
    if words(query):
        assert shared(query, query) == pytest.approx(1.0)


def test_indices_do_not_depend_on_the_process() -> None:
    assert index_of("hotel") == 0x7FFFFFFF & 0x3535ED9
