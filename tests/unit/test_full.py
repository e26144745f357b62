"""Policies that are trained without an adapter: served, released, resumed, saved and merged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_episodes
import torch
from tiny_episodes import TRAINER, TRAINSET, TokenReward, sha, student
from transformers import AutoModelForCausalLM

import agemem_dspy as am
from agemem_dspy.errors import ConfigurationError, ModelError
from agemem_dspy.optimizers import GRPOConfig, StepwiseGRPO, TrainerConfig, TRLConfig, WarmStart
from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.full import FullWeights
from agemem_dspy.policy.lm import local_lm
from agemem_dspy.policy.lora import LoraWeights
from agemem_dspy.policy.merge import save_merged
from agemem_dspy.policy.models import load
from agemem_dspy.policy.versions import read_weights

folder = tiny_episodes.folder

FULL = TrainerConfig(learning_rate=1e-3, lora_r=None)
GRPO = GRPOConfig(max_steps=4, tasks_per_step=1, num_generations=2, num_threads=1, validate_every=1)


@pytest.fixture
def engine(folder: Path) -> PolicyEngine:
    return PolicyEngine(load(folder), name="tiny")


def noisy(engine: PolicyEngine, seed: int, config: TrainerConfig = FULL) -> FullWeights:
    """The base's weights and some noise."""
    source = torch.Generator().manual_seed(seed)
    weights = PolicyTrainer(engine, config).weights()
    changed = {name: t + 0.1 * torch.randn(t.shape, generator=source) for name, t in weights.tensors().items()}
    return FullWeights(parameters=changed)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(3, 40)[None]).logits
    return found


def served(engine: PolicyEngine, version: str) -> torch.Tensor:
    with engine._lock:
        engine.use(version)
        return logits(engine.model)


def test_a_version_takes_the_place_of_the_base_and_the_base_comes_back(engine: PolicyEngine) -> None:
    base = served(engine, "")
    for seed in (1, 2):
        engine.register(f"v{seed}", noisy(engine, seed))
    trained = PolicyTrainer(engine, FULL, start=noisy(engine, 2)).model
    assert torch.allclose(served(engine, "v2"), logits(trained), atol=1e-5)
    assert not torch.allclose(served(engine, "v1"), logits(trained), atol=1e-2)
    assert torch.equal(served(engine, ""), base)


def test_training_without_an_adapter_goes_on_from_one(engine: PolicyEngine) -> None:
    lora = PolicyTrainer(engine, TRAINER).weights()
    assert isinstance(lora, LoraWeights)
    for _, b in lora.pairs.values():
        b.normal_(generator=torch.Generator().manual_seed(0))
    engine.register("lora", lora)
    assert torch.allclose(logits(PolicyTrainer(engine, FULL, start=lora).model), served(engine, "lora"), atol=1e-4)


def test_only_the_top_layers_are_trained_when_asked(engine: PolicyEngine) -> None:
    top = replace(FULL, top_layers=1)
    names = set(PolicyTrainer(engine, top).weights().tensors())
    assert {name.split(".")[2] for name in names} == {"1"}
    everything = set(PolicyTrainer(engine, FULL).weights().tensors())
    assert everything == {name for name, _ in engine.model.named_parameters()} > names
    with pytest.raises(ConfigurationError, match="change 'model.embed_tokens.weight', which top_layers=1 leaves"):
        PolicyTrainer(engine, top, start=noisy(engine, 1))


def test_what_has_no_effect_or_cannot_go_on_is_refused(engine: PolicyEngine) -> None:
    with pytest.raises(ConfigurationError, match="lora_alpha has no effect without an adapter"):
        TrainerConfig(lora_r=None, lora_alpha=8)
    with pytest.raises(ConfigurationError, match="trained without an adapter: go on with lora_r=None"):
        PolicyTrainer(engine, TRAINER, start=noisy(engine, 1))
    with pytest.raises(ModelError, match=r"'model.norm.weight' has the shape \(32,\), and the weights are for \(31,\)"):
        engine.register("odd", FullWeights(parameters={"model.norm.weight": torch.zeros(31)}))


