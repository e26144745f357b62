"""Rollouts: play a task K times at the sampler's temperature and score each trajectory."""

from __future__ import annotations

import contextvars
import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import dspy

from agemem_dspy.errors import ConfigurationError, RewardError
from agemem_dspy.optimizers import processes
from agemem_dspy.optimizers.demonstrator import Demonstrator
from agemem_dspy.optimizers.local import program_lm
from agemem_dspy.policy.recorder import sampling_seed
from agemem_dspy.rewards import TrajectoryReward
from agemem_dspy.types import Group, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One scored episode; `terms` holds the reward and what it is made of."""

    example: dspy.Example
    trajectory: Trajectory
    terms: dict[str, float]
    gains: tuple[float, ...] = ()


def map_threads(function: Callable[[Any], Any], items: Sequence[Any], num_threads: int) -> list[Any]:
    """Apply a function in threads that see the caller's DSPy context; the first error is raised."""
    if num_threads < 1:
        raise ConfigurationError(f"num_threads must be at least 1, not {num_threads}")
    with ThreadPoolExecutor(num_threads) as pool:
        futures = [pool.submit(contextvars.copy_context().run, function, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def play(program: dspy.Module, example: dspy.Example, metric: TrajectoryReward) -> Played:
    """Play one example and score it.

    Raises:
        RewardError: the program's prediction carries no trajectory, or a term failed.
        ConfigurationError: the program carries memory from one episode to the next.
    """
    if getattr(getattr(program, "student", program), "carry_memory", False):
        raise ConfigurationError(
            "these episodes are played in any order, so each needs an empty memory; pass a ThreeStageEpisode without "
            "carry_memory, and turn it on in what was compiled"
        )
    prediction = program.play(example) if isinstance(program, Demonstrator) else program(**example.inputs())
    trajectory = prediction.get("trajectory")
    if trajectory is None:
        raise RewardError(f"{type(program).__name__} returned no trajectory; wrap the agent in ThreeStageEpisode")
    return Played(example=example, trajectory=trajectory, terms=metric.terms(example, trajectory))


def play_all(
    program: dspy.Module, examples: Sequence[dspy.Example], metric: TrajectoryReward, *, num_threads: int
) -> list[Played]:
    """Play every example once."""
    return map_threads(lambda example: play(program, example, metric), examples, num_threads)


def collect_groups(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    metric: TrajectoryReward,
    *,
    num_generations: int,
    temperature: float,
    num_threads: int,
    entropy: tuple[int, ...],
    gains: bool = False,
) -> list[Group]:
    """Play each example `num_generations` times with the program's LM; several processes play a share each.

    Args:
        entropy: integers that fix the sampling streams: equal entropy and weights, equal rollouts.
        gains: also compute what each step gained (`TrajectoryReward.step_gains`).
    """
    sampler = copy.deepcopy(program)
    sampler.set_lm(program_lm(program).copy(temperature=temperature, cache=False))

    def played_once(item: tuple[int, int]) -> Played:
        task, k = item
        with sampling_seed(*entropy, task, k):
            one = play(sampler, examples[task], metric)
        return replace(one, gains=metric.step_gains(one.example, one.trajectory)) if gains else one

    items = [(task, k) for task in range(len(examples)) for k in range(num_generations)]
    played: list[Played] = processes.joined(
        map_threads(played_once, processes.share(items), min(num_threads, len(items)))
    )
    groups = []
    for task, example in enumerate(examples):
        own = played[task * num_generations : (task + 1) * num_generations]
        groups.append(
            Group(
                task=str(example.get("id", task)),
                trajectories=tuple(p.trajectory for p in own),
                rewards=tuple(p.terms["reward"] for p in own),
                terms=tuple(p.terms for p in own),
                gains=tuple(p.gains for p in own) if gains else (),
            )
        )
    return groups
