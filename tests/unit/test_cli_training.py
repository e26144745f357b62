"""`agemem compile`: the run folder, its options, and what Ctrl-C leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import agemem, refused, short_examples, tiny_model

QUICK = ("--max-rounds", "2", "--max-tokens", "8", "--max-examples", "2", "--threshold", "0.1")
GRPO = ("--steps", "2", "--num-generations", "2", "--tasks-per-step", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def test_compile_fills_a_run_folder_that_eval_plays(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    data, run = short_examples(tmp_path / "rows.jsonl", 5), tmp_path / "run"
    words = ("--data", data, "--model", model, *QUICK, *GRPO, "--top-layers", "1", "--lora-r", "4", "--out", run)
    done = agemem(capsys, "compile", *words, "--json")
    assert done.code == 0, done.err
    results = done.json
    assert results == json.loads((run / "results.json").read_text("utf-8"))
    assert [phase["name"] for phase in results["phases"]] == ["base", "prompts", "warm_start", "grpo"]
    assert all({"mean", "low", "high"} == set(phase["reward"]) for phase in results["phases"])
    assert results["program"] == str(run / "grpo")
    config = json.loads((run / "config.json").read_text("utf-8"))
    assert (config["train_examples"], config["val_examples"], config["options"]["lora_r"]) == (4, 1, 4)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [(line["phase"], line["step"]) for line in lines] == [("warm_start", 1), ("grpo", 1), ("grpo", 2)]
    assert "2/2 grpo reward" in done.err

    played = agemem(capsys, "eval", "--program", run / "warm_start", "--data", data, "--limit", "1", "--json")
    assert played.code == 0, played.err
    assert played.json["method"] == "program"
    assert played.json["model"].startswith("local/tiny@")
    again = agemem(capsys, "compile", *words)
    assert "holds something already" in refused(again)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --data NAME, or --train SPEC with --val SPEC"),
        (["--data", "assistant", "--train", "assistant:train"], "give --data NAME"),
        (["--val", "assistant:val", "--data", "assistant"], "give --data NAME"),
        (["--data", "assistant", "--phases", "grpo,prompts"], "in this order"),
        (["--data", "assistant", "--phases", "magic"], "must be some of prompts,warm_start,grpo"),
        (["--data", "assistant", "--phases", "prompts", "--steps", "3"], "--steps belongs to grpo"),
        (["--data", "assistant", "--num-generations", "1"], "num_generations is 1"),
        (["--data", "assistant", "--lr", "-1"], "must be positive"),
        (["--data", "assistant", "--curriculum", "steep"], "curriculum must be 'joint' or 'progressive'"),
        (["--data", "assistant", "--weights", "mine"], "unknown reward profile 'mine'"),
        (["--data", "assistant", "--limit", "-1"], "'--limit'"),
    ],
)
def test_bad_options_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path, words: list[str], said: str
) -> None:
    run = tmp_path / "run"
    assert said in refused(agemem(capsys, "compile", *words, "--model", model, "--out", run))


def test_weights_need_a_local_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("--train", short_examples(tmp_path / "rows.jsonl", 2), "--phases", "grpo", "--out", tmp_path / "run")
    outcome = agemem(capsys, "compile", *words, "--model", "openai/gpt-4o-mini")
    assert "is not a local policy" in refused(outcome)


def test_a_run_folder_that_cannot_be_written_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for run in (tmp_path / "file", tmp_path / "file" / "run"):
        outcome = agemem(capsys, "compile", "--data", "assistant", "--model", model, "--out", run)
        assert str(run) in refused(outcome)