def test_a_released_version_is_unknown_and_may_be_taken_up_again(engine: PolicyEngine) -> None:
    base = served(engine, "")
    engine.register("v", noisy(engine, 1))
    served(engine, "v")
    engine.release("v")
    with pytest.raises(ModelError, match="does not serve 'local/tiny@v'"):
        engine.release("v")
    assert torch.equal(served(engine, ""), base)
    engine.register("v", noisy(engine, 2))
    fresh = PolicyEngine(load(engine.loaded.path), name="fresh")
    fresh.register("v", noisy(fresh, 2))
    assert torch.equal(served(engine, "v"), served(fresh, "v"))


def test_weights_are_read_back_as_they_were_written(engine: PolicyEngine, tmp_path: Path) -> None:
    weights = noisy(engine, 1)
    weights.save(tmp_path, base_model="tiny")
    again = read_weights(tmp_path)
    assert again.sha256() == weights.sha256() == weights.copy().sha256() != noisy(engine, 2).sha256()
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="model.safetensors cannot be read"):
        read_weights(tmp_path)


def grpo(**options: Any) -> StepwiseGRPO:
    return StepwiseGRPO(TokenReward(), config=GRPO, **{"trainer": FULL, **options})


def test_a_run_keeps_the_versions_that_are_wanted(folder: Path) -> None:
    """Four steps: the latest two and the best, each as large as the model."""
    lines: list[dict[str, Any]] = []
    program = grpo(on_step=lines.append).compile(student(folder), trainset=TRAINSET[:2], valset=TRAINSET[2:])
    lm = program.get_lm()
    trained = [line["model"] for line in lines]
    kept = {f"{lm.engine.name}@{version}" for version in lm.engine.versions}
    assert len(set(trained)) == 4
    assert {trained[-1], trained[-2], lm.model} - {lm.engine.name} == kept
    assert program(**TRAINSET[0].inputs()).trajectory.steps[0].completion.model == lm.model


@pytest.mark.filterwarnings("ignore")  # TRL 1.16 and accelerate 1.15 warn of their own affairs
def test_trl_trains_all_weights_too(folder: Path) -> None:
    trainer = TRLConfig(learning_rate=1e-3, lora_r=None, micro_batches=2)
    config = replace(GRPO, validate_every=0, max_steps=2)
    compiled = StepwiseGRPO(TokenReward(), config=config, trainer=trainer)
    program = compiled.compile(student(folder), trainset=TRAINSET[:2])
    weights = program.get_lm().engine.weights(program.get_lm().model)
    assert weights is not None
    assert weights.kind == "full"


class Stopped(Exception):
    pass


def test_a_run_that_was_stopped_goes_on(folder: Path, tmp_path: Path) -> None:
    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 2:
            raise Stopped

    examples: dict[str, Any] = {"trainset": TRAINSET[:2], "valset": TRAINSET[2:]}
    whole = grpo(log_dir=tmp_path / "whole").compile(student(folder), **examples)
    with pytest.raises(Stopped):
        grpo(log_dir=tmp_path / "run", on_step=stop).compile(student(folder), **examples)
    resumed = grpo(log_dir=tmp_path / "run").compile(student(folder), **examples)
    assert sha(resumed) == sha(whole) != ""


def test_a_program_is_saved_loaded_and_merged_with_its_weights(folder: Path, tmp_path: Path) -> None:
    warm = WarmStart(TokenReward(), threshold=-1.0, trainer=replace(FULL, learning_rate=1e-2), num_threads=1)
    program = warm.compile(student(folder), trainset=TRAINSET)
    program.save(tmp_path / "program")
    assert {"model.safetensors", "manifest.json", "README.md"} <= {one.name for one in (tmp_path / "program").iterdir()}
    assert "Its weights are those of" in (tmp_path / "program" / "README.md").read_text()
    lm = program.get_lm()
    elsewhere = local_lm(PolicyEngine(load(folder), name="elsewhere"), max_tokens=6)
    loaded = am.load(tmp_path / "program", lm=elsewhere)
    assert loaded.get_lm().engine is elsewhere.engine
    assert sha(loaded) == sha(program) != ""
    assert loaded.get_lm()("Where?") == lm("Where?") != local_lm(lm.engine, max_tokens=6)("Where?")
    merged = AutoModelForCausalLM.from_pretrained(save_merged(lm.engine, lm.model, tmp_path / "merged"))
    version = lm.model.partition("@")[2]
    assert torch.allclose(logits(merged.eval()), served(lm.engine, version), atol=1e-5)
    weights = tmp_path / "program" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelError, match="model.safetensors is not the file that was saved"):
        am.load(tmp_path / "program")
