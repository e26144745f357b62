"""StepwiseGRPO: the optimizer that sharpens a local policy by three-stage step-wise GRPO (AgeMem, section 5)."""

from __future__ import annotations

import copy
import json
import math
import random
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dspy
from dspy.teleprompt import Teleprompter

from agemem_dspy.errors import ConfigurationError, RunError, TrainingError
from agemem_dspy.optimizers.grpo import CREDITS, SCALES, Credit, Scale, group_advantages, step_weights
from agemem_dspy.optimizers.local import local_policy
from agemem_dspy.optimizers.monitor import FarmedTerms, describe_groups
from agemem_dspy.optimizers.rollouts import collect_groups
from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.optimizers.training import GRPOBackend, TrainerConfig, TRLConfig
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lora import LoraWeights
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import TrajectoryReward
from agemem_dspy.types import Completion, Group, Stage


@dataclass(frozen=True, kw_only=True)
class GRPOConfig:
    """How groups are sampled and turned into updates; the paper's values where it states them.

    Args:
        num_generations: K, trajectories of one task (8).
        tasks_per_step: groups in one update.
        max_steps: updates.
        temperature: of the sampler, and of the log-probabilities trained on.
        beta: weight of the KL to the policy that training started from (0.1).
        clip: half-width of the ratio's interval (0.2); None is Eq. 6 as printed.
        eps: added to the standard deviation of a group's rewards, in units of reward. With almost none, a group whose
            rewards differ by a few context tokens would count as much as one that differs by an answer.
        credit: "broadcast" gives every LM call its trajectory's advantage (the paper); "stage" compares, for the calls
            of a stage, what that stage can change of the reward (`TrajectoryReward.stage_reward`), so that a filter
            is not praised for an answer, nor storing blamed for a missing one.
        scale: what weighs equally in the mean: a "token", a "call" or a "trajectory"; see `grpo.step_weights`.
        curriculum: "joint" plays all three stages from the start (the paper); "progressive" plays stage 1 for
            the first third of the steps, then 1 and 2, then all.
        resample: how often, in a step, tasks whose trajectories all tie are replaced by the next ones: a group without
            spread teaches nothing.
        dead_steps: the run stops with an error when that many steps from its start, resampled, taught nothing.
        validate_every: after how many steps the policy plays the validation set, as it does before the first; the best
            is what `compile` returns. 0 does not validate.
        patience: stop after so many validations without a new best.
        num_threads: episodes played at once; also the largest batch the engine sees.
        seed: of task order and sampling.
    """

    num_generations: int = 8
    tasks_per_step: int = 2
    max_steps: int = 20
    temperature: float = 1.0
    beta: float = 0.1
    clip: float | None = 0.2
    eps: float = 0.05
    credit: Credit = "broadcast"
    scale: Scale = "token"
    curriculum: Literal["joint", "progressive"] = "joint"
    resample: int = 1
    dead_steps: int = 5
    validate_every: int = 0
    patience: int | None = None
    num_threads: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_generations < 2:
            raise ConfigurationError(
                f"num_generations is {self.num_generations}: with fewer than 2 trajectories a task every advantage is 0"
            )
        if min(self.tasks_per_step, self.max_steps, self.num_threads) < 1:
            raise ConfigurationError("tasks_per_step, max_steps and num_threads must be at least 1")
        if self.temperature <= 0:
            raise ConfigurationError("temperature must be above 0: greedy rollouts are all alike")
        if self.eps <= 0:
            raise ConfigurationError(f"eps must be positive, not {self.eps}")
        if self.beta < 0 or (self.clip is not None and self.clip <= 0):
            raise ConfigurationError("beta must not be negative, clip must be positive or None")
        if self.scale not in SCALES:
            raise ConfigurationError(f"scale must be one of {', '.join(SCALES)}, not {self.scale!r}")
        if self.credit not in CREDITS:
            raise ConfigurationError(f"credit must be one of {', '.join(CREDITS)}, not {self.credit!r}")
        if self.seed < 0:
            raise ConfigurationError(f"seed must be 0 or more, not {self.seed}")
        if self.curriculum not in ("joint", "progressive"):
            raise ConfigurationError(f"curriculum must be 'joint' or 'progressive', not {self.curriculum!r}")
        if self.curriculum == "progressive" and self.max_steps < 3:
            raise ConfigurationError("a progressive curriculum needs max_steps of at least 3")
        if min(self.resample, self.validate_every) < 0 or self.dead_steps < 1:
            raise ConfigurationError("resample and validate_every must not be negative, dead_steps at least 1")
        if self.patience is not None and (self.patience < 1 or not self.validate_every):
            raise ConfigurationError("patience counts validations: it must be at least 1 and needs validate_every")


