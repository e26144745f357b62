"""`agemem run` and `agemem eval`: steps, tables, resuming, Ctrl-C, and real HotpotQA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import ROOT, agemem, interrupted, refused, short_examples, tiny_model

from agemem_dspy.data import world_examples, write_examples

HOTPOT = ROOT.parent / "shared" / "data" / "hotpotqa" / "hotpot_dev_distractor_v1_sample.json"
QUICK = ("--max-rounds", "1", "--max-tokens", "4")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def test_run_prints_every_step_and_the_reasons(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    data = short_examples(tmp_path / "rows.jsonl", 2)
    words = ("run", "--data", data, "--index", "1", "--model", model, *QUICK)
    shown = agemem(capsys, *words)
    assert shown.code == 0, shown.err
    row = json.loads((tmp_path / "rows.jsonl").read_text("utf-8").splitlines()[1])
    for text in ("stage 1 · turn 1 · round 1", "stage 2 · turn 1", "stage 3 · turn 1", row["messages"][0],
                 row["distractors"][0], row["question"], "→ unreadable", "← error: no <tool_call>",
                 "answered: (nothing)", "No answer was given"):  # fmt: skip
        assert text in shown.out
    found = agemem(capsys, *words, "--json").json
    assert found["id"] == row["id"]
    assert [step["stage"] for step in found["steps"]] == [1, 2, 3]
    assert found["steps"][0]["context"][-1]["content"] == row["messages"][0]
    assert found["steps"][0]["events"][0]["ok"] is False
    assert found["terms"]["answer"] == 0.0
    assert found["feedback"].startswith("No answer was given")


def test_run_full_repeats_the_context(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    words = ("run", "--data", short_examples(tmp_path / "rows.jsonl", 1), "--model", model, *QUICK)
    message = json.loads((tmp_path / "rows.jsonl").read_text("utf-8"))["distractors"][0]
    assert agemem(capsys, *words).out.count(f"] {message}") == 1
    assert agemem(capsys, *words, "--full").out.count(f"] {message}") == 2


def test_eval_prints_intervals_and_resumes(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    data, out = short_examples(tmp_path / "rows.jsonl", 3), tmp_path / "run"
    words = ("eval", "--data", data, "--model", model, *QUICK, "--out", out)
    shown = agemem(capsys, *words, "--limit", "2")
    assert shown.code == 0, shown.err
    assert "95 % low" in shown.out
    before = (out / "eval.jsonl").read_text("utf-8")
    found = agemem(capsys, *words, "--json").json
    assert (found["n"], found["method"], found["model"]) == (3, "agemem", "local/tiny")
    assert found["reward"]["low"] <= found["reward"]["mean"] <= found["reward"]["high"]
    assert (out / "eval.jsonl").read_text("utf-8").startswith(before)
    assert len((out / "eval.jsonl").read_text("utf-8").splitlines()) == 3
    assert json.loads((out / "summary.json").read_text("utf-8")) == found


@pytest.mark.parametrize(("method", "entries"), [("no-memory", 0), ("rag", 1)])
def test_eval_plays_the_baselines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path, method: str, entries: int
) -> None:
    data = short_examples(tmp_path / "rows.jsonl", 1)
    found = agemem(capsys, "eval", "--data", data, "--model", model, "--max-tokens", "4", "--method", method, "--json")
    assert found.json["method"] == method
    assert found.json["steps"]["mean"] == 1.0
    assert found.json["calls"].get("add_memory", {"ok": 0.0})["ok"] == entries
    refusal = agemem(capsys, "eval", "--data", data, "--model", model, "--method", method, "--max-rounds", "1")
    assert "leave out --max-rounds" in refused(refusal)


@pytest.mark.skipif(not HOTPOT.is_file(), reason="the HotpotQA sample is not beside this checkout (../shared/data)")
def test_eval_plays_real_hotpotqa_through_all_stages(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    words = ("--data", f"hotpotqa:{HOTPOT}", "--model", model, *QUICK)
    found = agemem(capsys, "eval", *words, "--limit", "1", "--out", tmp_path / "run", "--json").json
    assert found["n"] == 1
    assert found["steps"]["mean"] >= 10 + 5 + 1  # paragraphs, distractors, question
    assert found["prompt_tokens"]["mean"] > 1000


def test_a_world_is_run_and_evaluated(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    pytest.importorskip("minigrid", reason='the extra babyai is not installed: pip install -e ".[babyai]"')
    examples = world_examples("babyai:GoToRedBall", [3, 4], n_distractors=1)
    data = f"jsonl:{write_examples(tmp_path / 'worlds.jsonl', examples)}"
    shown = agemem(capsys, "run", "--data", data, "--model", model, *QUICK)
    assert shown.code == 0, shown.err
    for text in ("goal: go to the red ball", "reached: 0% in 0 actions   (unreadable replies)", "was not reached"):
        assert text in shown.out
    found = agemem(capsys, "run", "--data", data, "--model", model, *QUICK, "--json").json
    assert (found["question"], found["outcome"]["environment"]) == (None, "babyai:GoToRedBall")
    found = agemem(capsys, "eval", "--data", data, "--model", model, *QUICK, "--json").json
    assert (found["success"]["mean"], found["progress_rate"]["mean"], found["actions"]["mean"]) == (0.0, 0.0, 0.0)


def test_bad_data_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    data = short_examples(tmp_path / "rows.jsonl", 2)
    missing = agemem(capsys, "eval", "--data", f"jsonl:{tmp_path / 'no.jsonl'}", "--model", model)
    assert "no.jsonl: no such file" in refused(missing)
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "x"}\n')
    assert "rows.jsonl:3: messages: " in refused(agemem(capsys, "eval", "--data", data, "--model", model))
    beyond = agemem(capsys, "run", "--data", data, "--limit", "2", "--model", model)
    assert "No such option" in refused(beyond)
    assert "--index goes from 0 to 1" in refused(agemem(capsys, "run", *_first_two(tmp_path), "--index", "7"))
    assert "assistant" in refused(agemem(capsys, "eval", "--data", data, "--difficulty", "easy", "--model", model))
    (tmp_path / "file").write_text("", encoding="utf-8")
    words = ("--model", model, *QUICK, "--out", tmp_path / "file" / "run")
    assert "cannot write" in refused(agemem(capsys, "eval", *_first_two(tmp_path), *words))


def test_ctrl_c_keeps_what_was_played(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    data, out = short_examples(tmp_path / "rows.jsonl", 20), tmp_path / "run"
    rows = out / "eval.jsonl"
    words = ("eval", "--data", data, "--model", model, "--max-rounds", "1", "--max-tokens", "64", "--out", out)
    stopped = interrupted(lambda: rows.is_file() and rows.stat().st_size > 0, *words, "--threads", "1")
    assert stopped.code == 130, stopped.err
    (line,) = [line for line in stopped.err.splitlines() if line.startswith("interrupted: ")]
    assert line.endswith(f"what was played is kept in {rows}; the same command goes on from there")
    assert "Traceback" not in stopped.err
    assert stopped.out == ""
    played = rows.read_text("utf-8").splitlines()
    assert 1 <= len(played) < 20
    found = agemem(capsys, *words, "--limit", len(played) + 1, "--json").json
    assert found["n"] == len(played) + 1
    assert rows.read_text("utf-8").splitlines()[: len(played)] == played


def _first_two(folder: Path) -> tuple[str, ...]:
    return ("--data", short_examples(folder / "two.jsonl", 2))
