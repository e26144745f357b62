"""LoCoMo: official files become tasks, bad ones are named with conversation and field, answers score as published."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import dspy
import pytest
from bench_runs import experiment
from command_line import ROOT, agemem, refused, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

import agemem_dspy as am
from agemem_dspy.bench import Bench
from agemem_dspy.data import load_dataset, locomo, locomo_score, published_scores
from agemem_dspy.data.distractors import content_words
from agemem_dspy.errors import DataError, MissingDependency
from agemem_dspy.memory import HashEmbedder
from agemem_dspy.scoring import mentions
from tests.fakes import scripted_lm

SAMPLE = ROOT.parent / "shared" / "data" / "locomo" / "locomo_conversations_1-5.json"
LISBON = 'Mia said, "I moved to Lisbon last May." [shares a photo of a harbour]'


def talk(**changes: Any) -> dict[str, Any]:
    """A conversation in the official format, with what official files hold beside what is read."""
    made: dict[str, Any] = {
        "sample_id": "conv-1",
        "conversation": {
            "speaker_a": "Mia",
            "speaker_b": "Tom",
            "session_2_date_time": "9:00 am on 2 June, 2023",
            "session_2": [
                {"speaker": "Tom", "dia_id": "D2:1", "text": "My dog Rex is  ill.\n"},
                {"speaker": "Mia", "dia_id": "D2:2", "text": "Oh no!"},
            ],
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {
                    "speaker": "Mia",
                    "dia_id": "D1:1",
                    "text": "I moved to Lisbon last May.",
                    "img_url": ["https://example.org/a.jpg"],
                    "blip_caption": "a photo of a harbour",
                    "query": "harbour",
                },
                {"speaker": "Tom", "dia_id": "D1:2", "text": "Great!"},
            ],
            "session_3_date_time": "a date without a session",
        },
        "qa": [
            ask(1, "Which pet and which city come up?", "Rex, Lisbon", ["D1:1; D2:01", "D", "D9:9"]),
            ask(2, "When did Mia move?", 2023, ["D1:1"]),
            ask(5, "When did Tom move?", None, ["D1:1"]),
        ],
        "event_summary": {},
        "observation": {},
        "session_summary": {},
    }
    return {**made, **changes}


def ask(category: int, question: str, answer: Any, evidence: list[str]) -> dict[str, Any]:
    row = {"question": question, "category": category, "evidence": evidence}
    return row | ({"adversarial_answer": "May"} if answer is None else {"answer": answer})


def write(folder: Path, content: Any) -> Path:
    path = folder / "locomo.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_conversation_becomes_a_task_a_question(tmp_path: Path) -> None:
    both, when, unanswerable = load_dataset(f"locomo:{write(tmp_path, [talk()])}")
    rex = 'Tom said, "My dog Rex is ill."'
    assert both.messages == [
        f'Session 1, 1:56 pm on 8 May, 2023\n{LISBON}\nTom said, "Great!"',
        f'Session 2, 9:00 am on 2 June, 2023\n{rex}\nMia said, "Oh no!"',
    ]
    assert [example.kind for example in (both, when, unanswerable)] == ["multi-hop", "temporal", "adversarial"]
    assert [example.answer for example in (both, when, unanswerable)] == ["Rex, Lisbon", "2023", "I don't know"]
    assert [example.support for example in (both, when, unanswerable)] == [[LISBON, rex], [LISBON], []]
    assert both.facts == when.facts == unanswerable.facts == [LISBON, rex]
    assert both.operations == [
        {"turn": 0, "tool": "add_memory", "content": LISBON},
        {"turn": 1, "tool": "add_memory", "content": rex},
    ]
    assert when.key_items == ["Lisbon", "May"]
    assert unanswerable.key_items == []
    assert both.id == "conv-1/1"
    assert set(both.inputs().keys()) == {"messages", "distractors", "question"}


def test_distractors_are_drawn_once_for_each_seed() -> None:
    one, again, other = (next(iter(locomo.to_examples(talk(), seed=seed))).distractors for seed in (1, 1, 2))
    assert len(one) == 5
    assert one == again != other


def test_limit_reads_no_further(tmp_path: Path) -> None:
    path = write(tmp_path, [talk(), {"broken": True}])
    assert [example.id for example in locomo.load(path, limit=3)] == ["conv-1/1", "conv-1/2", "conv-1/3"]
    with pytest.raises(DataError, match="limit must be 1 or more"):
        locomo.load(path, limit=0)
    with pytest.raises(DataError, match="n_distractors must be 0 or more"):
        locomo.load(path, n_distractors=-1)


def damaged(where: str, value: Any) -> list[dict[str, Any]]:
    """A sound conversation and one in which the field at `where` is `value`."""
    made = talk(sample_id="conv-2")
    *path, last = where.split(".")
    place: Any = made
    for key in path:
        place = place[int(key) if key.isdigit() else key]
    place[int(last) if last.isdigit() else last] = value
    return [talk(), made]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ('[\n{"qa": }]', "locomo.json:2: not JSON"),
        ({"qa": []}, "expected a JSON list of conversations, found dict"),
        ([], "the list is empty"),
        ([talk(), "x"], "conversation 2: expected a JSON object, found str"),
        ([talk(sample_id="")], "conversation 1: sample_id: String should have at least 1"),
        ([{"sample_id": "a", "qa": []}], "conversation 1 (a): conversation: Field required"),
        (damaged("conversation", "hello"), "conversation 2 (conv-2): conversation: Input should be"),
        (damaged("conversation", {"speaker_a": "Mia"}), "conversation 2 (conv-2): conversation.sessions: Dictionary"),
        (damaged("conversation.session_2", "hello"), "conversation.sessions.2.turns: Input should be a valid list"),
        (damaged("conversation.session_2.0", {"speaker": "Tom"}), "conversation.sessions.2.turns.0.dia_id: Field requ"),
        (
            damaged("conversation.session_2.1.text", 3),
            "conversation.sessions.2.turns.1.text: Input should be a valid s",
        ),
        (damaged("conversation.session_1_date_time", None), "conversation.sessions.1.date_time: Input should be"),
        (
            damaged("qa.1.category", 6),
            "conversation 2 (conv-2): qa.1.category: Input should be less than or equal to 5",
        ),
        (damaged("qa.1.evidence", "D1:1"), "qa.1.evidence: Input should be a valid list"),
        (damaged("qa.1.answer", ""), "qa.1: answer: a question of category 2 needs one"),
        (damaged("qa.1.answer", ["a"]), "qa.1.answer: Input should be a valid string"),
    ],
)
def test_malformed_files_name_conversation_and_field(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        locomo.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        locomo.load(tmp_path / "absent.json")


def scored(kind: str, gold: str, answer: str) -> float:
    return locomo_score.answer_f1(dspy.Example(kind=kind, answer=gold), answer)


@pytest.mark.parametrize(
    ("kind", "gold", "answer", "score"),
    [
        ("single-hop", "The running shoes", "She runs in a shoe", 2 * 2 / (4 + 2)),  # she run in shoe; run shoe
        ("temporal", "7 May, 2023", "On 7 May 2023.", 6 / 7),
        ("temporal", "7 May 2023", "June", 0.0),
        ("open-domain", "Likely no; she wants to be a counselor", "likely no", 1.0),
        ("single-hop", "Likely no; she wants", "likely no", 4 / 6),
        ("multi-hop", "pottery, camping trips, swimming", "swimming, painting, a camp", (0.0 + 2 / 3 + 1.0) / 3),
        ("multi-hop", "pottery and painting", "painting, pottery", 2 / 3),
        ("adversarial", "I don't know", "It is not mentioned in the conversation", 1.0),
        ("adversarial", "I don't know", "No information available.", 1.0),
        ("adversarial", "I don't know", "I do not know", 1.0),
        ("adversarial", "I don't know", "7 May 2023", 0.0),
        ("single-hop", "Lisbon", "", 0.0),
    ],
)
def test_answers_score_by_the_rules_of_their_category(kind: str, gold: str, answer: str, score: float) -> None:
    assert scored(kind, gold, answer) == pytest.approx(score)


TEXT = st.text("abcdeist ,;.", max_size=30)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(["multi-hop", "temporal", "open-domain", "single-hop"]), gold=TEXT, answer=TEXT)
def test_a_score_is_a_share_and_the_gold_answer_never_does_worse(kind: str, gold: str, answer: str) -> None:
    assert 0.0 <= scored(kind, gold, answer) <= scored(kind, gold, gold) + 1e-9 or ";" in gold


def test_only_locomo_has_a_score_of_its_own_and_without_nltk_it_names_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert list(published_scores("locomo:a.json")) == ["f1"]
    assert published_scores("assistant:test") == {}
    locomo_score._stemmer.cache_clear()
    monkeypatch.setitem(sys.modules, "nltk.stem.porter", None)  # what the import system itself uses for "not there"
    with pytest.raises(MissingDependency, match=re.escape('pip install "agemem-dspy[locomo]"')):
        published_scores("locomo:a.json")
    locomo_score._stemmer.cache_clear()


def test_the_methods_play_it_unchanged(tmp_path: Path) -> None:
    examples = load_dataset(f"locomo:{write(tmp_path, [talk()])}")
    embedder = HashEmbedder()
    reply = "[[ ## answer ## ]]\nIn May, in Lisbon"
    for program in (
        am.ThreeStageEpisode(
            am.AgeMemAgent("question -> answer", memory=am.LongTermMemory.open(":memory:", embedder=embedder))
        ),
        am.RetrieveOnlyAgent("question -> answer", embedder=embedder),
        am.NoMemoryAgent("question -> answer"),
    ):
        with dspy.context(lm=scripted_lm(lambda prompt: reply)):
            result = am.evaluate(program, examples, am.TrajectoryReward(), scores=published_scores("locomo:x"))
        assert {kind: found.mean("f1") for kind, found in result.by_kind().items()} == {
            "adversarial": 0.0,
            "multi-hop": pytest.approx((0.0 + 2 / 3) / 2),
            "temporal": 0.0,
        }
        assert result.summary()["kinds"]["temporal"]["n"] == 1


def test_a_bench_scores_answers_as_published(tmp_path: Path) -> None:
    data, model = f"locomo:{write(tmp_path, [talk()])}", str(tiny_model(tmp_path / "tiny"))
    worlds, methods = [{"name": "locomo", "data": data}], [{"name": "base", "method": "no-memory"}]
    made = experiment(worlds=worlds, methods=methods, model=model, max_tokens=4)
    Bench(made, tmp_path / "run").run()
    (file,) = (tmp_path / "run" / "items").glob("*.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    examples = load_dataset(data)
    for row, example in zip(rows, examples, strict=True):
        said = (row["prediction"] or {}).get("answer")
        assert row["f1"] == (0.0 if said is None else locomo_score.answer_f1(example, said))


def test_eval_prints_the_score_of_each_category(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, model = write(tmp_path, [talk()]), tiny_model(tmp_path / "tiny")
    words = ("eval", "--data", f"locomo:{path}", "--model", model, "--max-tokens", "4", "--method", "no-memory")
    shown = agemem(capsys, *words)
    assert shown.code == 0, shown.err
    assert "by kind of question" in shown.out
    assert "multi-hop" in shown.out
    found = agemem(capsys, *words, "--limit", "2", "--json").json
    assert found["n"] == 2
    assert found["f1"]["mean"] == 0.0
    assert list(found["kinds"]) == ["multi-hop", "temporal"]
    path.write_text("[]", encoding="utf-8")
    assert "the list is empty" in refused(agemem(capsys, *words))


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the LoCoMo sample is not beside this checkout (../shared/data)")
def test_real_conversations_hang_together() -> None:
    examples = load_dataset(f"locomo:{SAMPLE}")
    assert len(examples) == 999
    assert {example.kind for example in examples} == set(locomo.CATEGORIES.values())
    for example in examples:
        related = content_words(" ".join([example.question, example.answer, *example.support]))
        assert not any(content_words(text) & related for text in example.distractors)
        assert set(example.support) <= set(example.facts)
        assert all(mentions(item, example.support) for item in example.key_items)
        wanted = example.answer.partition(";")[0] if example.kind == "open-domain" else example.answer
        assert locomo_score.answer_f1(example, wanted) == 1.0
    first = examples[0]
    assert (len(first.messages), len(first.facts)) == (19, 134)
    for operation in first.operations:
        assert operation["content"] in first.messages[operation["turn"]]
    assert sum(not example.support for example in examples if example.kind != "adversarial") == 2
