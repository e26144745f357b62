"""Updates against a plain loop: one row an LM call, no packing, no shared prefix, an ordinary forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agemem_dspy.errors import ConfigurationError, ModelError, TrainingError
from agemem_dspy.memory import HashEmbedder, LongTermMemory
from agemem_dspy.optimizers.grpo import SCALES, Scale, group_advantages
from agemem_dspy.optimizers.grpo_config import GRPOConfig
from agemem_dspy.optimizers.monitor import describe_groups
from agemem_dspy.optimizers.rollouts import collect_groups
from agemem_dspy.optimizers.samples import by_call, by_stage, completions, grpo_samples
from agemem_dspy.optimizers.stepwise_grpo import StepwiseGRPO
from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.optimizers.training import TrainerConfig
from agemem_dspy.optimizers.tree import Sample, TokenTree
from agemem_dspy.policy.batching import Pending
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import local_lm
from agemem_dspy.policy.lora import LoraWeights
from agemem_dspy.policy.models import load
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import TrajectoryReward
from agemem_dspy.types import Group, Stage, Trajectory

CORPUS = ["Reply with <tool_call> or <answer>text</answer>, nothing else. memory context arguments name tool content"]
CONFIG = TrainerConfig(learning_rate=1e-2, lora_r=2, lora_alpha=4, max_grad_norm=1e9, max_tokens=40)
FULL = TrainerConfig(learning_rate=1e-2, lora_r=None, max_grad_norm=1e9, max_tokens=40)
EXAMPLES = [
    dspy.Example(id="a", messages=["I fly from Lyon.", "I am vegan."], distractors=["Nice day."], question="Where?"),
    dspy.Example(id="b", messages=["My dog is Rex."], distractors=["It rains."], question="Who?"),
]
TRAINSET = [example.with_inputs("messages", "distractors", "question") for example in EXAMPLES]


class WitnessEngine(PolicyEngine):
    """Keeps what the sampler was given and what it drew."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.served: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def _finish(self, request: Any, pending: Pending) -> Any:
        row = pending.row
        self.served.append((tuple(row.prompt_ids.tolist()), tuple(row.completion_ids)))
        return super()._finish(request, pending)


class TokenReward(TrajectoryReward):
    """Pays the mean token id, so that rollouts of an untrained model differ."""

    def terms(self, example: Any, trajectory: Trajectory) -> dict[str, float]:
        taken = [token for step in trajectory.steps if step.completion for token in step.completion.completion_ids]
        return {"reward": sum(taken) / len(taken)}


class ConstantReward(TrajectoryReward):
    """Pays the same for everything."""

    def terms(self, example: Any, trajectory: Trajectory) -> dict[str, float]:
        return {"reward": 0.3}


