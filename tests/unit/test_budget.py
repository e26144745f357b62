"""What a compilation may cost is kept to, and what it will cost is said before."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback
from fakes import scripted_lm
from tiny_episodes import TRAINER, TRAINSET, TokenReward, folder, sha, student

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers import (
    AgeMemOptimizer,
    BootstrapToolDemos,
    GRPOConfig,
    StepwiseGRPO,
    TRLConfig,
    WarmStart,
)
from agemem_dspy.optimizers.agemem import PHASES
from agemem_dspy.optimizers.budget import AUTO, Budget
from agemem_dspy.optimizers.step_rollouts import Tasks
from agemem_dspy.optimizers.training import rate_at
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.episode import ThreeStageEpisode

__all__ = ["folder"]  # a fixture
SMALL: dict[str, Any] = {"num_generations": 2, "tasks_per_step": 1, "num_threads": 1}


def test_budgets_say_how_much_is_demonstrated_and_how_long_grpo_runs() -> None:
    assert Budget() != Budget(auto="light")
    for auto, (examples, steps) in {**AUTO, None: AUTO["light"]}.items():
        budget = Budget(auto=auto)  # type: ignore[arg-type]
        assert (budget.examples, budget.grpo(spent=0).max_steps) == (examples, steps)
    assert Budget(max_steps=3).grpo(spent=99).max_steps == 3
    assert Budget(max_minutes=2.5).grpo(spent=99).max_minutes == 2.5
    calls = Budget(max_metric_calls=100)
    assert calls.examples == 12
    grpo = calls.grpo(spent=24)
    assert (grpo.max_steps, grpo.max_metric_calls) == (4, 76)
    assert Budget(max_metric_calls=10_000).examples == 32


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"auto": "light", "max_steps": 2}, "one budget, not auto and max_steps"),
        ({"auto": "huge"}, "auto must be one of light, medium, heavy"),
        ({"max_minutes": 0}, "max_minutes must be above 0"),
        ({"max_steps": -1}, "max_steps must be above 0"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        AgeMemOptimizer(TokenReward(), **given)


def test_too_small_a_budget_says_what_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="leaves 8 for GRPO, of which one step plays 16; give at least 28"):
        Budget(max_metric_calls=20).grpo(spent=12)


def test_phases_that_cost_more_than_the_budget_are_refused() -> None:
    optimizer = AgeMemOptimizer(TokenReward(), phases=("prompts",), max_metric_calls=40)
    with pytest.raises(ConfigurationError, match=r"less than the 205 trajectories that the phases prompts score"):
        optimizer.planned(("prompts",), train=9, val=100)
    assert optimizer.planned(("prompts",), train=9, val=10)


def test_what_would_have_no_effect_is_refused() -> None:
    metric = TokenReward()
    for name in ("max_steps", "max_minutes"):
        with pytest.raises(ConfigurationError, match=f"{name} bounds GRPO, which is not among the phases"):
            AgeMemOptimizer(metric, **{name: 3}).planned(("prompts",), train=1, val=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="give this grpo its own"):
        AgeMemOptimizer(metric, auto="heavy", grpo=StepwiseGRPO(metric))
    with pytest.raises(ConfigurationError, match="demos is for the default warm start"):
        AgeMemOptimizer(metric, demos="keep", warm_start=WarmStart(metric))
    with pytest.raises(ConfigurationError, match="demos is for the default warm start"):
        AgeMemOptimizer(metric, demos="keep", phases=("prompts", "grpo"))
    with pytest.raises(ConfigurationError, match="'distill' or 'keep', not 'drop'"):
        AgeMemOptimizer(metric, demos="drop")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="max_metric_calls is 3, and one step plays 4"):
        GRPOConfig(num_generations=2, tasks_per_step=2, max_metric_calls=3)


def test_demos_are_kept_where_that_is_asked_for() -> None:
    for demos in ("keep", "distill", None):
        (warm,) = AgeMemOptimizer(TokenReward(), demos=demos).planned(["warm_start"], train=1, val=0).values()  # type: ignore[arg-type]
        assert isinstance(warm, WarmStart)
        assert warm.keep_demos == (demos == "keep")


class CountingReward(TokenReward):
    """Counts what it scores."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def terms(self, example: Any, trajectory: Any) -> dict[str, float]:
        self.calls.append(str(example.get("id")))
        return super().terms(example, trajectory)


