"""Data files: what is written is read again, and a bad line is named with its field."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_dspy.data import load_dataset, read_examples, write_examples
from agemem_dspy.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def row(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": "a",
        "messages": ["I live in Rome."],
        "distractors": ["It rains."],
        "question": "Where do I live?",
        "answer": "Rome",
        "facts": ["home: Rome"],
        "operations": [{"turn": 0, "tool": "add_memory", "content": "home: Rome"}],
        "support": ["home: Rome"],
        "key_items": ["Rome"],
    }
    return {**made, **changes}


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines), encoding="utf-8")
    return path


@settings(max_examples=30, deadline=None)
@given(messages=st.lists(TEXT, min_size=1, max_size=3), answer=TEXT)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, messages: list[str], answer: str
) -> None:
    example = dspy.Example(**row(messages=messages, answer=answer, kind="own field"))
    path = write_examples(tmp_path_factory.mktemp("rows") / "rows.jsonl", [example])
    (again,) = read_examples(path)
    assert again.toDict() == example.toDict()
    assert set(again.inputs().keys()) == {"messages", "distractors", "question"}


def test_blank_lines_are_skipped_and_limit_reads_no_further(tmp_path: Path) -> None:
    path = write(tmp_path, "", row(), "", row(id="b"), "not json")
    assert [example.id for example in read_examples(path, limit=2)] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "rows.jsonl:2: not JSON"),
        ("[1]", "rows.jsonl:2: expected a JSON object, found list"),
        ({"id": "b"}, "rows.jsonl:2: messages: Field required"),
        (row(id="b", messages="hello"), "rows.jsonl:2: messages: Input should be a valid list"),
        (row(id="b", messages=[]), "rows.jsonl:2: messages: List should have at least 1 item"),
        (row(id="b", messages=["x", 3]), "rows.jsonl:2: messages.1: Input should be a valid string"),
        (row(id="b", operations=[{"turn": 0, "tool": "add"}]), "rows.jsonl:2: operations.0.tool"),
        (row(id="b", operations=[{"turn": 0, "tool": "add_memory"}]), "operations.0: add_memory needs 'content'"),
        (
            row(id="b", operations=[{"turn": 0, "tool": "delete_memory", "old": "x", "content": "y"}]),
            "operations.0: delete_memory takes no 'content'",
        ),
        (
            row(id="b", operations=[{"turn": 1, "tool": "add_memory", "content": "x"}]),
            "operations: turn 1 is past the last message (0)",
        ),
        (row(id="b", support=["home: Bari"]), "support: 'home: Bari' is not one of the facts"),
        (row(), "rows.jsonl:2: id: 'a' is already on line 1"),
    ],
)
def test_a_bad_line_is_named_with_its_field(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        load_dataset(f"jsonl:{write(tmp_path, row(), line)}")


def test_unreadable_files_say_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_examples(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_examples(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}')
    with pytest.raises(DataError, match="not UTF-8"):
        read_examples(tmp_path / "latin.jsonl")
    with pytest.raises(DataError, match="the file is empty"):
        read_examples(write(tmp_path, "", " "))
    with pytest.raises(DataError, match="cannot be written"):
        write_examples(tmp_path / "absent" / "rows.jsonl", [])


@pytest.mark.parametrize("spec", ["", "assistant", "assistant:", "assistant:dev", "squad:x", "jsonl:", "hotpotqa:"])
def test_an_unknown_spec_lists_what_is_accepted(spec: str) -> None:
    with pytest.raises(DataError, match=r"accepted: assistant:train\|val\|test, .*hotpotqa:<path .*jsonl:<path>"):
        load_dataset(spec)


def test_load_dataset_reaches_every_reader(tmp_path: Path) -> None:
    assert [e.difficulty for e in load_dataset("assistant:val", difficulty="medium", limit=2)] == ["medium"] * 2
    assert load_dataset(f"jsonl:{write(tmp_path, row())}")[0].answer == "Rome"
    with pytest.raises(DataError, match="no such file"):
        load_dataset(f"hotpotqa:{tmp_path / 'absent.json'}")


def test_a_seed_makes_new_rows_of_a_split() -> None:
    rows = load_dataset("assistant:train@7", limit=3)
    assert [row.id for row in rows] == [f"assistant-train-easy-7-{n}" for n in range(3)]
    assert len(load_dataset("assistant:val@0")) == 100
    assert load_dataset("assistant:test@1", limit=1, difficulty="hard")[0].difficulty == "hard"
    with pytest.raises(DataError, match="limit must be 1 or more"):
        load_dataset("assistant:train@7", limit=0)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_under_one_is_refused(tmp_path: Path, limit: int) -> None:
    for spec in ("assistant:val", f"jsonl:{write(tmp_path, row())}"):
        with pytest.raises(DataError, match="limit must be 1 or more"):
            load_dataset(spec, limit=limit)


def test_a_difficulty_is_refused_where_it_would_do_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only assistant data has difficulties"):
        load_dataset(f"jsonl:{write(tmp_path, row())}", difficulty="easy")
    with pytest.raises(DataError, match="unknown difficulty 'brutal'; choose one of easy, medium, hard"):
        load_dataset("assistant:val", difficulty="brutal")


def test_importing_the_room_loads_no_heavy_package() -> None:
    code = (
        "import sys, agemem_dspy.data as data; data.load_dataset('assistant:val', limit=1); "
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"
