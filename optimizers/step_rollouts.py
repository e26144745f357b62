"""The rollouts of GRPO's steps: which tasks are played, how often, and whether ahead of the update."""

from __future__ import annotations

import contextvars
import copy
import math
import random
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import dspy

from agemem_dspy.optimizers.grpo_config import GRPOConfig
from agemem_dspy.optimizers.rollouts import collect_groups
from agemem_dspy.optimizers.samples import Advantages, by_call, by_stage, by_trajectory, grpo_samples
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import TrajectoryReward
from agemem_dspy.types import Group

Played = tuple[list[Group], int]  # a step's groups, and how many of them are in place of ones that tied


class StepRollouts:
    """Plays the tasks of one step after the other.

    Args:
        config: see `GRPOConfig`.
        metric: scores the trajectories.
        trainset: the tasks.
        reserved: trajectories that follow every step within `max_metric_calls`: a validation.

    `scored` counts the trajectories and `taken` the tasks of the steps that were asked for.
    """

    def __init__(
        self, config: GRPOConfig, metric: TrajectoryReward, trainset: Sequence[dspy.Example], *, reserved: int = 0
    ) -> None:
        self.config, self.metric, self.reserved = config, metric, reserved
        self.tasks = Tasks(trainset, config.seed)
        self.scored = self.taken = 0
        self._ahead: Future[Played] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rollouts") if config.overlap else None

    def skip(self, taken: int, scored: int) -> None:
        """Go on behind what an earlier run played."""
        self.tasks.take(taken)
        self.taken, self.scored = taken, scored

    def of_step(self, step: int, program: ThreeStageEpisode) -> Played:
        """Return a step's groups: those that were begun ahead, else played now by `program`."""
        ahead, self._ahead = self._ahead, None
        groups, resampled = ahead.result() if ahead is not None else self._play_step(step, program, self._left())
        self.taken = self.tasks.taken
        self.scored += (self.config.tasks_per_step + resampled) * self.config.num_generations
        return groups, resampled

    def begin(self, step: int, program: ThreeStageEpisode) -> None:
        """Play a step's tasks in the background with the program as it is now, if that is wanted and affordable."""
        left = self._left() - self.reserved  # for the validation of the step that is trained on now
        if self._thread is not None and step < self.config.max_steps and self._needed() <= left:
            frozen, context = copy.deepcopy(program), contextvars.copy_context()
            self._ahead = self._thread.submit(context.run, self._play_step, step, frozen, left)

    def close(self) -> None:
        """Wait for what plays in the background; its result is dropped."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def affords_a_step(self) -> bool:
        """Tell whether one more step is within `max_metric_calls`, or was begun already."""
        return self._ahead is not None or self._needed() <= self._left()

    def _needed(self) -> int:
        return self.config.tasks_per_step * self.config.num_generations + self.reserved

    def _left(self) -> float:
        most = self.config.max_metric_calls
        return math.inf if most is None else most - self.scored

    def samples(self, groups: Sequence[Group]) -> list[list[Sample]]:
        """Return the calls of groups with their advantages; those that tie are left out."""
        return grpo_samples(groups, self.config.scale, self._advantages)

    def validate(self, program: ThreeStageEpisode, examples: Sequence[dspy.Example]) -> list[float]:
        """Return the rewards of examples, each played once with random numbers of its own."""
        self.scored += len(examples)
        groups = collect_groups(
            program,
            examples,
            self.metric,
            num_generations=1,
            temperature=self.config.temperature,
            num_threads=self.config.num_threads,
            entropy=(self.config.seed,),
        )
        return [reward for group in groups for reward in group.rewards]

    def _advantages(self, group: Group) -> Advantages:
        eps = self.config.eps
        match self.config.credit:
            case "stage":
                return by_stage(group, part=self.metric.stage_reward, eps=eps)
            case "call":
                return by_call(group, lam=self.config.lam, eps=eps)
            case credit:
                return by_trajectory(group, eps=eps, over_steps=credit == "released")

    def _play_step(self, step: int, program: ThreeStageEpisode, left: float) -> Played:
        groups, resampled = self._play(step, 0, program, self.config.tasks_per_step), 0
        for attempt in range(1, self.config.resample + 1):
            tied = [i for i, group in enumerate(groups) if not self.samples([group])]
            if not tied or self._needed() + (resampled + len(tied)) * self.config.num_generations > left:
                break
            for i, group in zip(tied, self._play(step, attempt, program, len(tied)), strict=True):
                groups[i] = group
            resampled += len(tied)
        return groups, resampled

    def _play(self, step: int, attempt: int, program: ThreeStageEpisode, count: int) -> list[Group]:
        if self.config.curriculum != "joint":
            program = copy.deepcopy(program)
            program.stages = self.config.stages_at(step)
        return collect_groups(
            program,
            self.tasks.take(count),
            self.metric,
            num_generations=self.config.num_generations,
            temperature=self.config.temperature,
            num_threads=self.config.num_threads,
            entropy=(self.config.seed, step, attempt) if attempt else (self.config.seed, step),
            gains=self.config.credit == "call",
        )


class Tasks:
    """An endless seeded stream of tasks: every example once, reshuffled, again."""

    def __init__(self, examples: Sequence[dspy.Example], seed: int) -> None:
        self.examples, self.random = list(examples), random.Random(seed)
        self.waiting: list[dspy.Example] = []
        self.taken = 0

    def take(self, count: int) -> list[dspy.Example]:
        """Return the next tasks."""
        taken = []
        for _ in range(count):
            if not self.waiting:
                self.waiting = list(self.examples)
                self.random.shuffle(self.waiting)
            taken.append(self.waiting.pop())
        self.taken += count
        return taken