@pytest.mark.parametrize(
    ("most", "steps", "options"),
    [
        (7, 3, {}),
        (7, 2, {"validate_every": 1}),  # 1 + 2 + 1 + 2 + 1
        (6, 1, {"validate_every": 1}),
        (7, 3, {"overlap": True}),
        (8, 4, {"overlap": True, "resample": 0}),
    ],
)
def test_no_more_is_scored_than_max_metric_calls(folder: Path, most: int, steps: int, options: dict[str, Any]) -> None:
    metric, lines = CountingReward(), list[dict[str, Any]]()
    config = GRPOConfig(max_steps=9, max_metric_calls=most, **SMALL, **options)
    grpo = StepwiseGRPO(metric, config=config, trainer=TRAINER, on_step=lines.append)
    grpo.compile(student(folder), trainset=TRAINSET, valset=TRAINSET[:1])
    assert len(metric.calls) <= most
    assert len(lines) == steps


def test_a_validation_that_leaves_no_step_is_refused(folder: Path) -> None:
    config = GRPOConfig(max_metric_calls=4, validate_every=1, **SMALL)
    with pytest.raises(ConfigurationError, match="does not cover .* 8 trajectories together"):
        StepwiseGRPO(TokenReward(), config=config).compile(student(folder), trainset=TRAINSET, valset=TRAINSET)


def test_minutes_of_the_phases_before_count(folder: Path) -> None:
    lines: list[dict[str, Any]] = []
    config = GRPOConfig(max_steps=4, max_minutes=10, **SMALL)
    grpo = StepwiseGRPO(TokenReward(), config=config, trainer=TRAINER, on_step=lines.append)
    grpo.compile(student(folder), trainset=TRAINSET, seconds_before=600)
    assert [line["step"] for line in lines] == [1]


def test_under_max_minutes_the_weights_hang_neither_on_the_clock_nor_on_max_steps(folder: Path) -> None:
    def models(**options: Any) -> list[str]:
        """Return the weights after each step, which are named by what they are."""
        lines: list[dict[str, Any]] = []
        config = GRPOConfig(**SMALL, **options)
        grpo = StepwiseGRPO(TokenReward(), config=config, trainer=TRAINER, on_step=lines.append)
        grpo.compile(student(folder), trainset=TRAINSET)
        return [line["model"] for line in lines]

    short, long, laid_out = (
        models(max_minutes=60, max_steps=3),
        models(max_minutes=99, max_steps=4),
        models(max_steps=3),
    )
    assert long[:3] == short
    assert laid_out[0] == short[0]
    assert laid_out[2] != short[2]


def test_the_course_of_the_learning_rate() -> None:
    assert [rate_at(step, None) for step in (0, 1, 2, 3, 500)] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])
    assert [rate_at(step, 10) for step in (0, 1, 2, 9)] == pytest.approx([1 / 3, 2 / 3, 0.82, 0.19])


# As other DSPy optimizers


