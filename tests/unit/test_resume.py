"""A compilation that was stopped goes on, and ends where it would have ended."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import dspy
import pytest
import torch
from fakes import scripted_lm
from tiny_episodes import TRAINER, TRAINSET, TokenReward, folder, sha, student

from agemem_dspy.errors import RunError
from agemem_dspy.optimizers import (
    AgeMemOptimizer,
    BootstrapToolDemos,
    GRPOConfig,
    StepwiseGRPO,
    WarmStart,
)
from agemem_dspy.optimizers.resume import PhaseState, digest_of, drop_lines_after
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.programs.judges import JudgeAnswer, LMJudge

__all__ = ["folder"]  # a fixture


class Stopped(Exception):
    """What a test stops a run with, in place of a power cut."""


def stop_at(step: int, lines: list[dict[str, Any]]) -> Any:
    def on_step(line: dict[str, Any]) -> None:
        lines.append(line)
        if line["phase"] == "grpo" and line["step"] == step:
            raise Stopped

    return on_step


SMALL: dict[str, Any] = {"max_steps": 4, "num_generations": 2, "tasks_per_step": 1, "num_threads": 1, "beta": 0.1}


def grpo(log_dir: Path | None, lines: list[dict[str, Any]], *, stop: int = 0, **changes: Any) -> StepwiseGRPO:
    return StepwiseGRPO(
        TokenReward(),
        config=GRPOConfig(**{**SMALL, **changes}),
        trainer=TRAINER,
        log_dir=log_dir,
        on_step=stop_at(stop, lines),
    )


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("stop", "options"), [(1, {}), (3, {}), (3, {"max_minutes": 60})])
def test_grpo_goes_on_from_its_last_whole_step(
    folder: Path, tmp_path: Path, stop: int, options: dict[str, Any]
) -> None:
    whole: list[dict[str, Any]] = []
    expected = sha(grpo(None, whole, **options).compile(student(folder), trainset=TRAINSET))
    first: list[dict[str, Any]] = []
    with pytest.raises(Stopped):
        grpo(tmp_path, first, stop=stop, **options).compile(student(folder), trainset=TRAINSET)
    rest: list[dict[str, Any]] = []
    result = grpo(tmp_path, rest, **options).compile(student(folder), trainset=TRAINSET)
    assert sha(result) == expected
    assert [line["step"] for line in rest] == list(range(stop, 5))  # the step that was being reported is played again
    assert steps(tmp_path) == [1, 2, 3, 4]
    assert rest[-1]["reward"] == whole[-1]["reward"]
    again: list[dict[str, Any]] = []
    assert sha(grpo(tmp_path, again, **options).compile(student(folder), trainset=TRAINSET)) == expected
    assert again == []


def test_the_best_on_validation_survives(folder: Path, tmp_path: Path) -> None:
    options = {"validate_every": 1, "patience": 4}
    whole: list[dict[str, Any]] = []
    expected = sha(grpo(None, whole, **options).compile(student(folder), trainset=TRAINSET[:2], valset=TRAINSET[2:]))
    with pytest.raises(Stopped):
        grpo(tmp_path, [], stop=3, **options).compile(student(folder), trainset=TRAINSET[:2], valset=TRAINSET[2:])
    rest: list[dict[str, Any]] = []
    result = grpo(tmp_path, rest, **options).compile(student(folder), trainset=TRAINSET[:2], valset=TRAINSET[2:])
    assert sha(result) == expected
    assert [line["validation"] for line in rest] == [line["validation"] for line in whole[2:]]


def test_a_budget_of_minutes_counts_what_was_played_before(folder: Path, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    first = sha(grpo(tmp_path, lines, max_minutes=1e-6).compile(student(folder), trainset=TRAINSET))
    assert [line["step"] for line in lines] == [1]
    assert sha(grpo(tmp_path, lines, max_minutes=1e-6).compile(student(folder), trainset=TRAINSET)) == first
    assert len(lines) == 1


def test_other_settings_are_refused_by_name_and_may_start_anew(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        grpo(tmp_path, [], stop=2).compile(student(folder), trainset=TRAINSET)
    with pytest.raises(RunError, match=r"other settings: config.max_steps was 4, is 2; trainset was .*resume=False"):
        grpo(tmp_path, [], max_steps=2).compile(student(folder), trainset=TRAINSET[:1])
    lines: list[dict[str, Any]] = []
    anew = grpo(tmp_path, lines, max_steps=2)
    anew.resume = False
    anew.compile(student(folder), trainset=TRAINSET[:1])
    assert [line["step"] for line in lines] == steps(tmp_path) == [1, 2]


def composite(
    folder: Path,
    log_dir: Path | None,
    lines: list[dict[str, Any]],
    *,
    stop: int = 0,
    resume: bool = True,
    seed: int = 0,
) -> ThreeStageEpisode:
    metric = TokenReward()
    optimizer = AgeMemOptimizer(
        metric,
        prompts=BootstrapToolDemos(metric, threshold=-10.0, max_demos=1, num_threads=1),
        warm_start=WarmStart(
            metric, threshold=-10.0, trainer=TRAINER, batch_size=2, num_threads=1, seed=seed, on_step=lines.append
        ),
        grpo=StepwiseGRPO(
            metric,
            config=GRPOConfig(**SMALL),
            trainer=TRAINER,
            log_dir=log_dir,
            resume=resume,
            on_step=stop_at(stop, lines),
        ),
        log_dir=log_dir,
        resume=resume,
        on_phase=lambda name, program: lines.append({"phase": name, "step": -1}),
    )
    return optimizer.compile(student(folder), trainset=TRAINSET)


def test_finished_phases_are_read_back(folder: Path, tmp_path: Path) -> None:
    expected = sha(composite(folder, None, []))
    with pytest.raises(Stopped):
        composite(folder, tmp_path, [], stop=2)
    lines: list[dict[str, Any]] = []
    result = composite(folder, tmp_path, lines)
    assert sha(result) == expected
    assert [(line["phase"], line["step"]) for line in lines] == [
        ("prompts", -1), ("warm_start", -1), ("grpo", 2), ("grpo", 3), ("grpo", 4), ("grpo", -1),
    ]  # fmt: skip


def test_a_threshold_of_minus_infinity_is_written_down(folder: Path, tmp_path: Path) -> None:
    """It is no JSON number, and a manifest holds no other."""
    metric = TokenReward()
    warm = WarmStart(metric, threshold=-math.inf, trainer=TRAINER, num_threads=1)
    optimizer = AgeMemOptimizer(metric, phases=("warm_start",), warm_start=warm, log_dir=tmp_path)
    optimizer.compile(student(folder), trainset=TRAINSET)
    manifest = json.loads((tmp_path / "warm_start" / "manifest.json").read_text())
    assert manifest["settings"]["optimizer"]["threshold"] == "-inf"
    assert manifest["settings"]["optimizer"]["trainer"]["learning_rate"] == TRAINER.learning_rate


def test_a_judged_reward_saves_its_phases_without_the_judge(folder: Path, tmp_path: Path) -> None:
    def compiled() -> ThreeStageEpisode:
        judge = LMJudge(JudgeAnswer, lm=scripted_lm([]))
        metric = TokenReward(answer_judge=judge)
        phase = WarmStart(metric, threshold=-math.inf, trainer=TRAINER, num_threads=1)
        optimizer = AgeMemOptimizer(metric, phases=("warm_start",), warm_start=phase, log_dir=tmp_path)
        return optimizer.compile(student(folder), trainset=TRAINSET)

    first = sha(compiled())
    assert not (tmp_path / "warm_start" / "reward.json").exists()
    assert sha(compiled()) == first  # read back


def test_what_another_run_left_behind_is_not_read_back(folder: Path, tmp_path: Path) -> None:
    """A run that started anew and was stopped has settings of its own beside the former run's programs."""
    composite(folder, tmp_path, [])
    expected = sha(composite(folder, None, [], seed=7))
    with pytest.raises(Stopped):
        composite(folder, tmp_path, [], stop=2, resume=False, seed=7)
    assert sha(composite(folder, tmp_path, [], seed=7)) == expected


