"""`agemem bench`: an experiment end to end on a tiny model, taken up after a kill, judged, compared."""

from __future__ import annotations

import json
import shutil
import signal
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from bench_runs import experiment, played, small_experiment
from command_line import agemem, interrupted, refused
from fakes_chat import ChatServer

from agemem_dspy.bench import Bench, load_experiment
from agemem_dspy.bench.results import BenchResults

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"  # peft asks transformers for it
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_experiment(tmp_path_factory.mktemp("bench"))


ROW = {
    "messages": ["I live in Rome."], "distractors": [], "question": "Where?", "answer": "Rome", "support": [],
    "facts": ["home: Rome"], "operations": [], "key_items": [],
}  # fmt: skip


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_an_experiment_is_played_told_and_not_played_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path
) -> None:
    run = tmp_path / "run"
    done = agemem(capsys, "bench", small, "--out", run, "--json")
    assert done.code == 0, done.err
    told = done.json["results"]
    cells = {line["method"]: line for line in told if "seed" in line}
    assert list(cells) == ["base", "+LT", "taught", "+RL", "another's"]
    assert cells["taught"]["model"].startswith("local/tiny@warm-")
    assert cells["+RL"]["model"].startswith("local/tiny@grpo-")
    assert [path.name for path in (run / "training").iterdir()] == ["taught.0"]  # one training serves both
    assert {"still to do", "GRPO of taught, seed 0", "small: base"} <= {
        part.strip() for line in done.err.splitlines() for part in line.split("  ")
    }

    items = rows(run / "items" / "small.another-s.0.jsonl")
    examples = [row["memories"] for row in rows(run / "items" / "small.+LT.0.jsonl")]
    assert len(items) == len(examples) == 3
    assert all(len(row["memories"]) == 1 for row in items)  # RAG stored a message, another example's
    page = (run / "table.md").read_text("utf-8")
    assert f"agemem bench {small} --out {run}" in page
    assert "| another's | 1 | 3 |" in page
    assert (run / "plot.png").is_file()

    before = {path: path.stat().st_mtime_ns for path in (run / "items").iterdir()}
    again = agemem(capsys, "bench", small, "--out", run)
    assert again.code == 0, again.err
    assert "A test" in page
    assert "gain" in again.out
    assert "GRPO" not in again.err
    assert {path: path.stat().st_mtime_ns for path in (run / "items").iterdir()} == before

    both = agemem(capsys, "bench", "compare", f"{run}#base", f"{run}#+RL", "--measure", "prompt_tokens", "--json")
    (compared,) = both.json["comparisons"]
    assert compared["test"]["gain"]["mean"] < 0
    assert "small: base − +RL" in agemem(capsys, "bench", "compare", f"{run}#base", f"{run}#+RL").out
    saved = tmp_path / "saved"
    shutil.copytree(run / "training" / "taught.0" / "warm_start", saved)
    words = ("bench", small, "--program", f"saved={saved}", "--method", "base", "--method", "saved")
    reused = agemem(capsys, *words, "--out", tmp_path / "reused", "--json")
    assert reused.code == 0, reused.err
    assert "GRPO" not in reused.err
    cell = next(line for line in reused.json["results"] if line["method"] == "saved")
    assert cell["model"] == cells["taught"]["model"]  # the very weights
    played_by = {run: "taught", tmp_path / "reused": "saved"}
    one, other = (rows(folder / "items" / f"small.{name}.0.jsonl") for folder, name in played_by.items())
    assert {row["id"]: row["reward"] for row in one} == {row["id"]: row["reward"] for row in other}
    (saved / "README.md").write_text("a card is no part of the program", encoding="utf-8")
    assert agemem(capsys, *words, "--out", tmp_path / "reused").code == 0
    shutil.rmtree(saved)
    shutil.copytree(run / "training" / "taught.0" / "grpo", saved)
    changed = refused(agemem(capsys, *words, "--out", tmp_path / "reused"))
    assert "holds a run with other settings: methods was" in changed
    assert "program_sha256" in changed
    other = agemem(capsys, "bench", small, "--out", run, "--seeds", "1")
    assert "seeds was [0], is [1]. Give a new folder, such as --out" in refused(other)


def test_every_method_plays_a_world(capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path) -> None:
    names = [method.name for method in load_experiment("main").methods if not method.phases]
    chosen = [word for name in names for word in ("--method", name)]
    run, data = tmp_path / "run", "babyai=babyai:GoToRedBallNoDists"
    words = ("bench", "main", "--model", small.parent / "tiny", "--world", "babyai", "--data", data, "--limit", "1")
    done = agemem(capsys, *words, *chosen, "--out", run, "--json")
    assert done.code == 0, done.err
    cells = {line["method"]: line for line in done.json["results"] if "seed" in line}
    assert list(cells) == names
    assert all(cell["success"]["mean"] == cell["progress_rate"]["mean"] == 0.0 for cell in cells.values())
    page = (run / "table.md").read_text("utf-8")
    assert "| answer | success | progress rate | actions | MQ | reward | prompt tokens | gain | p | paper's suc" in page
    assert "| No-Memory | 1 | 1 | 0.000 | 0.000 | 0.000 |" in page
    assert "0.508 |" in page  # the paper's No-Memory in BabyAI


