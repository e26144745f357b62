"""The assistant generator: solvable, deterministic, and nothing shared between the splits."""

from __future__ import annotations

import itertools
import json
import re
import string
from collections import Counter
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_dspy.data import assistant
from agemem_dspy.data.assistant_frames import FRAMES
from agemem_dspy.data.assistant_history import UNKNOWN, value_words
from agemem_dspy.data.assistant_phrases import ATTRIBUTES
from agemem_dspy.data.assistant_values import SPLITS, Split, people, pool
from agemem_dspy.data.distractors import chatter
from agemem_dspy.errors import DataError

DIFFICULTIES: tuple[assistant.Difficulty, ...] = ("easy", "medium", "hard")
PAIRS = list(itertools.combinations(SPLITS, 2))


def frames(split: Split) -> list[str]:
    f = FRAMES[split]
    groups = (f.states, f.changes, f.forgets, f.asks, f.joint_asks, f.bridge_asks, f.leads, f.follows, f.small_talk)
    return [template for group in groups for template in group]


def templates(split: Split) -> list[str]:
    """Every wording that a split can use, stage 1, question and chatter alike."""
    own = [text for a in ATTRIBUTES for w in (a.wordings[split],) for text in (*w.states, *w.changes, *w.asks)]
    return [*frames(split), *own, *(text for texts in chatter(split).values() for text in texts)]


def skeleton(template: str) -> str:
    """The words of a template without its slots, so that a renamed slot is no new phrasing."""
    return " ".join(re.findall(r"[a-z']+", re.sub(r"\{\w+\}", " ", template).lower()))


def values(split: Split) -> set[str]:
    return {value for a in ATTRIBUTES for value in pool(a.pool, split)} | set(people(split))


@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_splits_share_no_value_and_no_person(one: Split, two: Split) -> None:
    assert values(one) & values(two) == set()


@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_splits_share_no_phrasing(one: Split, two: Split) -> None:
    assert set(map(skeleton, templates(one))) & set(map(skeleton, templates(two))) == set()


@pytest.mark.parametrize("split", SPLITS)
def test_pools_are_rich_and_without_repeats(split: Split) -> None:
    sizes = {}
    for attribute in ATTRIBUTES:
        dealt = pool(attribute.pool, split)
        assert len(dealt) == len(set(dealt)) >= 2
        sizes[attribute.label] = len(dealt)
    assert sum(size >= 40 for size in sizes.values()) >= 8, sizes


@pytest.mark.parametrize("split", SPLITS)
def test_templates_have_only_known_slots_and_give_the_value(split: Split) -> None:
    for template in templates(split):
        slots = {name for _, name, _, _ in string.Formatter().parse(template) if name}
        assert slots <= {"s", "S", "t", "v", "old", "l"}, template
        assert template.isascii()
    f = FRAMES[split]
    for template in (*f.states, *f.changes, *f.follows):
        assert "{v}" in template
    for attribute in ATTRIBUTES:
        wording = attribute.wordings[split]
        assert all("{v}" in template for template in (*wording.states, *wording.changes))
        assert not any("{" in ask for ask in wording.asks)


@pytest.mark.parametrize("split", SPLITS)
def test_small_talk_and_announcements_name_no_value(split: Split) -> None:
    named = frozenset[str]().union(*map(value_words, values(split)))
    for text in (*FRAMES[split].small_talk, *FRAMES[split].leads):
        assert not value_words(skeleton(text)) & named, text


def test_a_history_in_which_nothing_can_change_goes_on() -> None:
    """Under this seed the changes come when every value of the facts told so far is used up."""
    for example in assistant.generate("val", 4, seed=108639, difficulty="hard"):
        assistant.verify(example)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(), split=st.sampled_from(SPLITS), difficulty=st.sampled_from(DIFFICULTIES))
def test_any_seed_gives_solvable_examples(seed: int, split: Split, difficulty: assistant.Difficulty) -> None:
    for example in assistant.generate(split, 4, seed=seed, difficulty=difficulty):
        assistant.verify(example)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("split", SPLITS)
def test_hundreds_of_examples_are_solvable_and_of_the_promised_shape(
    split: Split, difficulty: assistant.Difficulty
) -> None:
    lengths = {"easy": {1, 2, 3}, "medium": {5, 6}, "hard": {10, 11, 12}}[difficulty]
    n_distractors = {"easy": 1, "medium": 3, "hard": 5}[difficulty]
    examples = assistant.generate(split, 400, seed=7, difficulty=difficulty)
    for example in examples:
        assistant.verify(example)
        assert len(example.messages) in lengths
        assert len(example.distractors) == n_distractors
        assert set(example.inputs().keys()) == {"messages", "distractors", "question"}
        assert json.dumps(example.toDict()).isascii()
        longest = max(len(text.split()) for text in (*example.messages, *example.distractors))
        assert longest <= 14
        assert all(len(fact.split()) <= 6 for fact in example.facts)
        if example.answer != UNKNOWN:
            assert len(example.support) in {"easy": {1}, "medium": {1, 2}, "hard": {2}}[difficulty]
    unknown = sum(example.answer == UNKNOWN for example in examples) / len(examples)
    assert 0.06 < unknown < 0.25
    tools = Counter(operation["tool"] for example in examples for operation in example.operations)
    assert set(tools) == {"add_memory", "update_memory", "delete_memory"}


