"""The HotpotQA reader: official files, the hub's rows, and what is wrong with a bad one."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from agemem_dspy.data import hotpotqa, load_dataset
from agemem_dspy.data.distractors import chatter, content_words, make_distractors
from agemem_dspy.errors import DataError, MissingDependency

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT.parent / "shared" / "data" / "hotpotqa"


def record(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "_id": "r1",
        "question": "Who wrote the book that Iver Dahl filmed in 1972?",
        "answer": "Mona Reed",
        "type": "bridge",
        "level": "easy",
        "supporting_facts": [["Iver Dahl", 1], ["Salt Road", 0]],
        "context": [
            ["Salt Road", ["Salt Road is a novel by Mona Reed.", " It sold well."]],
            ["Elm Park", ["Elm Park is a park."]],
            ["Iver Dahl", ["Iver Dahl was a director.", " In 1972 he filmed Salt Road."]],
        ],
    }
    return {**made, **changes}


def write(folder: Path, content: Any) -> Path:
    path = folder / "hotpot.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_record_becomes_a_task_of_three_stages() -> None:
    example = hotpotqa.to_example(record())
    assert example.messages[0] == "Salt Road: Salt Road is a novel by Mona Reed. It sold well."
    assert len(example.messages) == 3
    assert example.facts == ["Salt Road is a novel by Mona Reed.", "In 1972 he filmed Salt Road."]
    assert example.support == example.facts
    assert example.operations == [
        {"turn": 0, "tool": "add_memory", "content": example.facts[0]},
        {"turn": 2, "tool": "add_memory", "content": example.facts[1]},
    ]
    assert example.key_items == ["Mona Reed", "Salt Road", "1972"]
    assert (example.id, example.answer, example.kind) == ("r1", "Mona Reed", "bridge")
    assert set(example.inputs().keys()) == {"messages", "distractors", "question"}


def test_distractors_are_drawn_once_for_each_seed() -> None:
    one, again, other = (hotpotqa.to_example(record(), seed=seed).distractors for seed in (1, 1, 2))
    assert len(one) == len(set(one)) == 5
    assert one == again != other
    assert hotpotqa.to_example(record(), n_distractors=0).distractors == []


def test_yes_and_no_are_no_key_items() -> None:
    assert "no" not in hotpotqa.key_items(["There is no Park in Oslo."], "no")


def test_key_items_are_few_and_come_from_every_fact() -> None:
    long = "Then " + ", ".join(f"City{n}" for n in range(20)) + " and others."
    items = hotpotqa.key_items([long, "The Elm fell in 1987."], "City3")
    assert len(items) == 8
    assert items[0] == "City3"
    assert {"Elm", "1987"} <= set(items)


def test_hub_rows_give_the_same_task_as_the_official_record() -> None:
    official = record()
    hub = {
        "id": "r1",
        "question": official["question"],
        "answer": official["answer"],
        "type": "bridge",
        "level": "easy",
        "supporting_facts": {"title": ["Iver Dahl", "Salt Road"], "sent_id": [1, 0]},
        "context": {
            "title": [title for title, _ in official["context"]],
            "sentences": [sentences for _, sentences in official["context"]],
        },
    }
    assert hotpotqa.to_example(hotpotqa.from_hub(hub)).toDict() == hotpotqa.to_example(official).toDict()


@pytest.mark.parametrize("damage", [{"context": [["a", ["b"]]]}, {"supporting_facts": {"title": ["a"], "sent_id": []}}])
def test_a_row_of_another_schema_is_refused(damage: dict[str, Any]) -> None:
    hub = {"id": "x", "question": "q", "answer": "a", "supporting_facts": {"title": [], "sent_id": []}, "context": {}}
    with pytest.raises(DataError, match="expected id, question, answer, supporting_facts"):
        hotpotqa.from_hub({**hub, "context": {"title": [], "sentences": []}, **damage})


def test_the_hub_without_datasets_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # what the import system itself uses for "not there"
    with pytest.raises(MissingDependency, match="pip install"):
        hotpotqa.load("hub")


def test_a_fact_past_its_paragraph_is_left_out() -> None:
    example = hotpotqa.to_example(record(supporting_facts=[["Iver Dahl", 9], ["Lost", 0], ["Salt Road", 0]]))
    assert example.facts == ["Salt Road is a novel by Mona Reed."]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ('[\n{"_id": }]', "hotpot.json:2: not JSON"),
        ({"data": []}, "expected a JSON list of records, found dict"),
        ([], "the list is empty"),
        ([record(), "x"], "row 2: expected a JSON object, found str"),
        ([record(), {k: v for k, v in record().items() if k != "answer"}], "row 2: answer: Field required"),
        ([record(context=[["Salt Road", "text"]])], "row 1: context.0.1: Input should be a valid list"),
        ([record(supporting_facts=[["Salt Road"]])], "row 1: supporting_facts.0.1"),
        ([record(supporting_facts=[["Salt Road", 7], ["Iver Dahl", -1]])], "row 1: supporting_facts: none of the 2"),
        ([record(context=[])], "row 1: context"),
    ],
)
def test_malformed_files_name_the_place(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        hotpotqa.load(path)
    assert str(path) in str(caught.value)


def test_limit_reads_no_further(tmp_path: Path) -> None:
    path = write(tmp_path, [record(), {"broken": True}])
    assert [example.id for example in hotpotqa.load(path, limit=1)] == ["r1"]
    with pytest.raises(DataError, match="limit must be 1 or more"):
        hotpotqa.load(path, limit=0)


def test_bad_arguments_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        hotpotqa.load(tmp_path / "absent.json")
    with pytest.raises(DataError, match="unknown hub split 'hub:tset'"):
        hotpotqa.load("hub:tset")
    with pytest.raises(DataError, match="n_distractors must be 0 or more"):
        hotpotqa.load(write(tmp_path, [record()]), n_distractors=-1)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"the HotpotQA samples are not at ../shared/data/{SAMPLES.name}")
@pytest.mark.parametrize("name", ["hotpot_dev_distractor_v1_sample.json", "hotpot_train_v1.1_sample.json"])
def test_real_records_hang_together(name: str) -> None:
    examples = load_dataset(f"hotpotqa:{SAMPLES / name}")
    assert len(examples) >= 195
    for example in examples:
        assert len(example.distractors) == 5
        banned = content_words(" ".join([example.question, example.answer, *example.facts]))
        assert not any(content_words(text) & banned for text in example.distractors)
        for operation in example.operations:
            assert operation["content"] in example.messages[operation["turn"]]
        assert [operation["content"] for operation in example.operations] == example.facts == example.support
        assert 1 <= len(example.key_items) <= 8
        assert all(any(item in text for text in example.facts) for item in example.key_items)


def test_distractors_come_from_many_topics_and_avoid_the_task() -> None:
    topics = {text: topic for topic, texts in chatter().items() for text in texts}
    drawn = make_distractors(12, seed=0)
    assert len({topics[text] for text in drawn}) == 12
    avoid = "Foxes, comets and the mayor"
    everything = make_distractors(150, seed=0, avoid=[avoid])
    assert len(set(everything)) == 150
    assert not any(content_words(text) & content_words(avoid) for text in everything)


def test_more_distractors_than_there_are_is_an_error() -> None:
    with pytest.raises(DataError, match="100000 distractors were asked for"):
        make_distractors(100_000, seed=0)