def test_a_package_that_is_missing_is_said_before_anything_is_played(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("agemem_dspy.programs.rivals.mem0_package.version", absent)
    text = small.read_text("utf-8").replace('method = "rag"\ncontrol = "shuffled"', 'method = "mem0-package"')
    (rival := small.with_name("rival.toml")).write_text(text, encoding="utf-8")
    run = tmp_path / "run"
    assert 'pip install "agemem-dspy[mem0]"' in refused(agemem(capsys, "bench", rival, "--out", run))
    assert not (run / "items").exists()

    row = {"id": "far", "environment": "far:away", "seed": 0, **ROW}
    (data := tmp_path / "rows.jsonl").write_text(json.dumps({**row, "facts": [], "support": []}) + "\n", "utf-8")
    words = ("bench", small, "--data", f"far=jsonl:{data}", "--method", "base", "--out", tmp_path / "other")
    assert "unknown world 'far:away'" in refused(agemem(capsys, *words))
    assert not (tmp_path / "other" / "items").exists()


def test_a_run_that_was_killed_goes_on(capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path) -> None:
    """SIGKILL, which nothing can catch, first among the episodes, then in training."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    words = ("bench", small, "--threads", "1", "--method", "base", "--method", "+LT", "--method", "+RL")
    marks = (run / "items" / "small.+LT.0.jsonl", run / "training" / "+RL.0" / "warm_start")
    for mark in marks:
        stopped = interrupted(mark.exists, *words, "--out", run, how=signal.SIGKILL)
        assert stopped.code == -signal.SIGKILL, stopped.err
    kept = rows(run / "items" / "small.base.0.jsonl")
    assert agemem(capsys, *words, "--out", run).code == 0
    assert agemem(capsys, *words, "--out", whole).code == 0
    assert rows(run / "items" / "small.base.0.jsonl") == kept
    for name in ("base", "+LT", "+RL"):
        one, other = (rows(folder / "items" / f"small.{name}.0.jsonl") for folder in (run, whole))
        assert [(row["id"], row["prediction"], row["reward"]) for row in one] == [
            (row["id"], row["prediction"], row["reward"]) for row in other
        ]


def test_ctrl_c_says_what_is_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path) -> None:
    run = tmp_path / "run"
    stopped = interrupted((run / "items" / "small.base.0.jsonl").exists, "bench", small, "--out", run)
    assert stopped.code == 130, stopped.err
    assert f"interrupted: what was played is kept in {run}; the same command goes on from there" in stopped.err


def test_the_estimate_plays_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path) -> None:
    run = tmp_path / "run"
    shown = agemem(capsys, "bench", small, "--out", run, "--estimate", "--json")
    found = {row["what"]: row for row in shown.json["budget"]}
    assert found["GRPO of taught, seed 0"]["episodes"] == 2
    assert found["small: base"]["lm_calls"] == 3
    assert not run.exists()


def test_any_model_may_judge_a_run_afterwards(tmp_path: Path) -> None:
    (data := tmp_path / "rows.jsonl").write_text(json.dumps({"id": "q0", **ROW}) + "\n", encoding="utf-8")
    made = experiment(worlds=[{"name": "w", "data": f"jsonl:{data}"}])
    run = played(tmp_path / "run", made, {("w", "base", 0): [1.0], ("w", "ours", 0): [0.0]})
    replies = [f"[[ ## score ## ]]\n{score}\n\n[[ ## completed ## ]]" for score in (1.0, 0.5, 0.25)]
    with pytest.MonkeyPatch.context() as patch, ChatServer(replies) as server:
        for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
            patch.setenv(name, server.url)
        patch.setenv("OPENAI_API_KEY", "none")
        bench = Bench(made, run, threads=1)
        bench.run()  # nothing is left to play
        bench.judge("openai/judge")
        bench.judge("openai/judge")
    results = BenchResults.load(run)
    assert results.judge == "openai-judge"
    assert {key[1]: (one.mean("judge"), one.mean("memory_judge")) for key, one in results.pooled.items()} == {
        "base": (1.0, 0.5), "ours": (0.25, 0.5),
    }  # fmt: skip
    assert len(server.requests) == 3  # both stored the same, which is asked once


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["main", "--program", "x"], "'x' must be NAME=SPEC or NAME=FOLDER"),
        (["main", "--program", "AgeMem=nowhere"], "methods[AgeMem].program: there is no folder"),
        (["main", "--world", "assistant", "--limit", "2", "--judge", "magic"], "unknown model 'magic'"),
        (["bogus"], "No such command 'bogus'"),
        (["nowhere.toml"], "there is no experiment 'nowhere.toml'; choose one of compiled"),
        (["main", "--method", "magic"], "has no method 'magic'"),
        (["main", "--seeds", "one"], "--seeds 'one' must be numbers with commas between them"),
        (["main", "--data", "x"], "'x' must be NAME=SPEC"),
        (["main", "--data", "assistant=magic:x", "--world", "assistant", "--estimate"], "unknown data 'magic:x'"),
        (["rivals-rl", "--quick"], "there is no --quick"),
        (["compare", "nowhere", "nowhere"], "nowhere holds no bench run"),
        (["main", "--threads", "0"], "'--threads'"),
    ],
)
def test_bad_options_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], said: str
) -> None:
    given = words if words[0] in ("compare", "bogus") else [*words, "--out", str(tmp_path / "run")]
    assert said in refused(agemem(capsys, "bench", *given))
    assert not (tmp_path / "run").exists()


def test_a_folder_with_something_else_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path
) -> None:
    (tmp_path / "mine.txt").write_text("", encoding="utf-8")
    assert "holds something already" in refused(agemem(capsys, "bench", small, "--out", tmp_path))


def test_weights_need_a_local_model(capsys: pytest.CaptureFixture[str], tmp_path: Path, small: Path) -> None:
    words = ("bench", small, "--out", tmp_path / "run", "--model", "openai/gpt-4o-mini", "--method", "+RL")
    assert "is not a local policy" in refused(agemem(capsys, *words))