def test_hard_examples_reach_facts_through_the_companion_and_speak_of_friends() -> None:
    examples = assistant.generate("train", 100, difficulty="hard")
    bridges = [example for example in examples if example.kind == "bridge"]
    assert len(bridges) > 10
    for example in bridges:
        name = next(fact for fact in example.facts if fact.startswith("travel companion: ")).split(": ")[1]
        assert name not in example.question
        assert example.support[1].startswith(f"{name}'s ")
    assert all(any("'s " in operation.get("content", "") for operation in e.operations) for e in examples)


def test_changed_facts_are_asked_for_with_their_newest_value() -> None:
    changed = [e for e in assistant.generate("train", 200) if e.kind == "changed"]
    assert len(changed) > 20
    for example in changed:
        update = next(o for o in example.operations if o.get("content") == example.support[0])
        assert update["tool"] == "update_memory"
        assert update["old"].split(": ")[1] != example.answer


def test_same_seed_gives_same_rows_and_a_smaller_n_a_prefix() -> None:
    rows = [e.toDict() for e in assistant.generate("val", 12, seed=3, difficulty="medium")]
    assert rows[:5] == [e.toDict() for e in assistant.generate("val", 5, seed=3, difficulty="medium")]
    assert rows != [e.toDict() for e in assistant.generate("val", 12, seed=4, difficulty="medium")]


def test_shipped_files_are_what_the_generator_makes(tmp_path: Path) -> None:
    home = Path(assistant.__file__).parent
    for path in assistant.ship(tmp_path):
        assert path.read_bytes() == (home / path.name).read_bytes(), "run: python -m agemem_dspy.data.assistant"


@pytest.mark.parametrize(("split", "rows"), [("train", 200), ("val", 60), ("test", 90)])
def test_load_reads_the_shipped_rows(split: Split, rows: int) -> None:
    examples = assistant.load(split)
    assert len(examples) == rows == len({example.id for example in examples})
    assert len({(*example.messages, example.question) for example in examples}) == rows
    hard = assistant.load(split, difficulty="hard", limit=3)
    assert [example.difficulty for example in hard] == ["hard"] * 3
    assert set(hard[0].inputs().keys()) == {"messages", "distractors", "question"}
    assert "content" not in next(o for e in examples for o in e.operations if o["tool"] == "delete_memory")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev", "n": 1}, "unknown split 'dev'; choose one of train, val, test"),
        ({"split": "train", "n": 1, "difficulty": "brutal"}, "unknown difficulty 'brutal'; choose one of easy"),
        ({"split": "train", "n": -1}, "n must be 0 or more, not -1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        assistant.generate(**arguments)


def told(kind: str) -> dspy.Example:
    """The first easy example of a kind."""
    return next(e for e in assistant.generate("train", 200) if e.kind == kind)


@pytest.mark.parametrize(
    ("kind", "damage", "problem"),
    [
        ("told", {"answer": "Atlantis"}, "answer: 'Atlantis' is not what the facts say"),
        ("told", {"answer": UNKNOWN}, "nothing asked for may be stored"),
        ("told", {"support": []}, "support:"),
        ("told", {"key_items": []}, "key_items:"),
        ("told", {"facts": ["diet: moss"]}, "facts: the operations leave"),
        ("told", {"messages": ["Hi.", "Hi.", "Hi."]}, "is not in message"),
        ("told", {"operations": [{"turn": 99, "tool": "add_memory", "content": "a: b"}]}, "there is no message 99"),
        ("told", {"operations": [{"turn": 0, "tool": "delete_memory", "old": ""}]}, "operations:"),
        ("told", {"asks": []}, "asks:"),
        ("changed", {"facts": []}, "facts:"),
        ("deleted", {"messages": ["Hi.", "Hi.", "Hi."]}, "is not in message"),
        ("deleted", {"answer": "Lyon"}, "support:"),
        ("told", {"distractors": ["Same.", "Same."]}, "said twice"),
    ],
)
def test_verify_notices_damage(kind: str, damage: dict[str, Any], problem: str) -> None:
    example = told(kind)
    assistant.verify(example)
    with pytest.raises(DataError, match=re.escape(example.id)) as caught:
        assistant.verify(example.copy(**damage))
    assert problem in str(caught.value)


def test_verify_notices_a_distractor_that_names_a_value() -> None:
    example = told("told")
    with pytest.raises(DataError, match="shares"):
        assistant.verify(example.copy(distractors=[f"People talk about {example.answer} again."]))


def test_verify_notices_a_forgetting_that_is_not_asked_for() -> None:
    example = told("deleted")
    turn = next(o["turn"] for o in example.operations if o["tool"] == "delete_memory")
    messages = [*example.messages[:turn], "Nice weather.", *example.messages[turn + 1 :]]
    with pytest.raises(DataError, match="does not say to forget"):
        assistant.verify(example.copy(messages=messages))