class Compilations(BaseCallback):
    """Notes what is compiled."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended = 0

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.begun.append(type(instance).__name__)

    def on_compile_end(self, call_id: str, outputs: Any | None, exception: Exception | None = None) -> None:
        self.ended += exception is None


def test_callbacks_stats_seed_and_threads(folder: Path) -> None:
    seen = Compilations()
    lines: list[dict[str, Any]] = []
    options: dict[str, Any] = {"max_steps": 1, "num_threads": 1, "track_stats": True}
    with dspy.context(callbacks=[seen]):
        optimizer = AgeMemOptimizer(TokenReward(), phases=("grpo",), seed=3, on_step=lines.append, **options)
        program = optimizer.compile(student(folder), trainset=TRAINSET)
    assert seen.begun == ["AgeMemOptimizer", "StepwiseGRPO"]
    assert seen.ended == 2
    assert program.detailed_results == {"grpo": lines}
    assert [line["step"] for line in lines] == [1]
    again = AgeMemOptimizer(TokenReward(), phases=("grpo",), seed=3, **options)
    assert sha(again.compile(student(folder), trainset=TRAINSET)) == sha(program)
    other = AgeMemOptimizer(TokenReward(), phases=("grpo",), seed=4, **options)
    assert sha(other.compile(student(folder), trainset=TRAINSET)) != sha(program)


def test_the_seed_reaches_every_default_phase() -> None:
    planned = AgeMemOptimizer(TokenReward(), seed=5, num_threads=2).planned(PHASES, train=9, val=0)
    prompts, warm, grpo = planned.values()
    assert isinstance(prompts, BootstrapToolDemos)
    assert isinstance(warm, WarmStart)
    assert isinstance(grpo, StepwiseGRPO)
    assert (prompts.seed, warm.seed, warm.trainer.seed, grpo.config.seed, grpo.trainer.seed) == (5, 5, 5, 5, 5)
    assert (prompts.num_threads, warm.num_threads, grpo.config.num_threads) == (2, 2, 2)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"stage_steps": (1, 1, 1)}, "needs curriculum='progressive'"),
        ({"curriculum": "progressive", "max_steps": 6, "stage_steps": (1, 2, 2)}, "sum to max_steps=6"),
    ],
)
def test_stage_steps_that_cannot_be_played_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        GRPOConfig(**given)


def test_stage_steps_lay_out_the_curriculum() -> None:
    config = GRPOConfig(curriculum="progressive", max_steps=6, stage_steps=(1, 2, 3))
    assert [config.stages_at(step) for step in range(6)] == [1, 2, 2, 3, 3, 3]
    thirds = GRPOConfig(curriculum="progressive", max_steps=6)
    assert [thirds.stages_at(step) for step in range(6)] == [1, 1, 2, 2, 3, 3]
    assert GRPOConfig().stages_at(0) == 3


# Ctrl-C


def pressed_at(step: int, lines: list[dict[str, Any]]) -> Any:
    def on_step(line: dict[str, Any]) -> None:
        lines.append(line)
        if line["phase"] == "grpo" and line["step"] == step:
            raise KeyboardInterrupt

    return on_step


def test_ctrl_c_returns_the_best_so_far_and_the_run_can_go_on(folder: Path, tmp_path: Path) -> None:
    def grpo(log_dir: Path | None, on_step: Any = None) -> StepwiseGRPO:
        config = GRPOConfig(max_steps=4, **SMALL)
        return StepwiseGRPO(TokenReward(), config=config, trainer=TRAINER, log_dir=log_dir, on_step=on_step)

    expected = sha(grpo(None).compile(student(folder), trainset=TRAINSET))
    lines: list[dict[str, Any]] = []
    stopped = grpo(tmp_path, pressed_at(2, lines))
    best = stopped.compile(student(folder), trainset=TRAINSET)
    assert stopped.interrupted
    assert best.get_lm().model == lines[1]["model"]
    again = grpo(tmp_path)
    assert sha(again.compile(student(folder), trainset=TRAINSET)) == expected
    assert not again.interrupted


def test_ctrl_c_in_a_phase_returns_what_there_is(folder: Path, tmp_path: Path) -> None:
    metric = TokenReward()

    def optimizer(log_dir: Path, on_step: Any) -> AgeMemOptimizer:
        return AgeMemOptimizer(
            metric,
            prompts=BootstrapToolDemos(metric, threshold=-10.0, max_demos=1, num_threads=1),
            warm_start=WarmStart(metric, threshold=-10.0, trainer=TRAINER, num_threads=1, on_step=on_step),
            grpo=StepwiseGRPO(
                metric,
                config=GRPOConfig(max_steps=3, **SMALL),
                trainer=TRAINER,
                log_dir=log_dir,
                on_step=on_step,
            ),
            log_dir=log_dir,
        )

    def press(line: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    early = optimizer(tmp_path / "a", press)
    program = early.compile(student(folder), trainset=TRAINSET)
    assert early.interrupted == "warm_start"
    assert list(early.programs) == ["prompts"]
    assert program.agent.step.demos

    lines: list[dict[str, Any]] = []
    late = optimizer(tmp_path / "b", pressed_at(1, lines))
    program = late.compile(student(folder), trainset=TRAINSET)
    assert late.interrupted == "grpo"
    assert program.get_lm().model == lines[-1]["model"]
    assert (tmp_path / "b" / "grpo" / "program.json").is_file()
    rest: list[dict[str, Any]] = []
    finished = optimizer(tmp_path / "b", rest.append)
    finished.compile(student(folder), trainset=TRAINSET)
    assert finished.interrupted is None
    assert [(line["phase"], line["step"]) for line in rest] == [("grpo", 1), ("grpo", 2), ("grpo", 3)]


# Estimates


def test_an_estimate_counts_what_is_played(folder: Path) -> None:
    metric = CountingReward()
    optimizer = AgeMemOptimizer(metric, max_steps=2)
    program = student(folder)
    found = optimizer.estimate(program, trainset=TRAINSET, valset=TRAINSET[:1])
    prompts, warm, grpo = found.phases
    assert (prompts.episodes, warm.episodes, grpo.episodes) == (2, 0, 32)
    assert (prompts.lm_calls, warm.lm_calls, grpo.lm_calls) == (8, 0, 128)  # add, filter, retrieve, answer
    assert grpo.prompt_tokens
    assert grpo.completion_tokens
    assert grpo.minutes
    assert warm.minutes
    assert grpo.minutes > warm.minutes
    assert found.memory_gib
    assert 0.1 < found.memory_gib < 20
    text = str(found)
    assert "128" in text
    assert f"memory: {found.memory_gib:.1f} GiB" in text
    assert len(metric.calls) == len(TRAINSET) + 8  # demonstrated, and one task in K trajectories
    assert program.get_lm().model == "local/tiny"
    assert not program.get_lm().engine.versions


def test_a_configured_local_policy_is_trained_and_estimated_as_the_programs_own(folder: Path) -> None:
    config = GRPOConfig(max_steps=1, **SMALL)
    own, configured = student(folder), student(folder)
    expected = StepwiseGRPO(TokenReward(), config=config, trainer=TRAINER).compile(own, trainset=TRAINSET)
    lm = configured.get_lm()
    configured.set_lm(None)
    with dspy.context(lm=lm):
        trained = StepwiseGRPO(TokenReward(), config=config, trainer=TRAINER).compile(configured, trainset=TRAINSET)
        grpo = StepwiseGRPO(TokenReward(), config=config, trainer=TRAINER)
        optimizer = AgeMemOptimizer(TokenReward(), phases=("grpo",), grpo=grpo)
        assert optimizer.estimate(configured, trainset=TRAINSET).phases[0].minutes
    assert sha(trained) == sha(expected)


def test_an_estimate_keeps_to_the_budget(folder: Path) -> None:
    def grpo(**budget: Any) -> Any:
        optimizer = AgeMemOptimizer(TokenReward(), phases=("grpo",), **budget)
        return optimizer.estimate(student(folder), trainset=TRAINSET).phases[0]

    assert grpo(max_metric_calls=40).episodes == 32
    short = grpo(max_minutes=0.05)
    assert short.episodes < 3200
    assert short.minutes < 1


def test_an_estimate_for_a_remote_lm_plays_nothing() -> None:
    program = ThreeStageEpisode(AgeMemAgent("question -> answer", adapter=CompactAdapter()))
    lm = scripted_lm([])
    program.set_lm(lm)
    found = AgeMemOptimizer(TokenReward()).estimate(program, trainset=TRAINSET, valset=TRAINSET[:2])
    (prompts,) = found.phases
    assert (prompts.episodes, prompts.lm_calls, prompts.minutes, found.memory_gib) == (4, 16, None, None)
    assert "?" in str(found)


def test_an_estimate_says_what_it_cannot_know(folder: Path) -> None:
    metric = TokenReward()
    optimizer = AgeMemOptimizer(
        metric,
        prompts=dspy.BootstrapFewShot(metric=metric),
        warm_start=WarmStart(metric, max_examples=2, epochs=3),
        grpo=StepwiseGRPO(metric, trainer=TRLConfig(), config=GRPOConfig(max_steps=1, **SMALL)),
    )
    prompts, warm, grpo = optimizer.estimate(student(folder), trainset=TRAINSET, teacher=student(folder)).phases
    assert (prompts.lm_calls, grpo.minutes) == (None, None)
    assert (warm.episodes, grpo.episodes) == (2, 2)  # a teacher that is a program plays


def test_the_default_phases_take_the_budget(folder: Path, tmp_path: Path) -> None:
    metric = CountingReward()
    optimizer = AgeMemOptimizer(metric, phases=("warm_start", "grpo"), max_metric_calls=24, log_dir=tmp_path)
    warm, grpo = optimizer.planned(optimizer.chosen_phases(student(folder)), train=3, val=0).values()
    assert isinstance(warm, WarmStart)
    assert isinstance(grpo, StepwiseGRPO)
    assert (warm.max_examples, grpo.config.max_steps, grpo.config.max_metric_calls) == (3, 1, 21)
    warm.threshold = -10.0
    optimizer.given["warm_start"] = warm
    optimizer.compile(student(folder), trainset=TRAINSET)
    assert len(metric.calls) == 3 + 16
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["steps"] == 1


# Rollouts ahead of the update


def test_overlapping_steps_are_played_with_the_weights_before(folder: Path) -> None:
    lines: list[dict[str, Any]] = []
    metric = CountingReward()
    config = GRPOConfig(max_steps=4, overlap=True, clip=None, resample=0, **SMALL)
    grpo = StepwiseGRPO(metric, config=config, trainer=TRAINER, on_step=lines.append)
    grpo.compile(student(folder), trainset=TRAINSET)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["ratio"] == pytest.approx(1.0, abs=1e-4)
    assert all(abs(line["ratio"] - 1.0) > 1e-4 for line in lines[1:])
    assert len(metric.calls) == 8  # no step is played for nothing
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rollouts")]


def test_a_stopped_run_that_overlaps_skips_no_task(folder: Path, tmp_path: Path) -> None:
    def grpo(lines: list[dict[str, Any]], on_step: Any) -> tuple[StepwiseGRPO, CountingReward]:
        metric = CountingReward()
        config = GRPOConfig(max_steps=3, overlap=True, resample=0, **SMALL)
        return StepwiseGRPO(metric, config=config, trainer=TRAINER, log_dir=tmp_path, on_step=on_step), metric

    stopped, _ = grpo([], pressed_at(2, []))
    stopped.compile(student(folder), trainset=TRAINSET)
    again, metric = grpo([], None)
    again.compile(student(folder), trainset=TRAINSET)
    whole = GRPOConfig(max_steps=3, **SMALL)
    order = [one.id for one in Tasks(TRAINSET, whole.seed).take(3)]
    assert metric.calls == [order[1], order[1], order[2], order[2]]  # step 2 was cut off while it was reported