class StepwiseGRPO(Teleprompter):
    """Compile a program's decisions into LoRA weights.

    Each step plays `tasks_per_step` tasks `num_generations` times, gives every LM call of a trajectory, in all
    three stages, an advantage within its group (see `GRPOConfig.credit`), and takes one optimizer step. The learning
    rate rises for three steps and then falls linearly to a tenth.

    Args:
        metric: the reward; the same object that scores prompts.
        config: see `GRPOConfig`.
        trainer: how weights are trained: a `TrainerConfig`, or a `TRLConfig` to train with TRL.
        log_dir: where `metrics.jsonl` gets a line a step.
        on_step: called with that line.
    """

    def __init__(
        self,
        metric: TrajectoryReward,
        *,
        config: GRPOConfig | None = None,
        trainer: TrainerConfig | None = None,
        log_dir: str | Path | None = None,
        on_step: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        super().__init__()
        self.metric = metric
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
        **options: Any,
    ) -> ThreeStageEpisode:
        """Return a copy of the student served by newly trained weights; the student is not changed.

        Args:
            teacher: accepted for DSPy's interface; GRPO learns from its own rollouts alone.
            valset: held-out examples for `validate_every`.

        Raises:
            ConfigurationError: an empty training set, `validate_every` without a validation set, an unknown option, or
                an LM that is not a local policy.
            TrainingError: nothing could be learnt from the first steps; says what may help.
            RewardError: a reward term raised; nothing is turned into a zero.
            RunError: `log_dir` cannot be written.
        """
        if options:
            raise ConfigurationError(f"StepwiseGRPO.compile does not know the option {sorted(options)[0]!r}")
        if not trainset:
            raise ConfigurationError("the training set is empty; pass at least one example")
        if self.config.validate_every and not valset:
            raise ConfigurationError("validate_every needs a validation set; pass valset, or set it to 0")
        lm, engine = local_policy(student)
        self._log("")  # a folder that cannot be written is found before anything is sampled
        run = _Run(self, student, engine, _Tasks(trainset, self.config.seed), list(valset or ()))
        trainer = _backend(self.trainer)(engine, self.trainer, start=engine.weights(lm.model))
        trainer.fit(
            self.config.max_steps,
            sample=run.sample,
            updated=run.updated,
            beta=self.config.beta,
            clip=self.config.clip,
            temperature=self.config.temperature,
        )
        run.best._compiled = True
        return run.best

    def _report(self, line: dict[str, Any]) -> None:
        self._log(json.dumps(line) + "\n")
        if self.on_step is not None:
            self.on_step(line)

    def _log(self, text: str) -> None:
        if self.log_dir is None:
            return
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            with (self.log_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise RunError(f"cannot write to {self.log_dir}: {error}; choose another log_dir") from error


class _Run:
    """One compilation: plays each step's rollouts with the weights of the step before and reports them."""

    def __init__(
        self,
        optimizer: StepwiseGRPO,
        student: ThreeStageEpisode,
        engine: PolicyEngine,
        tasks: _Tasks,
        valset: list[dspy.Example],
    ) -> None:
        self.optimizer, self.config, self.engine, self.tasks = optimizer, optimizer.config, engine, tasks
        self.valset, self.farmed = valset, FarmedTerms()
        self.lm = student.get_lm()
        self.program = copy.deepcopy(student)
        self.program.set_lm(self.lm)
        self.groups: list[Group] = []
        self.resampled = self.worse = 0
        self.learnt = False
        self.started = self.begun = self.sampled = time.perf_counter()
        self.best = copy.deepcopy(self.program) if self.config.validate_every else self.program
        self.best_score = self._validation() if self.config.validate_every else -math.inf

    def sample(self, step: int) -> list[list[Sample]]:
        """Play the tasks of a step; return their calls with advantages, none where all groups tie.

        Raises:
            TrainingError: the first steps taught nothing.
        """
        self.begun = time.perf_counter()
        self.groups, self.resampled = self._play(step, 0, self.config.tasks_per_step), 0
        for attempt in range(1, self.config.resample + 1):
            tied = [i for i, group in enumerate(self.groups) if not self._samples([group])]
            if not tied:
                break
            for i, group in zip(tied, self._play(step, attempt, len(tied)), strict=True):
                self.groups[i] = group
            self.resampled += len(tied)
        self.sampled = time.perf_counter()
        samples = self._samples(self.groups)
        self.learnt = self.learnt or bool(samples)
        if not self.learnt and step + 1 == self.config.dead_steps:
            raise TrainingError(
                f"in the first {step + 1} steps all trajectories of every group had the same reward, so there was "
                "nothing to learn: warm the policy up first (WarmStart), raise the temperature or num_generations, or "
                "use a reward that tells these episodes apart"
            )
        return samples

    def updated(self, step: int, weights: LoraWeights, metrics: Mapping[str, float]) -> bool:
        """Serve the weights, where `metrics` say that they are new, and report; return whether to go on."""
        if metrics:
            model = self.engine.register(f"grpo-{weights.sha256()[:10]}", weights)
            self.program.set_lm(self.lm.copy(model=model))
        now = time.perf_counter()
        line = {
            "phase": "grpo",
            "step": step + 1,
            "steps": self.config.max_steps,
            "model": self.program.get_lm().model,
            **describe_groups(self.groups),
            "resampled_groups": self.resampled,
            **metrics,
            "rollout_seconds": self.sampled - self.begun,
            "update_seconds": now - self.sampled,
            "seconds": now - self.started,
        }
        if self.config.validate_every and (step + 1) % self.config.validate_every == 0:
            line["validation"] = score = self._validation()
            self.worse = 0 if score > self.best_score else self.worse + 1
            if score > self.best_score:
                self.best, self.best_score = copy.deepcopy(self.program), score
        farmed = self.farmed.update(line["terms"])
        if farmed:
            line["farmed"] = farmed
            warnings.warn(
                f"step {step + 1}: {', '.join(farmed)} rose while the answer score fell; lower the weight of such "
                "terms or the learning rate, or return the best policy on a validation set (validate_every)",
                stacklevel=2,
            )
        self.optimizer._report(line)
        return self.config.patience is None or self.worse < self.config.patience

    def _play(self, step: int, attempt: int, count: int) -> list[Group]:
        return collect_groups(
            self._at_stage(step),
            self.tasks.take(count),
            self.optimizer.metric,
            num_generations=self.config.num_generations,
            temperature=self.config.temperature,
            num_threads=self.config.num_threads,
            entropy=(self.config.seed, step, attempt) if attempt else (self.config.seed, step),
        )

    def _samples(self, groups: Sequence[Group]) -> list[list[Sample]]:
        by_stage = self.optimizer.metric.stage_reward if self.config.credit == "stage" else None
        return grpo_samples(groups, self.config.scale, eps=self.config.eps, by_stage=by_stage)

    def _validation(self) -> float:
        """Return the mean reward on the validation set, each example played once with random numbers of its own."""
        groups = collect_groups(
            self.program,
            self.valset,
            self.optimizer.metric,
            num_generations=1,
            temperature=self.config.temperature,
            num_threads=self.config.num_threads,
            entropy=(self.config.seed,),
        )
        return statistics.fmean(reward for group in groups for reward in group.rewards)

    def _at_stage(self, step: int) -> ThreeStageEpisode:
        if self.config.curriculum == "joint":
            return self.program
        unlocked = copy.deepcopy(self.program)
        unlocked.stages = min(3, 1 + 3 * step // self.config.max_steps)
        return unlocked


def _backend(config: TrainerConfig) -> Callable[..., GRPOBackend]:
    if isinstance(config, TRLConfig):
        from agemem_dspy.optimizers.trl_trainer import TRLTrainer  # trl takes seconds to import

        return TRLTrainer
    return PolicyTrainer


class _Tasks:
    """An endless seeded stream of tasks: every example once, reshuffled, again."""

    def __init__(self, examples: Sequence[dspy.Example], seed: int) -> None:
        self.examples, self.random = list(examples), random.Random(seed)
        self.waiting: list[dspy.Example] = []

    def take(self, count: int) -> list[dspy.Example]:
        taken = []
        for _ in range(count):
            if not self.waiting:
                self.waiting = list(self.examples)
                self.random.shuffle(self.waiting)
            taken.append(self.waiting.pop())
        return taken


def completions(group: Group) -> list[list[tuple[Stage, Completion]]]:
    """Return each trajectory's taped completions with their stages, in the order they were sampled.

    Raises:
        ConfigurationError: a step has no completion, so it was not sampled by a local policy.
    """
    taped = []
    for trajectory in group.trajectories:
        if any(step.completion is None and step.error is None for step in trajectory.steps):
            raise ConfigurationError("a step carries no sampled tokens; the whole program must use one local policy")
        taped.append([(step.stage, step.completion) for step in trajectory.steps if step.completion is not None])
    return taped


def grpo_samples(
    groups: Sequence[Group],
    scale: Scale,
    *,
    eps: float = 1e-6,
    by_stage: Callable[[Mapping[str, float], Stage], float] | None = None,
) -> list[list[Sample]]:
    """Turn groups into samples: every LM call gets an advantage of its trajectory, all tokens weigh 1 together.

    What ties within its group teaches nothing and is left out.

    Args:
        by_stage: maps a trajectory's terms and a stage to the reward that the calls of this stage are compared by; the
            trajectory's own reward in every stage when left out.
    """
    played: list[list[tuple[Completion, float]]] = []
    for group in groups:
        advantages = {
            stage: group_advantages(
                group.rewards if by_stage is None else [by_stage(terms, stage) for terms in group.terms], eps=eps
            ).tolist()
            for stage in Stage
        }
        for k, taped in enumerate(completions(group)):
            played.append([(one, advantages[stage][k]) for stage, one in taped if any(advantages[stage])])
    played = [own for own in played if own]
    if not played:
        return []
    weights = step_weights([[len(one.completion_ids) for one, _ in own] for own in played], scale)
    return [
        [Sample.of(one, advantage=advantage, weight=w) for (one, advantage), w in zip(own, ws, strict=True)]
        for own, ws in zip(played, weights, strict=True)
    ]
