"""`agemem compile`: the run folder, its options, and what Ctrl-C leaves."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import agemem, interrupted, refused, short_examples, tiny_model
from safetensors.torch import load_file

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"  # peft asks transformers for it
)
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
    metrics = (run / "metrics.jsonl").read_bytes()
    again = agemem(capsys, "compile", *words, "--json")
    assert again.json == results  # everything is read back
    assert (run / "metrics.jsonl").read_bytes() == metrics
    other = refused(agemem(capsys, "compile", *words, "--seed", "1", "--threads", "2"))
    assert "holds a run with other settings: seed was 0, is 1; threads was 8, is 2" in other
    assert f"such as --out {run}-2" in other
    assert "max_rounds was 2, is 3" in refused(agemem(capsys, "compile", *words, "--max-rounds", "3"))


def test_ctrl_c_leaves_the_weights_of_the_steps_that_were_done(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    data, run = short_examples(tmp_path / "rows.jsonl", 5), tmp_path / "run"
    lines = run / "metrics.jsonl"
    words = ("--train", data, "--model", model, "--phases", "warm_start,grpo", *QUICK, "--max-tokens", "24")
    grpo = ("--steps", "1000", "--num-generations", "2", "--tasks-per-step", "1")
    stopped = interrupted(
        lambda: lines.is_file() and '"grpo"' in lines.read_text("utf-8"), "compile", *words, *grpo, "--out", run
    )
    assert stopped.code == 130, stopped.err
    (line,) = [line for line in stopped.err.splitlines() if line.startswith("interrupted: ")]
    assert "finished phases: warm_start; " in line
    assert line.endswith(f"everything is kept in {run}, and the same command goes on")
    done = json.loads(lines.read_text("utf-8").splitlines()[-1])
    assert f"the program after {done['step']} steps of grpo: {run / 'grpo'}" in line
    words = ("--program", run / "grpo", "--data", data, "--max-tokens", "4", "--json")
    played = agemem(capsys, "eval", *words, "--limit", "1")
    assert played.code == 0, played.err
    assert json.loads((run / "results.json").read_text("utf-8"))["program"] == str(run / "warm_start")


def test_a_run_that_was_killed_goes_on_to_the_same_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    """SIGKILL, which nothing can catch, in the midst of the warm start and then of GRPO."""
    data = short_examples(tmp_path / "rows.jsonl", 5)
    words = ("compile", "--train", data, "--model", model, "--phases", "warm_start,grpo", *QUICK, "--threads", "1")
    words = (*words, "--steps", "4", "--num-generations", "2", "--tasks-per-step", "1", "--epochs", "4", "--lr", "0.01")
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert agemem(capsys, *words, "--out", whole).code == 0
    lines = run / "metrics.jsonl"

    def written(count: int) -> Callable[[], bool]:
        return lambda: lines.is_file() and len(lines.read_text("utf-8").splitlines()) >= count

    for count in (2, 4 + 2):
        stopped = interrupted(written(count), *words, "--out", run, how=signal.SIGKILL)
        assert stopped.code == -signal.SIGKILL, stopped.err
    assert agemem(capsys, *words, "--out", run).code == 0
    for phase in ("warm_start", "grpo"):
        one, other = (load_file(folder / phase / "adapter_model.safetensors") for folder in (whole, run))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    told = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (whole, run)
    ]
    kept = [[(line["phase"], line["step"], line.get("reward")) for line in one] for one in told]
    assert kept[0] == kept[1]


def test_an_estimate_is_printed_and_nothing_is_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    data, run = short_examples(tmp_path / "rows.jsonl", 5), tmp_path / "run"
    words = ("compile", "--data", data, "--model", model, *QUICK, *GRPO, "--out", run, "--estimate")
    shown = agemem(capsys, *words)
    assert shown.code == 0, shown.err
    assert "warm_start" in shown.out
    assert "GiB" in shown.out
    rows = agemem(capsys, *words, "--json").json["phases"]
    assert [(row["phase"], row["episodes"]) for row in rows] == [("prompts", 2), ("warm_start", 0), ("grpo", 4)]
    assert not run.exists()


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


def test_tune_tries_the_known_weights_and_goes_on_from_its_study(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    data, study = short_examples(tmp_path / "rows.jsonl", 5), tmp_path / "study"
    words = ("tune", "--data", data, "--model", model, "--max-rounds", "1", "--max-tokens", "8", "--study", study)
    grpo = ("--steps", "1", "--num-generations", "2", "--tasks-per-step", "1")
    first = agemem(capsys, *words, *grpo, "--trials", "1", "--json")
    assert first.code == 0, first.err
    (paper,) = first.json["trials"]
    assert paper["weights"] == pytest.approx({"task": 1 / 3, "context": 1 / 3, "memory": 1 / 3})
    assert (study / "study.journal").is_file()
    both = agemem(capsys, *words, *grpo, "--trials", "2", "--json").json
    assert both["trials"][0] == paper
    assert both["trials"][1]["weights"]["task"] > 0.99
    assert both["value"] == max(trial["value"] for trial in both["trials"])
    shown = agemem(capsys, *words, *grpo, "--trials", "2")
    assert "best: answer 0.000 with weights" in shown.out
    other = agemem(capsys, *words, *grpo, "--trials", "2", "--seed", "1")
    assert "holds a study with another" in refused(other)


def test_tune_refuses_what_cannot_be_tuned(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    words = ("tune", "--data", "assistant", "--study", tmp_path / "study")
    assert "is not a local policy" in refused(agemem(capsys, *words, "--model", "openai/gpt-4o-mini"))
    assert "'--trials'" in refused(agemem(capsys, *words, "--model", model, "--trials", "0"))
    no_val = ("tune", "--train", "assistant:train", "--study", tmp_path / "study")
    assert "neither may be empty" in refused(agemem(capsys, *no_val, "--model", model))
    assert not (tmp_path / "study").exists()
