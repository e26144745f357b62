"""What becomes of the prompt phase's demos: kept in the prompts that are trained on, or distilled away.

    python benchmarks/demos.py                       SmolLM2-135M, validation episodes of the assistant
    python benchmarks/demos.py --grpo-steps 5        with some steps of GRPO behind the warm start

Both ways start from the same demos and are trained with the demo's recipe on the same demonstrated episodes.
"""

from __future__ import annotations

import argparse
import time

import torch
from rich.console import Console
from rich.table import Table

import agemem_dspy as am
from agemem_dspy.data.assistant import generate
from agemem_dspy.optimizers.recipe import Recipe

TERMS = {"reward": "reward", "answer": "answer", "parse_rate": "parsed", "prompt_tokens": "prompt tokens an episode"}


def main() -> None:
    """Compile both ways and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a known name or a folder of weights")
    parser.add_argument("--warm-examples", type=int, default=64, help="demonstrated episodes")
    parser.add_argument("--grpo-steps", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=24, help="held-out episodes")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    metric = am.TrajectoryReward()
    train, val = generate("train", 400, seed=arguments.seed + 1), generate("val", arguments.episodes, seed=2)
    phases = ("prompts", "warm_start", "grpo") if arguments.grpo_steps else ("prompts", "warm_start")
    title = f"{len(val)} held-out episodes, {' + '.join(phases)}, {torch.get_num_threads()} threads"
    table = Table(title=title)
    table.add_column("demos")
    for label in (*TERMS.values(), "training s", "playing s"):
        table.add_column(label, justify="right")
    for keep in (False, True):
        recipe = Recipe(warm_examples=arguments.warm_examples, max_steps=arguments.grpo_steps or 1, keep_demos=keep)
        agent = am.AgeMemAgent("question -> answer", adapter=am.CompactAdapter(), max_rounds=3)
        student = am.ThreeStageEpisode(agent)
        student.set_lm(am.local_lm(arguments.model, max_tokens=64))
        began = time.perf_counter()
        optimizer = recipe.optimizer(metric, seed=arguments.seed, phases=phases)
        compiled = optimizer.compile(student, trainset=train, teacher=recipe.teacher(student, arguments.seed))
        trained = time.perf_counter()
        result = am.evaluate(compiled, val, metric, num_threads=recipe.threads)
        played = time.perf_counter()
        cells = [f"{result.mean(term):.2f}" for term in list(TERMS)[:-1]] + [f"{result.mean('prompt_tokens'):.0f}"]
        times = (f"{trained - began:.0f}", f"{played - trained:.0f}")
        table.add_row("kept" if keep else "distilled", *cells, *times)
    Console().print(table)


if __name__ == "__main__":
    main()
