"""What a run found, told and compared: pooling over seeds, tests, the paper's numbers, the judge."""

from __future__ import annotations

import json
from pathlib import Path

import dspy
import pytest
from bench_runs import experiment, played, write_rows
from fakes import scripted_lm

from agemem_dspy.bench.compare import compare
from agemem_dspy.bench.folder import BenchFolder
from agemem_dspy.bench.judging import Agreement, RowJudge, judged_folder
from agemem_dspy.bench.plot import plot
from agemem_dspy.bench.published import published
from agemem_dspy.bench.report import grids, lines, page, write
from agemem_dspy.bench.results import BenchResults, measured
from agemem_dspy.errors import ConfigurationError, RewardError, RunError

SCORES = {
    ("w", "base", 0): [0.0, 0.0, 1.0, 0.0],
    ("w", "ours", 0): [1.0, 0.0, 1.0, 1.0],
    ("w", "ours", 1): [1.0, 1.0, 1.0, 1.0],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return played(tmp_path / "run", experiment(seeds=[0, 1], temperature=1.0), SCORES, judge="openai/judge")


def test_a_row_gets_hotpotqas_scores_and_a_column_for_every_tool() -> None:
    row = measured(
        {"prediction": {"answer": "The Rome"}, "gold": "rome", "calls": {"add_memory": {"attempted": 2, "ok": 1}}}
    )
    assert (row["em"], row["f1"]) == (1.0, 1.0)
    assert (row["calls.add_memory"], row["calls.filter_context"]) == (2, 0)
    assert measured({"prediction": None, "gold": "Rome"})["f1"] == 0.0
    assert measured({"prediction": {"answer": "Rome"}, "gold": "Rome", "f1": 0.25})["f1"] == 0.25  # as published
    assert not {"em", "f1"} & set(measured({"prediction": None, "gold": None, "success": 1.0}))  # nothing was asked


def test_seeds_are_pooled_by_question_and_tested_against_the_baseline(run: Path) -> None:
    results = BenchResults.load(run)
    assert results.pooled["w", "ours"].values("answer") == {"q0": 1.0, "q1": 0.5, "q2": 1.0, "q3": 1.0}
    assert results.seeds("w", "ours") == [0, 1]
    assert [cell.seed for cell in results.missing] == [1]  # base with seed 1 was not played
    test = results.tested("w", "ours", "answer")
    assert test is not None
    assert (test.gain.mean, test.n) == (0.625, 4)
    assert test.p_value == pytest.approx(2 / 8)  # three differences above 0, one 0: signs flip in 2^3 ways
    assert results.tested("w", "base", "answer") is None
    assert results.tested("w", "ours", "nothing") is None


def test_the_page_shows_means_intervals_tests_and_what_differs(run: Path) -> None:
    text = page(BenchResults.load(run), "agemem bench made")
    assert "agemem bench made" in text
    row = next(line for line in text.splitlines() if line.startswith("| ours"))
    assert row.startswith("| ours | 2 | 4 | 0.875 [")
    assert "| +0.625 [+0.250, +1.000] | 0.250 |" in row
    assert "| base | 1 | 4 | 0.250 [0.000, 0.750] |" in text
    assert "Model smollm2-135m (2.5 M parameters); the evaluation's judge: openai-judge" in text
    assert "the judge agrees with EM on 12 answers: kappa 1.000" in text
    assert "1 cells are not played yet" in text
    assert "## answer, seed by seed" in text
    assert "| w: base | 0.250 [0.000, 0.750] | – |" in text


def test_a_run_from_before_programs_could_be_saved_ones_goes_on(run: Path) -> None:
    noted = json.loads((run / "experiment.json").read_text("utf-8"))
    for method in noted["methods"]:
        del method["program"], method["program_sha256"]
    (run / "experiment.json").write_text(json.dumps(noted), "utf-8")
    made = experiment(seeds=[0, 1], temperature=1.0)
    assert BenchFolder(run).resume(made)
    with pytest.raises(RunError, match="title was"):
        BenchFolder(run).resume(made.model_copy(update={"title": "Another"}))


def test_kinds_of_questions_have_a_table(tmp_path: Path) -> None:
    run = played(tmp_path / "run", experiment(), {("w", "base", 0): [0.0, 1.0, 1.0], ("w", "ours", 0): [1.0, 1.0, 1.0]})
    assert "by kind of question" not in page(BenchResults.load(run), "x")
    for file in (run / "items").iterdir():
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        write_rows(file, [{**row, "kind": "adversarial" if row["id"] == "q0" else "temporal"} for row in rows])
    text = page(BenchResults.load(run), "x")
    assert "## w, by kind of question" in text
    assert "|  | adversarial (1) | temporal (2) |" in text
    assert "| base: F1 | 0.000 | 1.000 |" in text
    assert "| ours: F1 | 1.000 | 1.000 |" in text


def test_the_papers_numbers_stand_beside_ours(tmp_path: Path) -> None:
    made = experiment(
        published="components",
        methods=[{"name": "base", "method": "no-memory"}, {"name": "mine", "method": "agemem", "published": "+LT"}],
        worlds=[{"name": "h", "data": "hotpotqa:hub", "published": "HotpotQA"}],
    )
    scores = {("h", "base", 0): [0.0, 1.0], ("h", "mine", 0): [1.0, 1.0]}
    (grid,) = grids(BenchResults.load(played(tmp_path / "run", made, scores)))
    assert grid.header[-1] == "paper's J, Qwen2.5-7B-Instruct"
    assert [row[-1] for row in grid.rows] == ["0.384", "0.458"]
    assert "ours differ in model and size, training, data and judge" in page(BenchResults.load(tmp_path / "run"), "x")


@pytest.mark.parametrize(
    ("model", "means"),
    [
        ("Qwen2.5-7B-Instruct", {"No-Memory": 28.05, "AgeMem-noRL": 33.43, "AgeMem": 41.96}),
        ("Qwen3-4B-Instruct", {"No-Memory": 43.97, "AgeMem-noRL": 45.59, "AgeMem": 54.31}),
    ],
)
def test_the_papers_numbers_have_the_means_that_it_prints(model: str, means: dict[str, float]) -> None:
    places = {"ALFWorld": "success", "ScienceWorld": "success", "PDDL": "progress_rate", "BabyAI": "success"}
    places["HotpotQA"] = "judge"
    columns = [published("main", world)[model, measure] for world, measure in places.items()]
    found = {name: 100 * sum(column[name] for column in columns) / len(columns) for name in means}
    assert found == pytest.approx(means, abs=0.02)


def test_where_the_paper_has_no_numbers_there_are_none() -> None:
    assert published(None, "HotpotQA") == published("main", None) == published("main", "nowhere") == {}


def test_every_number_is_a_json_line(run: Path) -> None:
    results = BenchResults.load(run)
    files = write(results, lines(results), "agemem bench made")
    assert [Path(file).name for file in files] == ["results.jsonl", "table.md"]
    found = [json.loads(line) for line in (run / "results.jsonl").read_text("utf-8").splitlines()]
    assert found == json.loads(json.dumps(lines(results)))
    cells = [line for line in found if "seed" in line]
    assert [(line["method"], line["seed"], line["n"]) for line in cells] == [
        ("base", 0, 4),
        ("ours", 0, 4),
        ("ours", 1, 4),
    ]
    (pooled,) = [line for line in found if line.get("seeds") == [0, 1]]
    assert pooled["test"]["against"] == "base"
    assert pooled["answer"]["mean"] == 0.875
    assert [line["agreement_with"] for line in found if "kappa" in line] == ["em", "f1"]


def test_the_plot_is_a_picture(run: Path) -> None:
    assert plot(BenchResults.load(run)).read_bytes().startswith(b"\x89PNG")


def test_two_runs_and_two_methods_are_compared_in_pairs(run: Path, tmp_path: Path) -> None:
    better = {key: [1.0] * 4 for key in SCORES}
    other = played(tmp_path / "other", experiment(seeds=[0, 1], temperature=1.0), better)
    found = compare(str(other), str(run))
    assert [(one.ours, one.test.gain.mean) for one in found] == [("base", 0.75), ("ours", 0.125)]
    (both,) = compare(f"{run}#ours", f"{run}#base", ("f1",))
    assert (both.measure, both.test.gain.mean) == ("f1", 0.625)
    for one, two, said in (
        (f"{run}#nobody", str(run), "has no method 'nobody'; it has base, ours"),
        (str(run), str(tmp_path), "holds something already|no bench run"),
    ):
        with pytest.raises((ConfigurationError, RunError), match=said):
            compare(one, two)
    elsewhere = played(tmp_path / "third", experiment(worlds=[{"name": "v", "data": "x"}]), {("v", "base", 0): [1.0]})
    with pytest.raises(ConfigurationError, match="share no world and method"):
        compare(str(run), str(elsewhere))
    fewer = played(tmp_path / "fewer", experiment(), {("w", "base", 0): [1.0]})
    with pytest.raises(ConfigurationError, match="do not share 3 questions"):
        compare(str(run), str(fewer))


def test_a_damaged_run_is_refused(run: Path) -> None:
    with pytest.raises(RunError, match="holds no bench run"):
        BenchResults.load(run / "nowhere")
    (run / "items" / "w.base.0.jsonl").unlink()
    with pytest.raises(RunError, match="missing or damaged"):
        BenchResults.load(run)
    (run / "experiment.json").write_text('{"name": "x"}')
    with pytest.raises(RunError, match="of another version or damaged"):
        BenchResults.load(run)


# The judge


def test_agreement_is_cohens_kappa_and_the_rank_correlation() -> None:
    found = Agreement.of([1, 1, 1, 0, 0, 0, 1, 0], [1, 1, 0, 0, 0, 1, 1, 0])
    assert found.n == 8
    assert found.kappa == pytest.approx((6 / 8 - 0.5) / 0.5)
    assert found.correlation == pytest.approx(0.5)
    assert Agreement.of([1, 1], [1, 1]) == Agreement(n=2, kappa=None, correlation=None)
    assert Agreement.of([1, 1], [0, 0]).kappa == 0.0


ROWS = [
    {"id": "a", "question": "Where?", "gold": "Rome", "prediction": {"answer": "In Rome"}, "memories": ["home: Rome"]},
    {"id": "b", "question": "Who?", "gold": "Ana", "prediction": None, "memories": []},
]
EXAMPLES = {key: dspy.Example(facts=["home: Rome"]) for key in ("a", "b")}


def scored(prompt: str) -> str:
    return "[[ ## score ## ]]\n" + ("0.25" if "entries" in prompt else "0.75")


def test_the_judge_scores_answers_and_memories_once(tmp_path: Path) -> None:
    lm, file = scripted_lm(scored), tmp_path / "scores.jsonl"
    told: list[tuple[int, int]] = []
    RowJudge(lm, threads=2).judge(ROWS, EXAMPLES, file, progress=lambda *count: told.append(count))
    rows = {row["id"]: row for row in map(json.loads, file.read_text("utf-8").splitlines())}
    assert rows["a"] == {"id": "a", "judge": 0.75, "memory_judge": 0.25}
    assert rows["b"] == {"id": "b", "judge": 0.0, "memory_judge": 0.0}  # nothing said, nothing stored: nobody is asked
    assert len(lm.engine.prompts) == 2
    assert told == [(1, 2), (2, 2)]
    RowJudge(lm).judge(ROWS, EXAMPLES, file)
    assert len(lm.engine.prompts) == 2


def test_an_episode_without_a_question_is_not_judged(tmp_path: Path) -> None:
    lm, file = scripted_lm([]), tmp_path / "scores.jsonl"
    RowJudge(lm).judge([{**ROWS[1], "gold": None}], {"b": dspy.Example(goal="go there")}, file)
    assert json.loads(file.read_text("utf-8")) == {"id": "b"}


def test_a_judge_that_fails_is_no_score_and_keeps_what_it_scored(tmp_path: Path) -> None:
    replies = iter([scored("x"), scored("entries"), ZeroDivisionError("broken")])
    lm, file = scripted_lm(lambda prompt: next(replies)), tmp_path / "scores.jsonl"
    rows = [ROWS[0], {**ROWS[0], "id": "b"}]
    with pytest.raises(RewardError, match="judge JudgeAnswer of .* failed"):
        RowJudge(lm, threads=1).judge(rows, EXAMPLES, file)
    assert [json.loads(line)["id"] for line in file.read_text("utf-8").splitlines()] == ["a"]


def test_several_judges_are_told_apart(run: Path) -> None:
    assert BenchResults.load(run, judge="openai/judge").judge == "openai/judge"
    write_rows(judged_folder(run, "ollama/other") / "w.base.0.jsonl", [{"id": "q0", "judge": 0.0}])
    with pytest.raises(ConfigurationError, match="was judged by ollama-other, openai-judge; name one"):
        BenchResults.load(run)
    with pytest.raises(ConfigurationError, match="'x/y' has not judged"):
        BenchResults.load(run, judge="x/y")
    assert BenchResults.load(run, judge="ollama/other").pooled["w", "base"].mean("judge") == 0.0
