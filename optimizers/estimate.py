"""What a compilation will cost: LM calls, tokens, minutes and memory, phase by phase."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dspy
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from agemem_dspy.optimizers.bootstrap import BootstrapToolDemos
from agemem_dspy.optimizers.demonstrator import Demonstrator
from agemem_dspy.optimizers.grpo_config import GRPOConfig
from agemem_dspy.optimizers.local import program_lm
from agemem_dspy.optimizers.rollouts import collect_groups, play
from agemem_dspy.optimizers.samples import completions
from agemem_dspy.optimizers.stepwise_grpo import StepwiseGRPO
from agemem_dspy.optimizers.supervised import shares
from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.optimizers.training import TrainerConfig, TRLConfig
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.optimizers.warm_start import WarmStart, render_step_sample
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import policy_engine
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import TrajectoryReward

_COUNTED = 8  # examples that are demonstrated to count an episode's calls and tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEstimate:
    """One phase, groups that tie and are played anew not counted.

    None where it cannot be known: another optimizer, the tokens and minutes of a remote LM, the minutes of TRL.
    """

    phase: str
    episodes: int | None = None
    lm_calls: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    minutes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A row for each phase, and the most memory that one task and one update needed (GiB), None for a remote LM."""

    phases: tuple[PhaseEstimate, ...]
    memory_gib: float | None

    def __str__(self) -> str:
        """Return the table to print."""
        table = Table("phase", box=SIMPLE_HEAD)
        columns = ("episodes", "lm_calls", "prompt_tokens", "completion_tokens", "minutes")
        for column in columns:
            table.add_column(column.replace("_", " "), justify="right")
        for row in self.phases:
            values = [getattr(row, column) for column in columns]
            table.add_row(row.phase, *("?" if v is None else f"{v:,.1f}" if v % 1 else f"{v:,.0f}" for v in values))
        console = Console(width=100, color_system=None)
        with console.capture() as captured:
            console.print(table)
        memory = "" if self.memory_gib is None else f"memory: {self.memory_gib:.1f} GiB\n"
        return captured.get() + memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """The mean episode: LM calls, tokens, and the seconds of playing it and of training on it."""

    calls: float
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    play_seconds: float | None = None
    train_seconds: float | None = None


def estimate(
    optimizers: Mapping[str, Any],
    student: ThreeStageEpisode,
    metric: TrajectoryReward,
    trainset: Sequence[dspy.Example],
    *,
    teacher: dspy.Module | None,
    validated: int,
) -> Estimate:
    """Return what the phases will cost.

    Args:
        optimizers: each phase's.
        teacher: as for `AgeMemOptimizer.compile`; an LM program's calls are counted, the `Demonstrator` makes none.
        validated: how many examples the validation set has.
    """
    engine = policy_engine(program_lm(student))
    episode = _episode(student, metric, trainset, engine, optimizers)
    taught = 0 if teacher is None or isinstance(teacher, Demonstrator) else 1
    rows = []
    for phase, optimizer in optimizers.items():
        if isinstance(optimizer, BootstrapToolDemos):
            rows.append(_row(phase, episode, 2 * validated + taught * min(optimizer.max_examples, len(trainset))))
        elif isinstance(optimizer, WarmStart):
            examples = min(optimizer.max_examples, len(trainset))
            rows.append(_row(phase, episode, taught * examples, trained=examples * optimizer.epochs))
        elif isinstance(optimizer, StepwiseGRPO):
            config = optimizer.config
            row = _grpo_row(phase, episode, config, validated, sum(row.minutes or 0.0 for row in rows))
            rows.append(replace(row, minutes=None) if isinstance(optimizer.trainer, TRLConfig) else row)
        else:
            rows.append(PhaseEstimate(phase=phase))
    return Estimate(phases=tuple(rows), memory_gib=None if engine is None else peak_memory_gib())


def _grpo_row(phase: str, episode: Episode, config: GRPOConfig, validated: int, before: float) -> PhaseEstimate:
    """Return a GRPO phase within its budgets, after so many minutes of other phases."""
    step = config.tasks_per_step * config.num_generations
    shared = validated / config.validate_every if config.validate_every else 0.0  # of a validation, by step
    first = validated if config.validate_every else 0
    steps = config.max_steps
    if config.max_metric_calls is not None:
        steps = min(steps, int((config.max_metric_calls - first) / (step + shared)))
    row = _row(phase, episode, round(first + steps * (step + shared)), trained=steps * step)
    if config.max_minutes is not None and row.minutes is not None and before + row.minutes > config.max_minutes:
        steps = max(1, round(steps * max(0.0, config.max_minutes - before) / row.minutes))
        row = _row(phase, episode, round(first + steps * (step + shared)), trained=steps * step)
    return row


def _row(phase: str, episode: Episode, played: int, *, trained: int = 0) -> PhaseEstimate:
    def times(value: float | None) -> int | None:
        return None if value is None else round(played * value)

    seconds = None
    if episode.play_seconds is not None and episode.train_seconds is not None:
        seconds = played * episode.play_seconds + trained * episode.train_seconds
    return PhaseEstimate(
        phase=phase,
        episodes=played,
        lm_calls=times(episode.calls),
        prompt_tokens=times(episode.prompt_tokens),
        completion_tokens=times(episode.completion_tokens),
        minutes=None if seconds is None else seconds / 60,
    )


def _episode(
    student: ThreeStageEpisode,
    metric: TrajectoryReward,
    trainset: Sequence[dspy.Example],
    engine: PolicyEngine | None,
    optimizers: Mapping[str, Any],
) -> Episode:
    """Count an episode on demonstrated examples; on a local policy also time one task and one update."""
    demonstrator = Demonstrator(student)
    shown = [play(demonstrator, example, metric) for example in trainset[:_COUNTED]]
    steps = [[step for step in one.trajectory.steps if step.kind == "act"] for one in shown]
    calls = statistics.fmean(len(own) for own in steps)
    if engine is None:
        return Episode(calls=calls)
    samples = [[render_step_sample(step, student, engine) for step in own] for own in steps]
    completion = statistics.fmean(sum(len(one.completion_ids) for one in own) for own in samples)
    configs = [one.trainer for one in optimizers.values() if isinstance(one, WarmStart | StepwiseGRPO)]
    return Episode(
        calls=calls,
        prompt_tokens=statistics.fmean(sum(len(one.prompt_ids) for one in own) for own in samples),
        completion_tokens=completion,
        play_seconds=completion * _seconds_a_token(student, metric, trainset[0]),
        train_seconds=_seconds_an_update(engine, configs[-1], samples) / len(samples) if configs else 0.0,
    )


def _seconds_a_token(student: ThreeStageEpisode, metric: TrajectoryReward, example: dspy.Example) -> float:
    """Play one task as GRPO does; return the seconds for each sampled token."""
    config = GRPOConfig()
    started = time.perf_counter()
    (group,) = collect_groups(
        student,
        [example],
        metric,
        num_generations=config.num_generations,
        temperature=config.temperature,
        num_threads=config.num_threads,
        entropy=(config.seed,),
    )
    seconds = time.perf_counter() - started
    return seconds / sum(len(one.completion_ids) for taped in completions(group) for _, one in taped)


def _seconds_an_update(engine: PolicyEngine, config: TrainerConfig, samples: Sequence[Sequence[Sample]]) -> float:
    trainer = PolicyTrainer(engine, config)
    started = time.perf_counter()
    trainer.imitate(shares(samples))
    return time.perf_counter() - started


def peak_memory_gib() -> float:
    """Return the most memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