class StageReward(TokenReward):
    """Remembers which stages were played."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[set[Stage]] = []

    def terms(self, example: Any, trajectory: Trajectory) -> dict[str, float]:
        self.stages.append({step.stage for step in trajectory.steps})
        return super().terms(example, trajectory)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(
        tmp_path_factory.mktemp("tiny"), corpus=CORPUS, hidden=32, layers=2, heads=2, vocab_size=400, max_positions=4096
    )


@pytest.fixture(scope="module")
def engine(folder: Path) -> WitnessEngine:
    return WitnessEngine(load(folder), name="tiny")


@pytest.fixture(scope="module")
def start(engine: WitnessEngine) -> LoraWeights:
    """An adapter that changes the policy."""
    return noisy(PolicyTrainer(engine, CONFIG).weights(), seed=1)


@pytest.fixture(scope="module")
def groups(engine: WitnessEngine, start: LoraWeights) -> list[Group]:
    """Rollouts of a registered version; `engine.served` has nothing else."""
    student = program(engine, engine.register("start", start))
    engine.served.clear()
    return rollouts(student, TokenReward())


def program(engine: PolicyEngine, model: str = "") -> ThreeStageEpisode:
    memory = LongTermMemory.open(":memory:", embedder=HashEmbedder())
    agent = AgeMemAgent("question -> answer", memory=memory, adapter=CompactAdapter(), max_rounds=2)
    episode = ThreeStageEpisode(agent)
    lm = local_lm(engine, max_tokens=6)
    episode.set_lm(lm.copy(model=model) if model else lm)
    return episode


def rollouts(student: ThreeStageEpisode, metric: TrajectoryReward) -> list[Group]:
    return collect_groups(student, TRAINSET, metric, num_generations=2, temperature=0.8, num_threads=4, entropy=(0, 0))


def noisy(weights: LoraWeights, *, seed: int, scale: float = 0.2) -> LoraWeights:
    source = torch.Generator().manual_seed(seed)
    changed = weights.copy()
    for pair in changed.pairs.values():
        for tensor in pair:
            tensor.add_(scale * torch.randn(tensor.shape, generator=source))
    return changed


def perturb(trainer: PolicyTrainer, *, seed: int = 2, scale: float = 0.05) -> None:
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(trainer):
            parameter.add_(scale * torch.randn(parameter.shape, generator=source))


def trainable(trainer: PolicyTrainer) -> list[torch.nn.Parameter]:
    return [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]


def gradients(trainer: PolicyTrainer) -> list[torch.Tensor]:
    """Return what the optimizer is given at its next step."""
    found: list[torch.Tensor] = []

    def keep(*_: Any) -> None:
        found.extend(parameter.grad.clone() for parameter in trainable(trainer) if parameter.grad is not None)
        handle.remove()

    handle = trainer.optimizer.register_step_pre_hook(keep)
    return found


def plain_logprobs(model: Any, sample: Sample, temperature: float) -> torch.Tensor:
    """Return log pi(completion | prompt) from a whole row and all its logits."""
    ids = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.completion_ids]))
    logits = model(input_ids=ids[None]).logits[0, len(sample.prompt_ids) - 1 : -1] / temperature
    chosen = torch.from_numpy(sample.completion_ids)[:, None]
    return torch.log_softmax(logits, dim=-1).gather(1, chosen)[:, 0]


def reference_gradient(
    trainer: PolicyTrainer,
    trajectories: Sequence[Sequence[Sample]],
    scale: Scale,
    *,
    beta: float = 0.0,
    clip: float | None = 0.2,
    temperature: float = 1.0,
    reference: Any = None,
) -> tuple[list[torch.Tensor], dict[str, float]]:
    """Return the gradient and the figures of step-wise GRPO by the book."""
    calls = [sample for samples in trajectories for sample in samples]
    all_tokens = sum(len(sample.completion_ids) for sample in calls)
    figures = {"loss": 0.0, "kl": 0.0, "clip_fraction": 0.0}
    for samples in trajectories:
        own_tokens = sum(len(sample.completion_ids) for sample in samples)
        for sample in samples:
            n, a = len(sample.completion_ids), sample.advantage
            logp = plain_logprobs(trainer.model, sample, temperature)
            ratio = (logp - torch.from_numpy(sample.logprobs)).exp()
            objective = ratio * a
            if clip is not None:
                objective = torch.minimum(objective, ratio.clamp(1 - clip, 1 + clip) * a)
            parts = {"loss": -objective, "clip_fraction": (objective != ratio * a).double()}
            if beta:
                with torch.no_grad():
                    gap = plain_logprobs(reference, sample, temperature)
                parts["kl"] = (gap - logp).exp() - (gap - logp) - 1
                parts["loss"] = parts["loss"] + beta * parts["kl"]
            token = {"call": len(calls) * n, "token": all_tokens, "trajectory": len(trajectories) * own_tokens}[scale]
            (parts["loss"].sum() / token).backward()
            for name, part in parts.items():
                figures[name] += float(part.detach().sum()) / token
    return taken(trainer), figures


def taken(trainer: PolicyTrainer) -> list[torch.Tensor]:
    found = []
    for parameter in trainable(trainer):
        assert parameter.grad is not None
        found.append(parameter.grad.clone())
        parameter.grad = None
    return found


def error(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """Return the relative distance of two gradients."""
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in expected]
    gap, size = (torch.cat([tensor.double().flatten() for tensor in side]) for side in (found, expected))
    assert size.norm() > 1e-4
    return float((gap - size).norm() / size.norm())


def tree(seed: int, trainer: PolicyTrainer, *, trajectories: int = 3, appended: float = 0.5) -> list[list[Sample]]:
    """Make episodes over a common system prompt, some edited on the way, with off-policy log-probs."""
    source = np.random.default_rng(seed)

    def some(low: int, high: int) -> list[int]:
        return [int(token) for token in source.integers(0, 6, source.integers(low, high))]

    system, played = some(1, 12), []
    for _ in range(trajectories):
        context, samples, advantage = [*system, *some(1, 4)], [], float(source.normal())
        for _ in range(int(source.integers(1, 4))):
            new = np.array(some(1, 6))
            sample = Sample(
                prompt_ids=np.array(context),
                completion_ids=new,
                logprobs=np.zeros(len(new)),
                advantage=advantage,
                weight=0.0,
            )
            with torch.no_grad():
                logp = plain_logprobs(trainer.model, sample, 1.0).double().numpy()
            samples.append(weighted(sample, logprobs=logp + source.normal(0, 0.3, len(new))))
            kept = [*context, *new.tolist()] if source.random() < appended else system
            context = [*kept, *some(1, 5)]
        played.append(samples)
    return played


def flat(trajectories: Sequence[Sequence[Sample]]) -> list[Sample]:
    return [sample for samples in trajectories for sample in samples]


def inputs(sample: Sample) -> np.ndarray[Any, Any]:
    """Return the tokens that predict something: all but the completion's last."""
    return np.concatenate([sample.prompt_ids, sample.completion_ids[:-1]])