def test_a_run_that_began_anew_and_was_stopped_before_grpo_goes_on(folder: Path, tmp_path: Path) -> None:
    composite(folder, tmp_path, [])
    expected = sha(composite(folder, None, [], seed=7))

    class Stopping(list[Any]):
        def append(self, line: Any) -> None:
            raise Stopped

    with pytest.raises(Stopped):
        composite(folder, tmp_path, Stopping(), resume=False, seed=7)
    assert sha(composite(folder, tmp_path, [], seed=7)) == expected


def test_a_damaged_state_is_an_error_that_says_what_to_remove(tmp_path: Path) -> None:
    state = PhaseState(tmp_path, "grpo", {"a": 1})
    assert state.load() is None
    state.save({"x": torch.ones(2)}, {"done": 1})
    found = PhaseState(tmp_path, "grpo", {"a": 1}).load()
    assert found is not None
    assert (found[0]["x"].tolist(), found[1]) == ([1.0, 1.0], {"done": 1})
    (tmp_path / "grpo.state").write_bytes(b"half a file")
    with pytest.raises(RunError, match="grpo.state is damaged .*; remove it"):
        PhaseState(tmp_path, "grpo", {"a": 1}).load()
    (tmp_path / "grpo.settings.json").write_text("{")
    with pytest.raises(RunError, match=r"grpo.settings.json is damaged"):
        PhaseState(tmp_path, "grpo", {"a": 1})


def test_lines_of_steps_that_are_played_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"phase": "warm_start", "step": 9}, {"phase": "grpo", "step": 1}, {"phase": "grpo", "step": 2}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"phase": "gr')
    drop_lines_after(path, "grpo", 1)
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows[:2]


def test_a_digest_tells_what_a_program_is_and_not_which(folder: Path) -> None:
    one, other = student(folder), student(folder)
    assert digest_of(one) == digest_of(other)
    other.agent.step.demos = [dspy.Example(context="x", answer="y")]
    assert digest_of(one) != digest_of(other)
    other = student(folder)
    other.agent.max_rounds += 1
    assert digest_of(one) != digest_of(other)
    assert digest_of(TRAINSET) == digest_of([example.copy() for example in TRAINSET]) != digest_of(TRAINSET[:2])
