"""Evaluation: rows, intervals, resuming, errors, threads."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from dspy.utils import DummyLM
from rich.console import Console
from scipy import stats
from trajectories import AIRPORT, add, delete, honest_trajectory, make_example, make_step, make_trajectory, retrieve

from agemem_dspy.errors import ConfigurationError, DataError, RunError
from agemem_dspy.evaluation import EvaluationResult, Interval, evaluate
from agemem_dspy.policy.recorder import current_random
from agemem_dspy.programs.judges import JudgeAnswer, JudgedScore, LMJudge
from agemem_dspy.results import PairedTest
from agemem_dspy.rewards import TrajectoryReward
from agemem_dspy.types import Completion


class Player(dspy.Module):
    """Answers with a scripted trajectory; counts its calls and can break at one question."""

    def __init__(self, answers: dict[str, str], breaks_at: str | None = None, temperature: float = 0.0) -> None:
        super().__init__()
        self._answers = answers
        self._breaks_at = breaks_at
        self._lock = threading.Lock()
        self.temperature = temperature
        self.played: list[str] = []

    def forward(self, messages: list[str], distractors: list[str], question: str) -> dspy.Prediction:
        with self._lock:
            self.played.append(question)
        if question == self._breaks_at:
            raise OSError("the model's server is gone")
        return dspy.Prediction(trajectory=honest_trajectory(answer=self._answers.get(question, "Lisbon")))


def questions(count: int) -> list[dspy.Example]:
    return [make_example(id=f"q{number}", question=f"question {number}") for number in range(count)]


def played_rows(count: int, reward: float = 1.0) -> EvaluationResult:
    rows = tuple({"id": f"q{number}", "reward": reward * number} for number in range(count))
    return EvaluationResult(name="made", rows=rows)


def test_a_row_holds_the_terms_and_the_counts(tmp_path: Path) -> None:
    tape = Completion(
        model="m", prompt_ids=(1, 2), completion_ids=(3, 4, 5), logprobs=(-1.0,) * 3, text="x", temperature=1.0,
        finish_reason="stop",
    )  # fmt: skip
    trajectory = make_trajectory(
        add(AIRPORT),
        retrieve(AIRPORT, automatic=True, stage=1),
        delete("9", "x", ok=False),
        steps=(make_step(completion=tape), make_step(parsed=False), make_step(kind="summarize", prompt_tokens=7)),
    )

    def program(**_: Any) -> dspy.Prediction:
        return dspy.Prediction(trajectory=trajectory)

    result = evaluate(program, [make_example()], TrajectoryReward(), log_dir=tmp_path, name="base")
    (row,) = result.rows
    assert json.loads((tmp_path / "base.jsonl").read_text(encoding="utf-8")) == row
    counts = {key: row[key] for key in ("prompt_tokens", "completion_tokens", "steps", "tool_calls", "parse_rate")}
    assert counts == {"prompt_tokens": 207, "completion_tokens": 3, "steps": 3, "tool_calls": 2, "parse_rate": 0.5}
    assert row["calls"] == {"add_memory": {"attempted": 1, "ok": 1}, "delete_memory": {"attempted": 1, "ok": 0}}
    assert row["tool_success"] == 0.5
    assert row["stop_reason"] == "answered"
    assert (row["id"], row["gold"], row["prediction"]) == ("q1", "Lisbon", {"answer": "Lisbon"})
    terms = TrajectoryReward().terms(make_example(), trajectory)
    assert {name: row[name] for name in terms} == terms
    assert result.calls()["delete_memory"] == {"attempted": 1.0, "ok": 0.0}


@pytest.mark.parametrize("num_threads", [1, 4])
def test_rows_keep_the_order_of_the_data_whatever_the_threads(num_threads: int) -> None:
    seen: list[tuple[int, int]] = []
    program = Player({"question 2": "Porto"})
    result = evaluate(
        program, questions(8), TrajectoryReward(), num_threads=num_threads, progress=lambda *done: seen.append(done)
    )
    assert [row["id"] for row in result.rows] == [f"q{number}" for number in range(8)]
    assert [row["answer"] for row in result.rows] == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert sorted(program.played) == sorted(f"question {number}" for number in range(8))
    assert seen == [(number, 8) for number in range(1, 9)]


def test_threads_see_the_callers_dspy_context() -> None:
    predict = dspy.Predict("question -> answer")

    def program(**inputs: Any) -> Any:
        return predict(question=inputs["question"])

    with dspy.context(lm=DummyLM([{"answer": "Lisbon"}] * 4)):
        result = evaluate(program, questions(4), TrajectoryReward(), num_threads=4)
    assert result.mean("answer") == 1.0


def test_a_program_without_a_trajectory_gets_its_answer_scored() -> None:
    def program(**_: Any) -> dspy.Prediction:
        return dspy.Prediction(reasoning="it is", answer="Lisbon airport")

    result = evaluate(program, questions(2), TrajectoryReward())
    assert result.mean("answer") == pytest.approx(2 / 3)
    with pytest.raises(ConfigurationError, match="no term 'reward'; it has answer, seconds"):
        result.mean("reward")


def test_any_dspy_metric_will_do() -> None:
    def exact(example: Any, pred: Any, trace: Any = None) -> bool:
        return bool(pred.trajectory.answer["answer"] == example.answer)

    assert evaluate(Player({"question 0": "Porto"}), questions(2), exact).mean("reward") == 0.5


def test_further_scores_are_columns_of_the_answer_alone(tmp_path: Path) -> None:
    def length(example: Any, answer: str) -> float:
        return len(answer) / 10

    def judged(*replies: str) -> JudgedScore:
        return JudgedScore(LMJudge(JudgeAnswer, lm=DummyLM([{"score": reply} for reply in replies])))

    silent = make_trajectory(answer=None)
    program = Player({"question 0": "Porto"})
    scores = {"length": length, "judge": judged("0.25", "1")}
    result = evaluate(program, questions(2), TrajectoryReward(), scores=scores, log_dir=tmp_path)
    assert [(row["length"], row["judge"]) for row in result.rows] == [(0.5, 0.25), (0.6, 1.0)]
    unanswered = evaluate(
        lambda **_: dspy.Prediction(trajectory=silent), questions(1), TrajectoryReward(), scores=scores
    )
    assert (unanswered.mean("length"), unanswered.mean("judge")) == (0.0, 0.0)
    again = Player({})
    evaluate(again, questions(2), TrajectoryReward(), scores={**scores, "judge": judged("0")}, log_dir=tmp_path)
    assert again.played == []
    evaluate(again, questions(2), TrajectoryReward(), scores={"length": length}, log_dir=tmp_path)
    assert len(again.played) == 2
    with pytest.raises(RunError, match=r"question 'q0': RewardError: judge JudgeAnswer of dummy failed"):
        evaluate(again, questions(1), TrajectoryReward(), scores={"judge": judged("much")})


def test_kinds_of_questions_have_means_of_their_own() -> None:
    examples = [make_example(id=f"q{n}", question=f"question {n}", kind="ab"[n % 2]) for n in range(4)]
    result = evaluate(Player({"question 0": "Porto", "question 1": "Porto"}), examples, TrajectoryReward())
    assert {kind: (len(found.rows), found.mean("answer")) for kind, found in result.by_kind().items()} == {
        "a": (2, 0.5),
        "b": (2, 0.5),
    }
    kinds = result.summary()["kinds"]
    assert (kinds["b"]["n"], kinds["b"]["answer"]["mean"]) == (2, 0.5)
    console = Console(file=io.StringIO(), width=100)
    console.print(result.kinds_table(["answer"]))
    assert "0.500 [0.000, 1.000]" in console.file.getvalue()
    unkind = evaluate(Player({}), questions(2), TrajectoryReward())
    assert (unkind.by_kind(), unkind.kinds_table(["answer"])) == ({}, None)


def test_a_resumed_evaluation_plays_only_what_is_missing(tmp_path: Path) -> None:
    first, second = Player({}), Player({})
    evaluate(first, questions(2), TrajectoryReward(), log_dir=tmp_path)
    result = evaluate(second, questions(3), TrajectoryReward(), log_dir=tmp_path)
    assert second.played == ["question 2"]
    assert len(result.rows) == 3
    third = Player({})
    evaluate(third, questions(3), TrajectoryReward(), log_dir=tmp_path, resume=False)
    assert len(third.played) == 3
    assert len((tmp_path / "eval.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_another_configuration_is_played_again(tmp_path: Path) -> None:
    def play(program: Player, metric: TrajectoryReward, examples: list[dspy.Example]) -> int:
        evaluate(program, examples, metric, log_dir=tmp_path)
        return len(program.played)

    paper, answer_only = TrajectoryReward(), TrajectoryReward("answer_only")
    assert play(Player({}), paper, questions(1)) == 1
    assert play(Player({}), paper, questions(1)) == 0
    assert play(Player({}), answer_only, questions(1)) == 1
    assert play(Player({}, temperature=1.0), paper, questions(1)) == 1
    assert play(Player({}), paper, [make_example(id="q0", question="question 0", answer="Porto")]) == 1
    with dspy.context(lm=DummyLM([{"answer": "x"}])):
        assert play(Player({}), paper, questions(1)) == 1


def test_another_prompt_is_played_again_and_a_new_copy_of_the_same_is_not(tmp_path: Path) -> None:
    def play(instructions: str) -> str:
        program = dspy.Predict(dspy.Signature("question -> answer", instructions))
        with dspy.context(lm=DummyLM([{"answer": instructions}])):
            result = evaluate(program, [dspy.Example(question="q", answer="a").with_inputs("question")],
                              TrajectoryReward(), log_dir=tmp_path)  # fmt: skip
        return str(result.rows[0]["prediction"]["answer"])

    assert play("Be brief.") == "Be brief."
    assert play("Be long.") == "Be long."
    assert len((tmp_path / "eval.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    play("Be brief.")
    assert len((tmp_path / "eval.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_a_cut_last_line_is_played_again(tmp_path: Path) -> None:
    evaluate(Player({}), questions(3), TrajectoryReward(), log_dir=tmp_path)
    log = tmp_path / "eval.jsonl"
    log.write_bytes(log.read_bytes()[:-40])
    again = Player({})
    evaluate(again, questions(3), TrajectoryReward(), log_dir=tmp_path)
    assert again.played == ["question 2"]
    assert [json.loads(line)["id"] for line in log.read_text(encoding="utf-8").splitlines()] == ["q0", "q1", "q2"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    log = tmp_path / "eval.jsonl"
    log.write_text('{"id": "a"}\nnot json\n{"id": "b"}\n', encoding="utf-8")
    with pytest.raises(RunError, match=r"eval\.jsonl, line 2 is damaged"):
        evaluate(Player({}), questions(1), TrajectoryReward(), log_dir=tmp_path)
    assert log.read_text(encoding="utf-8").endswith('{"id": "b"}\n')


@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_program_that_raises_stops_the_run_and_keeps_what_was_played(tmp_path: Path, num_threads: int) -> None:
    program = Player({}, breaks_at="question 3")
    with pytest.raises(RunError, match=r"question 'q3': OSError: the model's server is gone.*kept in") as caught:
        evaluate(program, questions(40), TrajectoryReward(), num_threads=num_threads, log_dir=tmp_path)
    assert isinstance(caught.value.__cause__, OSError)
    kept = [json.loads(line)["id"] for line in (tmp_path / "eval.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"q0", "q1", "q2"} <= set(kept) if num_threads == 1 else "q3" not in kept
    resumed = Player({})
    assert len(evaluate(resumed, questions(40), TrajectoryReward(), log_dir=tmp_path).rows) == 40
    assert len(resumed.played) == 40 - len(kept)


def test_a_metric_that_raises_stops_the_run_with_its_name() -> None:
    def judge(**_: Any) -> float:
        raise TimeoutError("no judge")

    with pytest.raises(RunError, match=r"question 'q0': RewardError: .*answer_judge failed: TimeoutError"):
        evaluate(Player({}), questions(2), TrajectoryReward(answer_judge=judge))


def test_an_unwritable_folder_is_said_before_anything_is_played(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    program = Player({})
    with pytest.raises(RunError, match="choose another log_dir"):
        evaluate(program, questions(1), TrajectoryReward(), log_dir=blocked / "run")
    assert program.played == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunError, match="No space left on device"):
        evaluate(Player({}), questions(1), TrajectoryReward(), log_dir=tmp_path, resume=False)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        evaluate(Player({}), [], TrajectoryReward())
    with pytest.raises(DataError, match="share the id 'q1'"):
        evaluate(Player({}), [make_example(), make_example()], TrajectoryReward())
    with pytest.raises(ConfigurationError, match="num_threads is 0"):
        evaluate(Player({}), questions(1), TrajectoryReward(), num_threads=0)


def test_the_interval_agrees_with_scipy() -> None:
    # One end varies by 0.009 between two bootstraps of one sample; the mean over 12 samples by 0.003.
    # A 90 % interval would be off by 0.04.
    differences = []
    for seed in range(12):
        values = list(np.random.default_rng(seed).normal(size=60))
        theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4999, rng=seed)
        ours = Interval.of(values)
        assert ours.mean == pytest.approx(np.mean(values))
        low, high = theirs.confidence_interval
        differences.append((ours.low - low, ours.high - high))
    assert np.mean(differences, axis=0) == pytest.approx([0.0, 0.0], abs=0.012)


def test_the_same_values_give_the_same_interval() -> None:
    assert Interval.of([0.1, 0.7, 0.4]) == Interval.of([0.1, 0.7, 0.4])


def test_an_interval_without_spread_has_no_width() -> None:
    assert Interval.of([0.3]) == Interval(mean=0.3, low=0.3, high=0.3)
    assert Interval.of([0.5] * 9) == Interval(mean=0.5, low=0.5, high=0.5)
    with pytest.raises(ConfigurationError, match="at least one"):
        Interval.of([])


def test_a_paired_gain_is_narrower_than_the_noise_between_questions() -> None:
    ours = EvaluationResult(name="a", rows=tuple({"id": f"q{n}", "reward": n + 0.5 + n % 2 * 0.1} for n in range(20)))
    gain = ours.paired_gain(played_rows(20), "reward")
    assert gain.mean == pytest.approx(0.55)
    assert 0.5 < gain.low < gain.mean < gain.high < 0.6
    shuffled = EvaluationResult(name="b", rows=played_rows(20).rows[::-1])
    assert ours.paired_gain(shuffled, "reward") == gain
    with pytest.raises(ConfigurationError, match="do not share 2 questions"):
        ours.paired_gain(played_rows(18), "reward")


def test_the_test_of_a_gain_is_exact_for_few_questions_and_agrees_with_a_t_test_for_many() -> None:
    zero = EvaluationResult(name="0", rows=tuple({"id": f"q{n}", "reward": 0.0} for n in range(5)))
    ones = EvaluationResult(name="1", rows=tuple({"id": f"q{n}", "reward": 1.0} for n in range(5)))
    assert ones.paired_test(zero, "reward") == PairedTest(gain=Interval.of([1.0] * 5), p_value=2 / 2**5, n=5)
    assert zero.paired_test(zero, "reward").p_value == 1.0
    assert PairedTest.of([0.7]).p_value == 1.0
    for seed in range(5):
        values = list(np.random.default_rng(seed).normal(loc=0.25, size=80))
        assert PairedTest.of(values).p_value == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, abs=0.02)


def test_runs_are_pooled_by_question() -> None:
    first = [
        {"id": "a", "reward": 0.0, "kind": "k", "calls": {"add_memory": {"attempted": 2, "ok": 1}}},
        {"id": "b", "reward": 1.0, "parse_rate": 0.5},
    ]
    second = [{"id": "b", "reward": 0.0}, {"id": "a", "reward": 1.0, "calls": {}}]
    pooled = EvaluationResult.pooled("p", [EvaluationResult(name="1", rows=tuple(rows)) for rows in (first, second)])
    assert pooled.values("reward") == {"a": 0.5, "b": 0.5}
    assert pooled.values("parse_rate") == {"b": 0.5}  # where a run has it
    assert pooled.calls() == {"add_memory": {"attempted": 0.5, "ok": 0.25}}
    assert pooled.rows[0]["kind"] == "k"
    with pytest.raises(ConfigurationError, match="the runs of 'p' have different questions"):
        EvaluationResult.pooled("p", [played_rows(2), played_rows(3)])


def test_a_row_tells_what_was_stored_and_of_which_kind_the_question_is() -> None:
    (row,) = evaluate(Player({}), [make_example(kind="update")], TrajectoryReward()).rows
    assert row["memories"] == [memory.content for memory in honest_trajectory().memories]
    assert row["kind"] == "update"


def test_a_seed_gives_its_own_random_numbers_and_rows(tmp_path: Path) -> None:
    class Drawer(Player):
        def forward(self, **inputs: Any) -> dspy.Prediction:
            random = current_random()
            assert random is not None
            self.played.append(str(random.random()))
            return super().forward(**inputs)

    def drawn(seed: int, folder: Path | None = None) -> list[str]:
        program = Drawer({})
        evaluate(program, questions(2), TrajectoryReward(), seed=seed, log_dir=folder)
        return program.played[::2]

    assert drawn(0) == drawn(0) != drawn(1)
    assert len(drawn(1, tmp_path)) == 2
    assert drawn(1, tmp_path) == []  # read back
    assert len(drawn(2, tmp_path)) == 2


def test_the_summary_is_json_and_the_table_shows_it() -> None:
    result = evaluate(Player({"question 0": "Porto"}), questions(4), TrajectoryReward(), name="warm start")
    summary = json.loads(json.dumps(result.summary()))
    assert summary["n"] == 4
    assert summary["answer"]["mean"] == 0.75
    for term in ("reward", "storage", "memory_quality", "parse_rate", "tool_success", "prompt_tokens", "tool_calls"):
        assert set(summary[term]) == {"mean", "low", "high"}
    assert summary["seconds"]["low"] <= summary["seconds"]["mean"] <= summary["seconds"]["high"]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(result.table())
    assert "warm start (n = 4)" in (shown := console.export_text())
    assert "0.750" in shown