def weighted(sample: Sample, **changes: Any) -> Sample:
    fields = {name: getattr(sample, name) for name in Sample.__slots__}
    return Sample(**{**fields, **changes})


def weigh(trajectories: Sequence[Sequence[Sample]], scale: Scale) -> list[list[Sample]]:
    """Set each sample's weight as the definition of the scale has it."""
    calls = sum(len(samples) for samples in trajectories)
    tokens = sum(len(s.completion_ids) for samples in trajectories for s in samples)
    result = []
    for samples in trajectories:
        own = sum(len(s.completion_ids) for s in samples)
        shares = {"token": tokens, "trajectory": len(trajectories) * own}
        result.append([weighted(s, weight=1 / shares.get(scale, calls * len(s.completion_ids))) for s in samples])
    return result


# The update


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("config", [CONFIG, FULL, replace(FULL, top_layers=1)], ids=["adapter", "full", "top layer"])
def test_the_update_has_the_gradient_of_the_plain_loop(
    engine: WitnessEngine, start: LoraWeights, scale: Scale, beta: float, clip: float | None, config: TrainerConfig
) -> None:
    begun = start if config.top_layers is None else None  # which changes all layers
    trainer = PolicyTrainer(engine, config, start=begun)
    trainer.set_reference()
    perturb(trainer, scale=0.2 if config is CONFIG else 0.02)
    frozen = PolicyTrainer(engine, config, start=begun).model
    played = weigh(tree(3, trainer), scale)
    options = {"beta": beta, "clip": clip, "temperature": 0.8}
    expected, figures = reference_gradient(trainer, played, scale, reference=frozen, **options)  # type: ignore[arg-type]
    found = gradients(trainer)
    result = trainer.update(played, **options)  # type: ignore[arg-type]
    assert error(found, expected) < 1e-4
    assert {name: result[name] for name in figures} == pytest.approx(figures, rel=1e-4, abs=1e-6)
    assert (result["kl"] > 1e-3) == (beta > 0)
    assert (result["clip_fraction"] > 0) == (clip is not None)
    assert result["grad_norm"] == pytest.approx(float(torch.cat([g.flatten() for g in expected]).norm()), rel=1e-4)


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), trajectories=st.integers(1, 4), most=st.sampled_from([1, 16, 64, 4096]))
def test_the_tree_is_exact_whatever_is_shared(
    engine: WitnessEngine, start: LoraWeights, seed: int, trajectories: int, most: int
) -> None:
    config = TrainerConfig(learning_rate=1e-3, max_grad_norm=1e9, max_tokens=most)
    trainer = PolicyTrainer(engine, config, start=start)
    played = weigh(tree(seed, trainer, trajectories=trajectories, appended=0.7), "call")
    expected, _ = reference_gradient(trainer, played, "call")
    found = gradients(trainer)
    trainer.update(played)
    assert error(found, expected) < 1e-4


