"""One run of GRPO: rollouts step by step, what they were like, which weights were best, and how far it came."""

from __future__ import annotations

import copy
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import dspy
import torch

from agemem_dspy.errors import TrainingError
from agemem_dspy.optimizers import processes
from agemem_dspy.optimizers.grpo_config import GRPOConfig
from agemem_dspy.optimizers.heap import return_freed_memory
from agemem_dspy.optimizers.local import program_lm
from agemem_dspy.optimizers.monitor import FarmedTerms, describe_groups
from agemem_dspy.optimizers.resume import PhaseState
from agemem_dspy.optimizers.step_rollouts import StepRollouts
from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.policy.drafts import Phrasebook
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.versions import Weights
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import TrajectoryReward
from agemem_dspy.types import Group


class GRPORun:
    """Plays each step's rollouts with the weights of the step before, and keeps track.

    Args:
        config: see `GRPOConfig`.
        metric: scores the trajectories.
        student: the program to start from, whose LM `engine` serves; it is not changed.
        trainset, valset: what is played, and what `config.validate_every` plays.
        report: called with the line of metrics of each step.
        seconds_before: what `config.max_minutes` counts beside the run itself.

    `program` is served by the latest weights; `best`, once the run is over, by those to return.
    """

    def __init__(
        self,
        config: GRPOConfig,
        metric: TrajectoryReward,
        student: ThreeStageEpisode,
        engine: PolicyEngine,
        trainset: list[dspy.Example],
        valset: list[dspy.Example],
        report: Callable[[dict[str, Any]], None],
        seconds_before: float = 0.0,
    ) -> None:
        self.config, self.metric, self.engine, self.valset, self.report = config, metric, engine, valset, report
        reserved = len(valset) if config.validate_every else 0
        self.rollouts, self.farmed = StepRollouts(config, metric, trainset, reserved=reserved), FarmedTerms()
        self.lm = program_lm(student)
        self.program = copy.deepcopy(student)
        self.program.set_lm(self.lm)
        self.best, self.best_score = self.program, -math.inf
        self.served: list[str] = []  # by the models of earlier steps
        self.groups: list[Group] = []
        self.resampled = self.worse = 0
        self.learnt = False
        self.keep: Callable[[int], None] = lambda done: None
        self.started = self.begun = self.sampled = time.perf_counter()
        self.before, self.earlier = seconds_before, 0.0  # of other phases, and of the runs that this one takes up

    def begin(self) -> None:
        """Score the policy as it is before the first step, when a validation set is to be played."""
        if self.config.validate_every:
            if self.best_score == -math.inf:
                self.best_score = self._validation()
            if self.best is self.program:
                self.best = copy.deepcopy(self.program)

    def resume(self, trainer: PolicyTrainer, kept: PhaseState) -> int:
        """Take up the state that was kept, and keep one after each step from now on; return the next step."""
        self.engine.restore_phrases(Phrasebook().dump())  # drafts have a part in rounding: runs alike begin alike
        found = kept.load()
        self.keep = lambda done: kept.save(*self._state(trainer, done))
        if found is None:
            return 0
        tensors, values = found
        trainer.restore(tensors)
        self.engine.restore_phrases({name: tensors[f"phrases.{name}"].numpy() for name in Phrasebook().dump()})
        self.rollouts.skip(values["taken"], values["scored"])
        self.learnt, self.worse = values["learnt"], values["worse"]
        self.before, self.earlier = values["before"], values["seconds"]
        if self.learnt:
            self._serve(trainer.weights())
        for terms in values["terms"]:
            self.farmed.update(terms)
        if self.config.validate_every:
            self.best_score, self.best = values["best_score"], copy.deepcopy(self.program)
            own = {name.removeprefix("best."): t for name, t in tensors.items() if name.startswith("best.")}
            self.best.set_lm(self._lm(trainer.weights().with_tensors(own)) if own else self.lm)
        return int(values["done"]) if self._goes_on() else self.config.max_steps

    def _state(self, trainer: PolicyTrainer, done: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors = trainer.state()
        tensors |= {f"phrases.{name}": torch.from_numpy(known) for name, known in self.engine.phrases().items()}
        best = self.engine.weights(self.best.get_lm().model) if self.config.validate_every else None
        if best is not None and self.best.get_lm().model != self.lm.model:
            tensors |= {f"best.{name}": tensor.contiguous() for name, tensor in best.tensors().items()}
        values = {
            "done": done,
            "taken": self.rollouts.taken,
            "learnt": self.learnt,
            "worse": self.worse,
            "scored": self.rollouts.scored,
            "seconds": self._seconds(),
            "before": self.before,
            "terms": self.farmed.seen,
            "best_score": self.best_score if self.config.validate_every else None,
        }
        return tensors, values

    def _lm(self, weights: Weights) -> dspy.LM:
        return self.lm.copy(model=self.engine.register(f"grpo-{weights.sha256()[:10]}", weights))

    def _serve(self, weights: Weights) -> None:
        self.served.append(self.program.get_lm().model)
        self.program.set_lm(self._lm(weights))
        if weights.kind == "full":
            self._release_former()

    def _release_former(self) -> None:
        """Keep of the run's versions, each as large as the model, the latest two and the best."""
        wanted = {self.lm.model, self.best.get_lm().model, self.program.get_lm().model, self.served[-1]}
        for model in {*self.served} - wanted:
            self.engine.release(self.engine.version_of(model))
        self.served = [model for model in self.served if model in wanted]

    def sample(self, step: int) -> list[list[Sample]]:
        """Play the tasks of a step; return their calls with advantages, none where all groups tie.

        Raises:
            TrainingError: the first steps taught nothing.
        """
        self.begun = time.perf_counter()
        self.groups, self.resampled = self.rollouts.of_step(step, self.program)
        self.sampled = time.perf_counter()
        samples = self.rollouts.samples(self.groups)
        self.learnt = self.learnt or bool(samples)
        if not self.learnt and step + 1 == self.config.dead_steps:
            raise TrainingError(
                f"in the first {step + 1} steps all trajectories of every group had the same reward, so there was "
                "nothing to learn: warm the policy up first (WarmStart), raise the temperature or num_generations, or "
                "use a reward that tells these episodes apart"
            )
        if samples:
            self.engine.forget_prefixes()  # the next rollouts have other weights, and an update needs the memory
            return_freed_memory()
        self.rollouts.begin(step + 1, self.program)
        return samples

    def updated(self, step: int, weights: Weights, metrics: Mapping[str, float]) -> bool:
        """Serve the weights, where `metrics` say that they are new, and report; return whether to go on."""
        if metrics:
            self._serve(weights)
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
            "seconds": self._seconds(),
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
        self.report(line)
        self.keep(step + 1)
        return self._goes_on()

    def _goes_on(self) -> bool:
        patient = self.config.patience is None or self.worse < self.config.patience
        most = self.config.max_minutes
        in_time = most is None or processes.of_first(lambda: self.before + self._seconds() < 60 * most)
        return patient and in_time and self.rollouts.affords_a_step()

    def _seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.started

    def _validation(self) -> float:
        return statistics.fmean(self.rollouts.validate(self.program, self.valset))
