"""What processes compute that train together: `tests/integration/test_accelerate.py` has two of them run this file.

    accelerate launch --multi_gpu --num_processes 2 tests/several_processes.py FOLDER

FOLDER/tiny is a model. Without a GPU the processes meet on the CPU (gloo). Each writes what it came to into
FOLDER/<rank>.pt.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_episodes import TRAINSET, TokenReward, sha, student
from torch.optim.optimizer import register_optimizer_step_pre_hook

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers import AgeMemOptimizer, GRPOConfig, StepwiseGRPO, TrainerConfig, TRLConfig, processes
from agemem_dspy.optimizers.demonstrator import Demonstrator
from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.optimizers.training import GRPOBackend
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.optimizers.trl_trainer import TRLTrainer
from agemem_dspy.optimizers.warm_start import WarmStart
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.models import load

SHARED: dict[str, Any] = {"learning_rate": 1e-3, "lora_r": 2, "lora_alpha": 4, "max_grad_norm": 1e9}
GRPO = GRPOConfig(max_steps=2, tasks_per_step=1, num_generations=3, num_threads=1, validate_every=1, max_minutes=60.0)


def trajectories() -> list[list[Sample]]:
    """Three trajectories of one, two and two calls, all of whose tokens weigh the same."""
    source = np.random.default_rng(0)
    lengths, system = [[3], [2, 4], [1, 5]], source.integers(3, 300, 6)
    return [
        [
            Sample(
                prompt_ids=np.concatenate([system, source.integers(3, 300, source.integers(1, 6))]),
                completion_ids=source.integers(3, 300, n),
                logprobs=source.normal(-5.0, 0.3, n),
                advantage=advantage,
                weight=1 / 15,
            )
            for n in own
        ]
        for own, advantage in zip(lengths, (1.0, -0.4, -0.6), strict=True)
    ]


def fitted(trainer: GRPOBackend, played: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    """Take a step; return the gradient that the optimizer was given, the loss and the weights."""
    found: dict[str, Any] = {}

    def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        found["gradient"] = torch.cat([p.grad.double().flatten() for p in optimizer.param_groups[0]["params"]])

    def updated(step: int, weights: Any, numbers: Mapping[str, float]) -> bool:
        found.update(sha=weights.sha256(), loss=numbers["loss"])
        return True

    handle = register_optimizer_step_pre_hook(keep)
    try:
        trainer.fit(1, sample=lambda step: played, updated=updated)
    finally:
        handle.remove()
    return found


def imitated(trainer: PolicyTrainer, played: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    """Take a supervised step; return the loss and the weights."""
    return {"loss": trainer.imitate(played), "sha": trainer.weights().sha256()}


def told(function: Callable[[], object]) -> str:
    """Return the error of a function that must not go on."""
    try:
        function()
    except ConfigurationError as error:
        return str(error)
    return "it went on"


def come_to(folder: Path, runs: Path) -> dict[str, Any]:
    """Return what a process comes to, the only one or one of several."""
    engine, played = PolicyEngine(load(folder), name="tiny"), trajectories()
    result: dict[str, Any] = {
        "tree": fitted(PolicyTrainer(engine, TrainerConfig(**SHARED)), played),
        "one trajectory": fitted(PolicyTrainer(engine, TrainerConfig(**SHARED)), played[:1]),
        "imitation": imitated(PolicyTrainer(engine, TrainerConfig(**SHARED)), played),
    }
    for loss in ("dapo", "grpo"):
        result[loss] = fitted(TRLTrainer(engine, TRLConfig(**SHARED, loss_type=loss, micro_batches=2)), played)
    valset, metric = TRAINSET[2:], TokenReward()
    for name, trainer in (("GRPO", TrainerConfig(**SHARED)), ("TRL", TRLConfig(**SHARED, micro_batches=2))):
        lines: list[dict[str, Any]] = []
        grpo = StepwiseGRPO(metric, config=GRPO, trainer=trainer, log_dir=runs / name, on_step=lines.append)
        program = grpo.compile(student(folder), trainset=TRAINSET[:2], valset=valset)
        result[name] = {"sha": sha(program), "lines": [(line["reward"], line["loss"]) for line in lines]}
    warm = WarmStart(metric, threshold=-1.0, trainer=TrainerConfig(**SHARED))
    optimizer = AgeMemOptimizer(metric, phases=("warm_start",), warm_start=warm, log_dir=runs / "all")
    first = optimizer.compile(student(folder), trainset=TRAINSET)
    again = optimizer.compile(student(folder), trainset=TRAINSET)  # read back
    result["warm start"] = {"sha": sha(first), "again": sha(again)}
    return result


def refusals(folder: Path) -> list[str]:
    """Return what several processes are told that they cannot do together."""
    overlap = StepwiseGRPO(TokenReward(), config=GRPOConfig(overlap=True))
    prompts = AgeMemOptimizer(TokenReward(), phases=("prompts",))
    program = student(folder)
    teacher = Demonstrator(program)
    return [
        told(lambda: overlap.compile(program, trainset=TRAINSET)),
        told(lambda: prompts.compile(program, trainset=TRAINSET, teacher=teacher)),
    ]


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of accelerate and TRL
    torch.set_num_threads(1)
    home = Path(sys.argv[1])
    came_to = {**come_to(home / "tiny", home / "runs"), "refusals": refusals(home / "tiny"), "of": processes.count()}
    torch.save(came_to, home / f"{0 if processes.is_first() else 1}.pt")