def test_imitation_has_the_gradient_of_the_plain_loop(engine: WitnessEngine, start: LoraWeights) -> None:
    trainer = PolicyTrainer(engine, CONFIG, start=start)
    played = weigh(tree(5, trainer), "call")
    calls = [sample for samples in played for sample in samples]
    loss = -torch.stack([plain_logprobs(trainer.model, sample, 1.0).mean() for sample in calls]).mean()
    loss.backward()
    expected = taken(trainer)
    found = gradients(trainer)
    assert trainer.imitate(played) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert error(found, expected) < 1e-4
    for _ in range(5):
        trainer.imitate(played, rate=0.1)
    assert trainer.imitate(played) < float(loss.detach())


def test_the_rate_of_one_imitation_step_is_not_that_of_the_next_update(engine: WitnessEngine) -> None:
    trainer = PolicyTrainer(engine, CONFIG)
    played = weigh(tree(5, trainer), "call")
    rates: list[float] = []
    trainer.optimizer.register_step_pre_hook(lambda *_: rates.append(trainer.optimizer.param_groups[0]["lr"]))
    trainer.imitate(played, rate=0.5)
    trainer.update(played)
    assert rates == [0.5 * CONFIG.learning_rate, CONFIG.learning_rate]


def test_an_append_only_episode_is_trajectory_level_grpo(engine: WitnessEngine, start: LoraWeights) -> None:
    """One row a trajectory with a mask over its completions: what GRPO for tool use does."""
    trainer = PolicyTrainer(engine, CONFIG, start=start)
    played = weigh(tree(7, trainer, appended=1.0), "token")
    assert len(TokenTree(flat(played)).leaves) == len(played) < sum(map(len, played))
    total = sum(len(s.completion_ids) for samples in played for s in samples)
    for samples in played:
        ids = torch.from_numpy(np.concatenate([samples[-1].prompt_ids, samples[-1].completion_ids]))
        mask, old = torch.zeros(len(ids), dtype=torch.bool), torch.zeros(len(ids))
        for s in samples:
            span = slice(len(s.prompt_ids), len(s.prompt_ids) + len(s.completion_ids))
            mask[span], old[span] = True, torch.from_numpy(s.logprobs).float()
        logits = trainer.model(input_ids=ids[None]).logits[0]
        logits.retain_grad()
        logp = torch.log_softmax(logits[:-1], -1).gather(1, ids[1:, None])[:, 0]
        ratio = (logp - old[1:]).exp()
        a = samples[0].advantage
        objective = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
        (-(objective * mask[1:]).sum() / total).backward()
        assert not logits.grad[:-1][~mask[1:]].any()
    expected = taken(trainer)
    found = gradients(trainer)
    trainer.update(played)
    assert error(found, expected) < 1e-4


def test_only_positions_before_completion_tokens_reach_the_vocabulary(engine: WitnessEngine) -> None:
    trainer = PolicyTrainer(engine, CONFIG)
    samples = max(tree(7, trainer, appended=1.0), key=len)
    assert len(samples) > 1
    ids = torch.from_numpy(np.concatenate([samples[-1].prompt_ids, samples[-1].completion_ids]))
    seen: list[torch.Tensor] = []
    causal = trainer.model.base_model.model
    handle = causal.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        trainer.logprobs(samples)
        handle.remove()
        hidden = causal.model(input_ids=ids[None]).last_hidden_state[0]
    asked = [len(s.prompt_ids) - 1 + i for s in samples for i in range(len(s.completion_ids))]
    assert len(asked) < len(ids) - 1
    assert torch.allclose(torch.cat(seen), hidden[asked], atol=1e-5)


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), most=st.sampled_from([1, 16, 4096]))
def test_logprobs_over_the_tree_are_those_of_whole_rows(
    engine: WitnessEngine, start: LoraWeights, seed: int, most: int
) -> None:
    trainer = PolicyTrainer(engine, TrainerConfig(max_tokens=most), start=start)
    samples = flat(tree(seed, trainer, appended=0.7))
    with torch.no_grad():
        expected = torch.cat([plain_logprobs(trainer.model, sample, 0.8) for sample in samples])
    assert torch.allclose(trainer.logprobs(samples, temperature=0.8), expected, atol=1e-4)


