"""TRL's trainer against ours, on the same recorded calls."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import dspy
import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory import HashEmbedder, LongTermMemory
from agemem_dspy.optimizers import GRPOConfig, StepwiseGRPO, TrainerConfig, TRLConfig
from agemem_dspy.optimizers.grpo import Scale, step_weights
from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.optimizers.training import GRPOBackend, Loss
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.optimizers.trl_trainer import TRLTrainer, rows_of
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import local_lm
from agemem_dspy.policy.lora import LoraWeights
from agemem_dspy.policy.models import load
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.policy.versions import Weights
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import TrajectoryReward
from agemem_dspy.types import Trajectory

SHARED: dict[str, Any] = {"learning_rate": 1e-3, "lora_r": 2, "lora_alpha": 4, "max_grad_norm": 1e9}
EXAMPLE = dspy.Example(id="a", messages=["I am vegan."], distractors=["Nice day."], question="What do I eat?")


@pytest.fixture(autouse=True)
def own_warnings_only() -> Iterator[None]:
    """TRL 1.16 and accelerate 1.15 warn of their own affairs under transformers 5.23 and torch 2.13."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> PolicyEngine:
    corpus = ["Reply with <tool_call> or <answer>text</answer>, nothing else. memory context arguments name tool"]
    folder = tiny_llama(
        tmp_path_factory.mktemp("tiny"), corpus=corpus, hidden=32, layers=2, heads=2, vocab_size=400, max_positions=4096
    )
    return PolicyEngine(load(folder), name="tiny")


@pytest.fixture(scope="module")
def start(engine: PolicyEngine) -> LoraWeights:
    """An adapter that changes the policy."""
    weights = PolicyTrainer(engine, TrainerConfig(**SHARED)).weights()
    source = torch.Generator().manual_seed(1)
    for pair in weights.pairs.values():
        for tensor in pair:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=source))
    return weights


@pytest.fixture(scope="module")
def calls(engine: PolicyEngine, start: LoraWeights) -> list[list[Sample]]:
    """Two trajectories of three calls and two, of ragged lengths, sampled by a policy somewhat off."""
    source = np.random.default_rng(0)
    lengths = [[3, 1, 5], [2, 4]]
    played = []
    for own in lengths:
        samples = [
            Sample(
                prompt_ids=source.integers(3, 300, source.integers(4, 12)),
                completion_ids=source.integers(3, 300, n),
                logprobs=np.zeros(n),
                advantage=float(source.normal()),
                weight=0.0,
            )
            for n in own
        ]
        played.append(samples)
    flat = [sample for own in played for sample in own]
    logp = PolicyTrainer(engine, TrainerConfig(**SHARED), start=start).logprobs(flat, temperature=0.8).numpy()
    at = np.cumsum([0, *(len(sample.completion_ids) for sample in flat)])
    sampled = [logp[a:b] + source.normal(0, 0.2, b - a) for a, b in itertools.pairwise(at)]
    logprobs = iter(sampled)
    return [[changed(sample, logprobs=next(logprobs)) for sample in own] for own in played]


def changed(sample: Sample, **changes: Any) -> Sample:
    return Sample(**{**{name: getattr(sample, name) for name in Sample.__slots__}, **changes})


