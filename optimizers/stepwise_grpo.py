"""StepwiseGRPO: the optimizer that sharpens a local policy by three-stage step-wise GRPO (AgeMem, section 5)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dspy
from dspy.teleprompt import Teleprompter

from agemem_dspy.errors import ConfigurationError, RunError
from agemem_dspy.optimizers import processes
from agemem_dspy.optimizers.grpo_config import GRPOConfig
from agemem_dspy.optimizers.grpo_run import GRPORun
from agemem_dspy.optimizers.local import local_policy
from agemem_dspy.optimizers.resume import PhaseState, digest_of, drop_lines_after
from agemem_dspy.optimizers.tracking import Tracked, log_step
from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.optimizers.training import GRPOBackend, TrainerConfig, TRLConfig
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import TrajectoryReward

logger = logging.getLogger(__name__)


class StepwiseGRPO(Tracked, Teleprompter):
    """Compile a program's decisions into LoRA weights.

    Each step plays `tasks_per_step` tasks `num_generations` times, gives every LM call of a trajectory, in all
    three stages, an advantage within its group (see `GRPOConfig.credit`), and takes one optimizer step. The learning
    rate rises for three steps and then falls linearly to a tenth, or stays where `max_minutes` may end the run.

    Args:
        metric: the reward; the same object that scores prompts.
        config: see `GRPOConfig`.
        trainer: how weights are trained: a `TrainerConfig`, or a `TRLConfig` to train with TRL.
        log_dir: where `metrics.jsonl` gets a line a step, and the state is kept: a run that was stopped, whatever
            stopped it, goes on from its last whole step when it is compiled again. (TRL keeps states of its own.)
        resume: False starts anew in a log_dir that has a state.
        on_step: called with that line.
    """

    def __init__(
        self,
        metric: TrajectoryReward,
        *,
        config: GRPOConfig | None = None,
        trainer: TrainerConfig | None = None,
        log_dir: str | Path | None = None,
        resume: bool = True,
        on_step: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        super().__init__()
        self.metric = metric
        self.resume, self.interrupted = resume, False
        self.config = config or GRPOConfig()
        self.trainer = trainer or TrainerConfig()
        if isinstance(self.trainer, TRLConfig) and self.config.scale != "token":
            raise ConfigurationError(
                f"scale={self.config.scale!r} has no effect in TRL, whose loss_type decides what weighs equally"
            )
        self.log_dir = Path(log_dir) if log_dir is not None else None
        self.on_step = on_step

    def compile(
        self,
        student: ThreeStageEpisode,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
        seconds_before: float = 0.0,
        **options: Any,
    ) -> ThreeStageEpisode:
        """Return a copy of the student served by newly trained weights; the student is not changed.

        Ctrl-C ends the run and returns the best policy so far; `interrupted` then tells so.

        Args:
            teacher: accepted for DSPy's interface; GRPO learns from its own rollouts alone.
            valset: held-out examples for `validate_every`.
            seconds_before: what `max_minutes` counts beside this run.

        Raises:
            ConfigurationError: an empty training set, `validate_every` without a validation set, an unknown option, or
                an LM that is not a local policy.
            TrainingError: nothing could be learnt from the first steps; says what may help.
            RewardError: a reward term raised; nothing is turned into a zero.
            RunError: `log_dir` cannot be written, or holds a run with other settings, which are named.
        """
        self.interrupted = False
        if options:
            raise ConfigurationError(f"StepwiseGRPO.compile does not know the option {sorted(options)[0]!r}")
        self._check(len(trainset), len(valset or ()))
        lm, engine = local_policy(student)
        self.log_params()
        self._log("")  # a folder that cannot be written is found before anything is sampled
        trainer = _backend(self.trainer)(engine, self.trainer, start=engine.weights(lm.model))
        if self.config.beta > 0:
            trainer.set_reference()
        run = GRPORun(
            self.config,
            self.metric,
            student,
            engine,
            list(trainset),
            list(valset or ()),
            report=self._report,
            seconds_before=seconds_before,
        )
        first = self._resume(run, trainer, self._settings(student, trainset, valset))
        self._train(run, trainer, first)
        run.best._compiled = True
        return run.best

    def _resume(self, run: GRPORun, trainer: GRPOBackend, settings: dict[str, Any]) -> dict[str, int]:
        """Take up an earlier run, if there is one; return where `fit` begins, {} at the start."""
        if self.log_dir is None or not isinstance(trainer, PolicyTrainer):
            return {}
        kept = PhaseState(self.log_dir / "state", "grpo.steps", settings, resume=self.resume)
        first = run.resume(trainer, kept)
        if processes.is_first():
            drop_lines_after(self.log_dir / "metrics.jsonl", "grpo", first)
        return {"first": first}

    def _train(self, run: GRPORun, trainer: GRPOBackend, first: dict[str, int]) -> None:
        try:
            run.begin()
            trainer.fit(
                self.config.max_steps,
                sample=run.sample,
                updated=run.updated,
                decay=self.config.max_minutes is None,
                beta=self.config.beta,
                clip=self.config.clip,
                temperature=self.config.temperature,
                **first,
            )
        except KeyboardInterrupt:
            self.interrupted = True
            logger.warning("GRPO was interrupted; this is the best policy so far, %s", run.best.get_lm().model)
        finally:
            run.rollouts.close()

    def _check(self, train: int, val: int) -> None:
        """Raise unless there are examples for what is to be played, and processes for how."""
        if self.config.overlap:
            processes.refuse_several("rollouts ahead of the update (overlap)")
        if not train:
            raise ConfigurationError("the training set is empty; pass at least one example")
        if self.config.validate_every and not val:
            raise ConfigurationError("validate_every needs a validation set; pass valset, or set it to 0")
        calls = self.config.max_metric_calls
        least = 2 * val + self.config.tasks_per_step * self.config.num_generations
        if self.config.validate_every and calls is not None and calls < least:
            raise ConfigurationError(
                f"max_metric_calls={calls} does not cover a step and the validations before and after it, {least} "
                "trajectories together"
            )

    def _settings(
        self, student: ThreeStageEpisode, trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example] | None
    ) -> dict[str, Any]:
        """Return all that decides the result."""
        return {
            "config": asdict(self.config),
            "trainer": asdict(self.trainer),
            "reward": self.metric.describe(),
            "student": digest_of(student),
            "trainset": digest_of(list(trainset)),
            "valset": digest_of(list(valset or ())) if self.config.validate_every else None,
        }

    def _report(self, line: dict[str, Any]) -> None:
        self._log(json.dumps(line) + "\n")
        if not processes.is_first():
            return
        log_step(line)
        if self.on_step is not None:
            self.on_step(line)

    def _log(self, text: str) -> None:
        if self.log_dir is None or not processes.is_first():
            return
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            with (self.log_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise RunError(f"cannot write to {self.log_dir}: {error}; choose another log_dir") from error


def _backend(config: TrainerConfig) -> Callable[..., GRPOBackend]:
    if isinstance(config, TRLConfig):
        from agemem_dspy.optimizers.trl_trainer import TRLTrainer  # trl takes seconds to import

        return TRLTrainer
    return PolicyTrainer
