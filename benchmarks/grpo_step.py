"""What a GRPO step costs, part by part, each against doing without.

    python benchmarks/grpo_step.py                                    SmolLM2-135M as it comes
    python benchmarks/grpo_step.py --program runs/demo/warm_start     a policy that can already play
    python benchmarks/grpo_step.py --data hotpotqa:FILE --tasks 1 --generations 4 --drafts-only --count-only

Rollouts: the same tasks, one LM call at a time through transformers' `generate`, all of them through its continuous
batching, then batched by ours, with known prefixes reused, and with drafts; those three draw the same random numbers.
Update: the gradient of those episodes, with each token of their tree computed once, with a row for every LM call, and
by TRL's GRPOTrainer, which always takes a row for every call. With `--count-only` their tokens are counted and nothing
is computed. Trajectories are rewarded in turn, so that no group ties.
"""

from __future__ import annotations

import argparse
import gc
import resource
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import dspy
import torch
from other_samplers import Continuous, OneByOne
from rich.console import Console
from rich.table import Table

import agemem_dspy as am
from agemem_dspy.data.assistant import generate
from agemem_dspy.optimizers import TrainerConfig, TRLConfig
from agemem_dspy.optimizers.heap import return_freed_memory
from agemem_dspy.optimizers.local import local_policy
from agemem_dspy.optimizers.rollouts import collect_groups, play_all
from agemem_dspy.optimizers.samples import grpo_samples
from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.optimizers.tree import Sample, TokenTree, parts
from agemem_dspy.optimizers.trl_trainer import TRLTrainer
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.types import Group

Timed = tuple[float, float]  # seconds, tokens through the model

ONE_BY_ONE, CONTINUOUS = "generate, one call at a time", "transformers' continuous batching"
SAMPLERS: dict[str, dict[str, int]] = {
    ONE_BY_ONE: {},
    CONTINUOUS: {},
    "batched": {"prefix_bytes": 0, "max_draft": 0},
    "+ prefix reuse": {"max_draft": 0},
    "+ drafts": {},
}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a known name or a folder of weights")
    parser.add_argument("--program", type=Path, help="a compiled program, in place of the base model")
    parser.add_argument("--data", help="what is played, as for `agemem eval`; else assistant histories")
    parser.add_argument("--drafts-only", action="store_true", help="play with the last sampler alone")
    parser.add_argument("--count-only", action="store_true", help="count the update's tokens, compute none")
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--generations", type=int, default=8, help="trajectories a task")
    parser.add_argument("--top-layers", type=int, help="layers trained; all when left out")
    arguments = parser.parse_args()
    episode = _episode(arguments.model, arguments.program)
    if arguments.data:
        examples = am.load_dataset(arguments.data, limit=arguments.tasks)
    else:
        examples = generate("train", arguments.tasks, seed=99)
    names = list(SAMPLERS)[-1:] if arguments.drafts_only else list(SAMPLERS)
    groups = rollouts(episode, examples, arguments.generations, names)
    groups = [replace(group, rewards=tuple(map(float, range(arguments.generations)))) for group in groups]
    trajectories = grpo_samples(groups, "token")
    if arguments.count_only:
        count(trajectories)
    else:
        update(episode, trajectories, arguments.top_layers)


def _episode(model: str, program: Path | None) -> am.ThreeStageEpisode:
    if program is not None:
        loaded = am.load(program)
        if not isinstance(loaded, am.ThreeStageEpisode):
            raise SystemExit(f"error: {program} holds a {type(loaded).__name__}, not a ThreeStageEpisode")
        return loaded
    episode = am.ThreeStageEpisode(am.AgeMemAgent("question -> answer", adapter=am.CompactAdapter(), max_rounds=3))
    episode.set_lm(am.local_lm(model, max_tokens=48))
    return episode