def test_a_token_of_many_calls_is_computed_once(engine: WitnessEngine) -> None:
    trainer = PolicyTrainer(engine, TrainerConfig(max_tokens=64))
    played = weigh(tree(7, trainer, appended=0.5), "call")
    prefixes = {tuple(ids[: n + 1]) for ids in map(inputs, flat(played)) for n in range(len(ids))}
    assert trainer.update(played)["tokens"] == len(prefixes) < sum(len(inputs(s)) for s in flat(played))


def test_a_trunk_too_large_for_memory_is_computed_in_parts(engine: WitnessEngine) -> None:
    """Two pairs of twins, whose trunks are too much together, not alone: each is computed once."""
    trainer = PolicyTrainer(engine, TrainerConfig(max_tokens=4))

    def twin(first: int, last: int) -> Sample:
        one = np.array([1])
        prompt = np.array([first, *range(1, 7), last])
        return Sample(prompt_ids=prompt, completion_ids=one, logprobs=-np.ones(1), advantage=1.0, weight=0.25)

    result = trainer.update([[twin(first, last)] for first in (5, 6) for last in (7, 8)])
    assert result["tokens"] == 2 * (7 + 2)


def test_a_gradient_longer_than_the_bound_is_shortened(engine: WitnessEngine, start: LoraWeights) -> None:
    trainer = PolicyTrainer(engine, TrainerConfig(max_grad_norm=1e-3), start=start)
    found = gradients(trainer)
    norm = trainer.update(weigh(tree(3, trainer), "call"))["grad_norm"]
    assert norm > 1e-2
    assert float(torch.cat([g.flatten() for g in found]).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_change(engine: WitnessEngine) -> None:
    trainer = PolicyTrainer(engine, CONFIG)
    before = trainer.weights().sha256()
    bad = [[weighted(s, advantage=float("nan")) for s in samples] for samples in weigh(tree(3, trainer), "call")]
    with pytest.raises(ConfigurationError, match="not finite"):
        trainer.update(bad)
    assert trainer.weights().sha256() == before


def test_a_kl_without_a_reference_is_refused(engine: WitnessEngine) -> None:
    trainer = PolicyTrainer(engine, CONFIG)
    with pytest.raises(ConfigurationError, match="set_reference"):
        trainer.update(weigh(tree(3, trainer), "call"), beta=0.1)


# Weights


def test_training_continues_from_the_weights_it_was_given(engine: WitnessEngine, start: LoraWeights) -> None:
    assert PolicyTrainer(engine, CONFIG, start=start).weights().sha256() == start.sha256()
    odd = LoraWeights(rank=2, alpha=2.5, pairs=start.pairs)
    trainer = PolicyTrainer(engine, CONFIG, start=odd)
    assert trainer.weights().alpha == 2.5
    ids = torch.from_numpy(inputs(tree(7, trainer, trajectories=1, appended=1.0)[0][-1]))
    with engine._lock, torch.no_grad():
        engine.use(engine.register("odd", odd).partition("@")[2])
        served = engine.model(input_ids=ids[None]).logits[0]
        trained = trainer.model(input_ids=ids[None]).logits[0]
    assert torch.allclose(served, trained, atol=1e-4)


def test_only_the_top_layers_are_trained_when_asked(engine: WitnessEngine, start: LoraWeights) -> None:
    top = PolicyTrainer(engine, TrainerConfig(top_layers=1)).weights()
    assert {name.split(".")[2] for name in top.pairs} == {"1"}
    assert {name.split(".")[2] for name in start.pairs} == {"0", "1"}
    with pytest.raises(ConfigurationError, match="other target layers"):
        PolicyTrainer(engine, TrainerConfig(top_layers=1), start=start)


def test_an_update_changes_neither_base_nor_registered_versions(engine: WitnessEngine, start: LoraWeights) -> None:
    model = engine.register("fixed", start)
    with engine._lock:
        engine.use("")
        base = {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}
    trainer = PolicyTrainer(engine, CONFIG, start=engine.weights(model))
    trainer.update(weigh(tree(3, trainer), "call"))
    assert trainer.weights().sha256() != start.sha256()
    assert engine.versions["fixed"].sha256() == start.sha256()
    with engine._lock:
        engine.use("")
        assert all(torch.equal(tensor, base[name]) for name, tensor in engine.model.state_dict().items())
    with pytest.raises(ModelError, match="use a new name"):
        engine.register("fixed", trainer.weights())


# Rollouts become samples


def test_every_call_that_was_served_is_trained_on_once_with_its_own_prompt(
    engine: WitnessEngine, groups: list[Group]
) -> None:
    played = [s for samples in grpo_samples(groups, "call") for s in samples]
    steps = [step for group in groups for t in group.trajectories for step in t.steps]
    assert {step.stage for step in steps} == set(Stage)
    assert len(steps) == len(played) > 12
    trained = Counter((tuple(s.prompt_ids.tolist()), tuple(s.completion_ids.tolist())) for s in played)
    taped = Counter((c.prompt_ids, c.completion_ids) for g in groups for own in completions(g) for _, c in own)
    assert trained == taped
    assert trained == Counter(engine.served[: len(played)])


def test_every_call_of_a_trajectory_has_its_advantage_and_all_tokens_weigh_one(groups: list[Group]) -> None:
    for scale in SCALES:
        played = grpo_samples(groups, scale)
        weight = sum(s.weight * len(s.completion_ids) for samples in played for s in samples)
        assert weight == pytest.approx(1.0)
        advantages = [{s.advantage for s in samples} for samples in played]
        assert [len(own) for own in advantages] == [1] * len(played)
        first, second = (min(own) for own in advantages[:2])
        assert first == pytest.approx(-second)
        better = int(np.argmax(groups[0].rewards))
        assert (first, second)[better] > 0


def test_with_stage_credit_the_calls_of_a_stage_are_compared_by_what_it_can_change(groups: list[Group]) -> None:
    """Stage 1 differs, stage 2 differs the other way, stage 3 ties and so teaches nothing."""
    parts = {Stage.CONSTRUCT: 1.0, Stage.CONTROL: -1.0, Stage.REASON: 0.0}
    whole = [samples for samples in grpo_samples(groups, "token") if samples]

    def part(terms: Mapping[str, float], stage: Stage) -> float:
        return parts[stage] * terms["reward"]

    staged = grpo_samples(groups, "token", partial(by_stage, part=part))
    for group in groups:
        assert len(set(group.rewards)) > 1
    taped = [[stage for stage, _ in own] for group in groups for own in completions(group)]
    for stages, own, all_same in zip(taped, staged, whole, strict=True):
        kept = [stage for stage in stages if stage is not Stage.REASON]
        advantage = all_same[0].advantage
        assert [one.advantage for one in own] == pytest.approx([parts[stage] * advantage for stage in kept])
    assert sum(one.weight * len(one.completion_ids) for own in staged for one in own) == pytest.approx(1.0)


def test_with_call_credit_calls_are_compared_with_those_that_saw_the_same_prompt(groups: list[Group]) -> None:
    def with_gains(group: Group, gain: Callable[[int], float]) -> Group:
        played = enumerate(group.trajectories)
        return replace(group, gains=tuple(tuple(gain(k) for _ in trajectory.steps) for k, trajectory in played))

    played = grpo_samples([with_gains(group, float) for group in groups], "token", partial(by_call, lam=0.0))
    alike = Counter(c.prompt_ids for group in groups for own in completions(group) for _, c in own)
    compared = Counter(tuple(one.prompt_ids.tolist()) for own in played for one in own)
    assert compared == {prompt: count for prompt, count in alike.items() if count > 1}
    assert 0 < compared.total() < alike.total()
    openings = [own[0].advantage for own in played[: len(groups[0].trajectories)]]
    assert openings == pytest.approx(group_advantages([float(k) for k in range(len(openings))]).tolist())
    assert sum(one.weight * len(one.completion_ids) for own in played for one in own) == pytest.approx(1.0)
    assert (
        grpo_samples([with_gains(group, lambda k: 1.0) for group in groups], "token", partial(by_call, lam=0.0)) == []
    )


def test_the_trainers_logprobs_are_the_samplers_under_a_version_and_the_base(
    engine: WitnessEngine, start: LoraWeights, groups: list[Group]
) -> None:
    base = rollouts(program(engine), TokenReward())
    for played, weights in ((groups, start), (base, None)):
        samples = flat(grpo_samples(played, "call"))
        logp = PolicyTrainer(engine, CONFIG, start=weights).logprobs(samples, temperature=0.8).numpy()
        taped = np.concatenate([s.logprobs for s in samples])
        assert np.abs(logp - taped).max() < 1e-4
    assert {c.model for g in base for own in completions(g) for _, c in own} == {"local/tiny"}
    assert {c.model for g in groups for own in completions(g) for _, c in own} == {"local/tiny@start"}


def test_the_first_update_on_fresh_rollouts_is_on_policy(
    engine: WitnessEngine, start: LoraWeights, groups: list[Group]
) -> None:
    trainer = PolicyTrainer(engine, CONFIG, start=start)
    trainer.set_reference()
    result = trainer.update(grpo_samples(groups, "call"), beta=0.1, temperature=0.8)
    assert result["ratio"] == pytest.approx(1.0, abs=1e-4)
    assert result["kl"] == pytest.approx(0.0, abs=1e-6)
    assert result["clip_fraction"] == 0.0


def test_groups_without_spread_teach_nothing_and_are_counted(groups: list[Group]) -> None:
    tied = Group(task="t", trajectories=groups[0].trajectories, rewards=(0.5, 0.5), terms=groups[0].terms)
    assert grpo_samples([tied], "call") == []
    assert describe_groups([tied, groups[1]])["tied_groups"] == 1
    kept = grpo_samples([tied, groups[1]], "call")
    assert len(kept) == len(groups[1].trajectories)
    assert sum(s.weight * len(s.completion_ids) for samples in kept for s in samples) == pytest.approx(1.0)


# The optimizer


def compiled(folder: Path, *, seed: int = 0) -> tuple[LoraWeights, list[dict[str, Any]]]:
    engine, lines = PolicyEngine(load(folder), name="tiny"), []
    config = GRPOConfig(num_generations=2, tasks_per_step=1, max_steps=2, num_threads=1, seed=seed)
    optimizer = StepwiseGRPO(TokenReward(), config=config, trainer=CONFIG, on_step=lines.append)
    result = optimizer.compile(program(engine), trainset=TRAINSET)
    weights = engine.weights(result.get_lm().model)
    assert weights is not None
    return weights, lines


def test_equal_seeds_give_equal_weights(folder: Path) -> None:
    first, lines = compiled(folder)
    again, _ = compiled(folder)
    other, _ = compiled(folder, seed=1)
    assert first.sha256() == again.sha256() != other.sha256()
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[1]["kl"] > lines[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert len({line["model"] for line in lines}) == 2


def test_the_student_and_torchs_generator_stay_as_they_were(folder: Path, tmp_path: Path) -> None:
    engine = PolicyEngine(load(folder), name="tiny")
    student = program(engine)
    torch.manual_seed(123)
    before, state, source = student.get_lm(), student.dump_state(), torch.get_rng_state()
    options = GRPOConfig(num_generations=2, tasks_per_step=1, max_steps=1, num_threads=2)
    result = StepwiseGRPO(TokenReward(), config=options, trainer=CONFIG, log_dir=tmp_path / "run").compile(
        student, trainset=TRAINSET
    )
    assert student.get_lm() is before
    assert student.dump_state() == state
    assert torch.equal(torch.get_rng_state(), source)
    assert student.get_lm().model == "local/tiny" != result.get_lm().model
    assert result.get_lm().kwargs == before.kwargs
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_reward_that_never_differs_leaves_the_weights(folder: Path) -> None:
    engine, lines = PolicyEngine(load(folder), name="tiny"), []
    config = GRPOConfig(num_generations=2, tasks_per_step=2, max_steps=1, num_threads=4)
    result = StepwiseGRPO(ConstantReward(), config=config, on_step=lines.append).compile(
        program(engine), trainset=TRAINSET
    )
    assert result.get_lm().model == "local/tiny"
    assert (lines[0]["tied_groups"], engine.versions) == (2, {})
    assert "loss" not in lines[0]


def test_a_progressive_curriculum_unlocks_the_stages(folder: Path) -> None:
    metric = StageReward()
    config = GRPOConfig(num_generations=2, tasks_per_step=1, max_steps=3, num_threads=1, curriculum="progressive")
    student = program(PolicyEngine(load(folder), name="tiny"))
    result = StepwiseGRPO(metric, config=config, trainer=CONFIG).compile(student, trainset=TRAINSET)
    assert metric.stages == [{1}, {1}, {1, 2}, {1, 2}, {1, 2, 3}, {1, 2, 3}]
    assert result.stages == student.stages == 3


class Alternating(TrajectoryReward):
    """Pays by the token for one example and the same for every trajectory of the other."""

    def terms(self, example: Any, trajectory: Trajectory) -> dict[str, float]:
        return (
            ConstantReward().terms(example, trajectory)
            if example.id == "b"
            else TokenReward().terms(example, trajectory)
        )


def test_a_group_that_ties_is_played_again_with_another_task(folder: Path) -> None:
    """Tasks come shuffled, each once: of two, one ties and is replaced by the other."""
    lines: list[dict[str, Any]] = []
    for resample in (0, 1):
        config = GRPOConfig(
            num_generations=2, tasks_per_step=1, max_steps=2, num_threads=2, beta=0.0, resample=resample
        )
        student = program(PolicyEngine(load(folder), name="tiny"))
        optimizer = StepwiseGRPO(Alternating(), config=config, trainer=CONFIG, on_step=lines.append)
        optimizer.compile(student, trainset=TRAINSET)
    assert sorted(line["tied_groups"] for line in lines[:2]) == [0, 1]
    assert sum(line["resampled_groups"] for line in lines[:2]) == 0
    assert sum(line["resampled_groups"] for line in lines[2:]) >= 1
    assert sum("loss" in line for line in lines[2:]) >= sum("loss" in line for line in lines[:2])


def test_a_run_whose_first_steps_all_tie_stops_with_advice(folder: Path) -> None:
    lines: list[dict[str, Any]] = []
    config = GRPOConfig(num_generations=2, tasks_per_step=1, max_steps=9, num_threads=2, dead_steps=2)
    optimizer = StepwiseGRPO(ConstantReward(), config=config, on_step=lines.append)
    with pytest.raises(TrainingError, match="first 2 steps .* warm the policy up first"):
        optimizer.compile(program(PolicyEngine(load(folder), name="tiny")), trainset=TRAINSET)
    assert len(lines) == 1


class Falling(TrajectoryReward):
    """Pays every validation less than the one before; training episodes by the token."""

    def __init__(self) -> None:
        super().__init__()
        self.validated = 0

    def terms(self, example: Any, trajectory: Trajectory) -> dict[str, float]:
        if example.id != "held out":
            return TokenReward().terms(example, trajectory)
        self.validated += 1
        return {"reward": -float(self.validated)}


def test_the_best_on_validation_is_returned_and_patience_ends_the_run(folder: Path) -> None:
    metric, lines = Falling(), list[dict[str, Any]]()
    valset = [TRAINSET[0].copy(id="held out")]
    config = GRPOConfig(num_generations=2, tasks_per_step=1, max_steps=9, num_threads=1, validate_every=2, patience=2)
    student = program(PolicyEngine(load(folder), name="tiny"))
    optimizer = StepwiseGRPO(metric, config=config, trainer=CONFIG, on_step=lines.append)
    result = optimizer.compile(student, trainset=TRAINSET, valset=valset)
    assert [line.get("validation") for line in lines] == [None, -2.0, None, -3.0]
    assert result.get_lm().model == student.get_lm().model
    with pytest.raises(ConfigurationError, match="validate_every needs a validation set"):
        optimizer.compile(student, trainset=TRAINSET)