def weighed(played: Sequence[Sequence[Sample]], scale: Scale) -> list[list[Sample]]:
    weights = step_weights([[len(one.completion_ids) for one in own] for own in played], scale)
    return [
        [changed(s, weight=w) for s, w in zip(own, ws, strict=True)] for own, ws in zip(played, weights, strict=True)
    ]


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def fitted(
    trainer: GRPOBackend, played: Sequence[Sequence[Sample]], *, steps: int = 1, beta: float = 0.0
) -> tuple[torch.Tensor, list[Weights], list[Mapping[str, float]]]:
    """Return the gradient of the last step, and what was reported of each."""
    gradient: list[torch.Tensor] = []
    weights: list[Weights] = []
    metrics: list[Mapping[str, float]] = []

    def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = optimizer.param_groups[0]["params"]
        gradient[:] = [torch.cat([p.grad.double().flatten() for p in parameters])]

    def updated(step: int, new: Weights, numbers: Mapping[str, float]) -> bool:
        assert step == len(weights)
        weights.append(new)
        metrics.append(numbers)
        return True

    if beta:
        trainer.set_reference()
    handle = register_optimizer_step_pre_hook(keep)
    try:
        trainer.fit(steps, sample=lambda step: played, updated=updated, beta=beta, temperature=0.8)
    finally:
        handle.remove()
    return gradient[0], weights, metrics


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_both_trainers_have_the_same_gradient(
    engine: PolicyEngine, start: LoraWeights, calls: list[list[Sample]], micro_batches: int
) -> None:
    ours = PolicyTrainer(engine, TrainerConfig(**SHARED), start=start)
    theirs = TRLTrainer(engine, TRLConfig(**SHARED, micro_batches=micro_batches), start=start)
    expected, _, figures = fitted(ours, weighed(calls, "token"))
    found, _, logged = fitted(theirs, calls)
    assert distance(found, expected) < 1e-4
    assert logged[0]["grad_norm"] == pytest.approx(figures[0]["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("decay", [True, False])
def test_both_trainers_take_the_same_course(
    engine: PolicyEngine, start: LoraWeights, calls: list[list[Sample]], decay: bool
) -> None:
    for trainer, played in (
        (PolicyTrainer(engine, TrainerConfig(**SHARED), start=start), weighed(calls, "token")),
        (TRLTrainer(engine, TRLConfig(**SHARED), start=start), calls),
    ):
        rates: list[float] = []

        def keep(optimizer: torch.optim.Optimizer, *_: Any, rates: list[float] = rates) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

        handle = register_optimizer_step_pre_hook(keep)
        try:
            backend: GRPOBackend = trainer
            backend.fit(5, sample=lambda step, p=played: p, updated=lambda *_: True, decay=decay)  # type: ignore[misc]
        finally:
            handle.remove()
        course = [1 / 3, 2 / 3, 0.64, 0.46, 0.28] if decay else [1 / 3, 2 / 3, 1, 1, 1]
        assert rates == pytest.approx([1e-3 * one for one in course])


def test_both_trainers_have_the_same_gradient_without_an_adapter(
    engine: PolicyEngine, start: LoraWeights, calls: list[list[Sample]]
) -> None:
    """Begun from an adapter, whose weights all of theirs are."""
    full: dict[str, Any] = {"learning_rate": 1e-4, "lora_r": None, "max_grad_norm": 1e9}
    expected, ours, _ = fitted(PolicyTrainer(engine, TrainerConfig(**full), start=start), weighed(calls, "token"))
    found, theirs, _ = fitted(TRLTrainer(engine, TRLConfig(**full), start=start), calls)
    assert distance(found, expected) < 1e-4
    assert theirs[0].kind == ours[0].kind == "full"
    for one, other in zip(theirs[0].tensors().values(), ours[0].tensors().values(), strict=True):
        assert torch.allclose(one, other, atol=3e-4)  # of two signs of what is hardly anything Adam makes 2 lr


def test_both_trainers_keep_to_the_same_reference(
    engine: PolicyEngine, start: LoraWeights, calls: list[list[Sample]]
) -> None:
    """The KL has a gradient from the second step on, once Adam has made more of the first one's rounding."""
    ours = PolicyTrainer(engine, TrainerConfig(**SHARED), start=start)
    theirs = TRLTrainer(engine, TRLConfig(**SHARED), start=start)
    expected, _, _ = fitted(ours, weighed(calls, "token"), steps=2, beta=3.0)
    found, _, logged = fitted(theirs, calls, steps=2, beta=3.0)
    without, _, _ = fitted(TRLTrainer(engine, TRLConfig(**SHARED), start=start), calls, steps=2)
    assert 5 * distance(found, expected) < distance(found, without)
    assert logged[1]["kl"] > 0 == pytest.approx(logged[0]["kl"], abs=1e-9)


def test_a_loss_by_rows_is_not_diluted_by_rows_filled_in(
    engine: PolicyEngine, start: LoraWeights, calls: list[list[Sample]]
) -> None:
    """TRL's "grpo" is our scale "call"; five calls in four micro-batches make eight rows."""
    ours = PolicyTrainer(engine, TrainerConfig(**SHARED), start=start)
    theirs = TRLTrainer(engine, TRLConfig(**SHARED, loss_type="grpo", micro_batches=4), start=start)
    expected, _, _ = fitted(ours, weighed(calls, "call"))
    found, _, _ = fitted(theirs, calls)
    assert distance(found, expected) < 1e-4


@pytest.mark.parametrize("loss", get_args(Loss))
def test_every_loss_moves_the_weights(
    engine: PolicyEngine, start: LoraWeights, calls: list[list[Sample]], loss: Loss
) -> None:
    _, weights, _ = fitted(TRLTrainer(engine, TRLConfig(**SHARED, loss_type=loss), start=start), calls)
    assert weights[0].sha256() != start.sha256()
    assert isinstance(weights[0], LoraWeights)
    assert weights[0].rank == start.rank


def test_a_ratio_of_the_whole_call_has_another_gradient(
    engine: PolicyEngine, start: LoraWeights, calls: list[list[Sample]]
) -> None:
    by_token, by_sequence = (
        fitted(
            TRLTrainer(engine, TRLConfig(**SHARED, loss_type="grpo", importance_sampling_level=level), start=start),
            calls,
        )[0]
        for level in ("token", "sequence")
    )
    assert distance(by_sequence, by_token) > 1e-2


def test_rows_are_padded_and_those_filled_in_are_masked_out(calls: list[list[Sample]]) -> None:
    samples = [sample for own in calls for sample in own]
    rows = rows_of(samples, pad_id=0, multiple=4, by_rows=True, device=torch.device("cpu"))
    assert {name: len(tensor) for name, tensor in rows.items() if tensor.ndim} == {
        name: 8 for name in rows if name != "num_items_in_batch"
    }
    assert rows["completion_mask"].sum(dim=1).tolist() == [3, 1, 5, 2, 4, 0, 0, 0]
    assert int(rows["num_items_in_batch"]) == 15
    for i, sample in enumerate(samples):
        real = rows["prompt_mask"][i].bool()
        assert rows["prompt_ids"][i][real].tolist() == sample.prompt_ids.tolist()
        assert rows["completion_ids"][i][rows["completion_mask"][i].bool()].tolist() == sample.completion_ids.tolist()
    assert rows["advantages"][:5].tolist() == pytest.approx([s.advantage * 8 / 5 for s in samples])


def test_a_step_without_calls_does_no_harm(engine: PolicyEngine, start: LoraWeights) -> None:
    _, weights, _ = fitted(TRLTrainer(engine, TRLConfig(**SHARED), start=start), [])
    assert weights[0].sha256() == start.sha256()


class TokenReward(TrajectoryReward):
    """Pays the mean token id, so that rollouts of an untrained model differ."""

    def terms(self, example: Any, trajectory: Trajectory) -> dict[str, float]:
        taken = [token for step in trajectory.steps if step.completion for token in step.completion.completion_ids]
        return {"reward": sum(taken) / len(taken)}


def test_a_program_is_compiled_by_trl(engine: PolicyEngine, tmp_path: Path) -> None:
    memory = LongTermMemory.open(":memory:", embedder=HashEmbedder())
    agent = AgeMemAgent("question -> answer", memory=memory, adapter=CompactAdapter(), max_rounds=2)
    episode = ThreeStageEpisode(agent)
    episode.set_lm(local_lm(engine, max_tokens=6))
    config = GRPOConfig(max_steps=3, tasks_per_step=1, num_generations=3, beta=0.1)
    trainset = [EXAMPLE.with_inputs("messages", "distractors", "question")]
    options = {"output_dir": str(tmp_path / "trl"), "save_strategy": "steps", "save_steps": 2}
    trainer = TRLConfig(**SHARED, options=options)
    optimizer = StepwiseGRPO(TokenReward(), config=config, trainer=trainer, log_dir=tmp_path)
    compiled = optimizer.compile(episode, trainset=trainset)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert len({line["model"] for line in lines}) == 3
    assert compiled.get_lm().model == lines[-1]["model"]
    assert all(line["grad_norm"] > 0 and line["rollout_seconds"] > 0 for line in lines)
    assert episode.get_lm().model == engine.name
    assert (tmp_path / "trl" / "checkpoint-2" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "ppo"}, "loss_type must be one of dapo, grpo"),
        ({"importance_sampling_level": "word"}, "must be 'token' or 'sequence'"),
        ({"max_tokens": 64}, "max_tokens has no effect in TRL"),
        ({"micro_batches": 0}, "micro_batches must be at least 1"),
        ({"options": {"beta": 0.1}}, "options must not hold 'beta'"),
    ],
)
def test_a_bad_configuration_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TRLConfig(**changes)


def test_what_trl_cannot_do_is_refused(engine: PolicyEngine, calls: list[list[Sample]]) -> None:
    with pytest.raises(ConfigurationError, match="scale='call' has no effect in TRL"):
        StepwiseGRPO(TrajectoryReward(), config=GRPOConfig(scale="call"), trainer=TRLConfig())
    with pytest.raises(ConfigurationError, match="TRL always clips"):
        TRLTrainer(engine, TRLConfig()).fit(1, sample=lambda step: calls, updated=lambda *_: True, clip=None)
    with pytest.raises(ConfigurationError, match="TRL refuses the options: .*no_such_field"):
        fitted(TRLTrainer(engine, TRLConfig(options={"no_such_field": 1})), calls)
