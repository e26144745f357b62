"""The recipe by which the demo and the benchmarks compile a small model, and by which a tiny one is made first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import dspy
from pydantic import ConfigDict

from agemem_dspy.optimizers.agemem import AgeMemOptimizer
from agemem_dspy.optimizers.bootstrap import BootstrapToolDemos
from agemem_dspy.optimizers.demonstrator import Demonstrator
from agemem_dspy.optimizers.grpo import Credit
from agemem_dspy.optimizers.grpo_config import GRPOConfig
from agemem_dspy.optimizers.pretrain import pretrain_tiny
from agemem_dspy.optimizers.stepwise_grpo import StepwiseGRPO
from agemem_dspy.optimizers.training import TrainerConfig
from agemem_dspy.optimizers.warm_start import WarmStart
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import TrajectoryReward

OnStep = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is compiled: demonstrated episodes, a warm start on them, then GRPO, `threads` episodes at once.

    `mistakes` is the share of careless decisions in the demonstrations; `verbatim` ones store messages as they are.
    With `keep_demos` the demos of the prompt phase stay in the prompts, else the warm start drops them.
    With `pretrain_steps` a tiny model is made first, from demonstrations with `pretrain_mistakes`. GRPO samples at
    `temperature`. The defaults are those of SmolLM2-135M on two cores.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    pretrain_steps: int = 0
    pretrain_mistakes: float = 0.3
    warm_examples: int = 64
    mistakes: float = 0.0
    verbatim: bool = True
    keep_demos: bool = False
    warm_learning_rate: float = 1e-3
    max_steps: int = 7
    tasks_per_step: int = 4
    num_generations: int = 8
    temperature: float = 0.5
    credit: Credit = "stage"
    learning_rate: float = 1e-4
    beta: float = 0.0
    top_layers: int | None = 15
    threads: int = 32

    @classmethod
    def tiny(cls, **changes: Any) -> Self:
        """Return the recipe of a tiny model that is trained on the spot, with some values changed."""
        return cls(
            **{
                "pretrain_steps": 600,
                "pretrain_mistakes": 0.6,
                "mistakes": 0.3,
                "verbatim": False,
                "max_steps": 25,
                "tasks_per_step": 3,
                "temperature": 1.0,
                "credit": "broadcast",
                "learning_rate": 2e-3,
                "top_layers": None,
                **changes,
            }
        )

    def teacher(self, student: ThreeStageEpisode, seed: int) -> Demonstrator:
        """Return who plays the demonstrations for a student."""
        return Demonstrator(student, mistakes=self.mistakes, seed=seed, verbatim=self.verbatim)

    def pretrain(
        self,
        folder: Path,
        student: ThreeStageEpisode,
        examples: Sequence[dspy.Example],
        *,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Path:
        """Make the tiny model that plays the student, and return its folder."""
        return pretrain_tiny(
            folder,
            student,
            examples,
            steps=self.pretrain_steps,
            mistakes=self.pretrain_mistakes,
            seed=seed,
            on_step=on_step,
        )

    def optimizer(
        self,
        metric: TrajectoryReward,
        *,
        seed: int,
        phases: Sequence[str] | None = None,
        log_dir: Path | None = None,
        resume: bool = True,
        on_step: OnStep | None = None,
        on_phase: Callable[[str, dspy.Module], None] | None = None,
    ) -> AgeMemOptimizer:
        """Return the optimizer; what it takes is described at `AgeMemOptimizer`."""
        return AgeMemOptimizer(
            metric,
            phases=phases,
            prompts=BootstrapToolDemos(metric, seed=seed, num_threads=self.threads),
            warm_start=WarmStart(
                metric,
                threshold=-math.inf,
                max_examples=self.warm_examples,
                keep_demos=self.keep_demos,
                trainer=TrainerConfig(learning_rate=self.warm_learning_rate, top_layers=self.top_layers, seed=seed),
                seed=seed,
                on_step=on_step,
            ),
            grpo=StepwiseGRPO(
                metric,
                config=GRPOConfig(
                    num_generations=self.num_generations,
                    tasks_per_step=self.tasks_per_step,
                    max_steps=self.max_steps,
                    temperature=self.temperature,
                    credit=self.credit,
                    beta=self.beta,
                    num_threads=self.threads,
                    seed=seed,
                ),
                trainer=TrainerConfig(learning_rate=self.learning_rate, top_layers=self.top_layers, seed=seed),
                log_dir=log_dir,
                resume=resume,
                on_step=on_step,
            ),
            log_dir=log_dir,
            resume=resume,
            on_phase=on_phase,
        )