def rollouts(
    episode: am.ThreeStageEpisode, examples: Sequence[dspy.Example], generations: int, names: Sequence[str]
) -> list[Group]:
    """Play the same episodes under each sampler, print what they took and return them."""
    lm, engine = local_policy(episode)
    weights = engine.weights(lm.model)
    table = Table(title=f"rollouts: {len(examples)} tasks x {generations}, {torch.get_num_threads()} threads")
    for column in (
        "",
        "seconds",
        "calls/s",
        "speed",
        "passes",
        "prompt tokens computed",
        "sampled",
        "of these drafted",
    ):
        table.add_column(column, justify="right" if column else "left")
    play_all(episode, examples[:1], am.TrajectoryReward(), num_threads=1)  # what is loaded at first use is loaded now
    groups: list[Group] = []
    at_once = len(examples) * generations
    first = 0.0
    for name in names:
        sampler = PolicyEngine(engine.loaded, name="benchmark", **SAMPLERS[name])
        model = sampler.register("policy", weights) if weights is not None else sampler.name
        sampler.use(sampler.version_of(model))
        if name == ONE_BY_ONE:
            sampler._batcher = OneByOne(sampler)  # type: ignore[assignment]
        elif name == CONTINUOUS:
            sampler._batcher = Continuous(sampler, at_once)  # type: ignore[assignment]
        episode.set_lm(lm.copy(engine=sampler, model=model))
        began = time.perf_counter()
        groups = collect_groups(
            episode,
            examples,
            am.TrajectoryReward(),
            num_generations=generations,
            temperature=1.0,
            num_threads=at_once,
            entropy=(0,),
        )
        seconds = time.perf_counter() - began
        if isinstance(sampler._batcher, Continuous):
            sampler._batcher.close()
        counts = sampler.counts
        rate = counts.calls / seconds
        first = first or rate
        table.add_row(
            name,
            f"{seconds:.1f}",
            f"{rate:.2f}",
            f"{rate / first:.1f}x",
            f"{counts.passes}",
            f"{counts.computed_tokens / counts.prompt_tokens:.0%} of {counts.prompt_tokens}",
            f"{counts.completion_tokens}",
            f"{counts.drafted_tokens / counts.completion_tokens:.0%}",
        )
        sampler.use("")
    episode.set_lm(lm)
    Console(width=120).print(table)
    return groups


def count(trajectories: Sequence[Sequence[Sample]]) -> None:
    """Print how many tokens an optimizer step on the episodes computes."""
    config = TrainerConfig()
    calls = [sample for own in trajectories for sample in own]
    ways = {
        "a row for every call": [[sample] for sample in calls],
        "the tree of a trajectory's calls": trajectories,
        "the trees that fit into memory": list(parts(trajectories, config.max_trunk)),
        "the tree of all calls": [calls],
    }
    table = Table(title=f"update: {len(calls)} LM calls of {len(trajectories)} trajectories")
    for column in ("", "tokens", "fewer"):
        table.add_column(column, justify="right" if column else "left")
    rowwise = 0
    for name, way in ways.items():
        tokens = sum(TokenTree(samples).tokens for samples in way)
        rowwise = rowwise or tokens
        table.add_row(name, f"{tokens}", f"{rowwise / tokens:.2f}x")
    Console(width=120).print(table)


def update(episode: am.ThreeStageEpisode, trajectories: Sequence[Sequence[Sample]], top_layers: int | None) -> None:
    """Take one optimizer step on the episodes in each way and print what it took."""
    _, engine = local_policy(episode)
    calls = [sample for own in trajectories for sample in own]
    title = f"update: {len(calls)} LM calls of {len(trajectories)} trajectories, {torch.get_num_threads()} threads"
    table = Table(title=title)
    for column in ("", "seconds", "speed", "tokens computed", "memory added"):
        table.add_column(column, justify="right" if column else "left")
    rowwise = sum(len(sample.prompt_ids) + len(sample.completion_ids) for sample in calls)
    ways = {
        "TRL, a row for every call": (lambda: _trl(engine, trajectories, top_layers), rowwise),
        "a row for every call": (lambda: _tree(engine, [[[one]] for one in calls], top_layers), None),
        "the tree of all calls": (lambda: _tree(engine, [trajectories], top_layers), None),
    }
    first = 0.0
    for name, (way, counted) in ways.items():
        seconds, tokens, megabytes = _measured(way)
        first = first or seconds
        cells = (f"{seconds:.1f}", f"{first / seconds:.2f}x", f"{counted or tokens:.0f}", f"{megabytes} MB")
        table.add_row(name, *cells)
    Console(width=120).print(table)


def _tree(engine: PolicyEngine, parts: Sequence[Sequence[Sequence[Sample]]], top_layers: int | None) -> Timed:
    trainer = PolicyTrainer(engine, TrainerConfig(top_layers=top_layers))
    began = time.perf_counter()
    tokens = sum(trainer.update(part)["tokens"] for part in parts)
    return time.perf_counter() - began, tokens


def _trl(engine: PolicyEngine, trajectories: Sequence[Sequence[Sample]], top_layers: int | None) -> Timed:
    trainer = TRLTrainer(engine, TRLConfig(top_layers=top_layers, micro_batches=len(trajectories)))
    times: list[float] = []

    def sample(_: int) -> Sequence[Sequence[Sample]]:
        times.append(time.perf_counter())
        return trajectories

    def updated(*_: object) -> bool:
        times.append(time.perf_counter())
        return True

    trainer.fit(1, sample=sample, updated=updated)
    return times[1] - times[0], 0.0


def _measured(way: Callable[[], Timed]) -> tuple[float, float, int]:
    """Return the seconds and tokens of an update, and the megabytes by which it raised resident memory."""
    gc.collect()
    return_freed_memory()
    before = highest = _resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.02):
            highest = max(highest, _resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        seconds, tokens = way()
    finally:
        done.set()
        watcher.join()
    return seconds, tokens, (highest - before) >> 20


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
