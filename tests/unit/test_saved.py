"""A program that was saved and loaded is the same program: the same prompts, token for token, and the same answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import pytest
import torch
from command_line import agemem, refused
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM

import agemem_dspy as am
from agemem_dspy.errors import ConfigurationError, ModelError, RunError
from agemem_dspy.memory.embedder import HashEmbedder
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import local_lm, policy_engine
from agemem_dspy.policy.lora import LoraWeights
from agemem_dspy.policy.merge import save_merged
from agemem_dspy.policy.models import load as load_model
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.programs.judges import JudgeAnswer, LMJudge
from agemem_dspy.programs.saved import load_reward

ROOT = Path(__file__).resolve().parents[2]
EPISODE = {"messages": ["I live in Rome.", "My cat is Tito."], "distractors": ["Nice weather."], "question": "Where?"}
DEMO = {
    "augmented": True,
    "context": {"messages": [{"role": "user", "kind": "message", "content": "I live in Oslo — «now»."}]},
    "reasoning": "",
    "tool_calls": {"tool_calls": [{"name": "add_memory", "args": {"content": "lives in Oslo"}}]},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = [f"I live in Rome {n}. <tool_call>[] Where? My cat is Tito." for n in range(40)]
    return tiny_llama(tmp_path_factory.mktemp("base"), corpus=corpus, hidden=32)


@pytest.fixture(scope="module")
def other_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("other"), corpus=["another corpus"], hidden=32, seed=1)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> PolicyEngine:
    return PolicyEngine(load_model(tiny), name="tiny", gather_seconds=0.001)


def lora(engine: PolicyEngine, seed: int = 0) -> LoraWeights:
    """Random weights, large enough to change every greedy completion."""
    random = torch.Generator().manual_seed(seed)
    pairs = {}
    for name, module in engine.model.named_modules():
        if name.endswith(("q_proj", "down_proj")):
            out, into = module.weight.shape
            pairs[name] = (torch.randn(4, into, generator=random), torch.randn(out, 4, generator=random))
    return LoraWeights(rank=4, alpha=8.0, pairs=pairs)


def trained(engine: PolicyEngine) -> am.ThreeStageEpisode:
    """An episode as compiling leaves it: demos, another wording, settings of its own, trained weights."""
    memory = am.LongTermMemory.open(":memory:", embedder=HashEmbedder(64))
    agent = am.AgeMemAgent(
        "question -> answer",
        memory=memory,
        max_rounds=2,
        max_context_tokens=4000,
        recall_top_k=1,
        filter_threshold=0.4,
        on_overflow="summarize",
        adapter=am.CompactAdapter(),
    )
    agent.step.demos = [DEMO]
    agent.step.signature = agent.step.signature.with_instructions("Remember “well”.")
    agent.step.config = {"max_tokens": 10}
    operation = agent.operations["add_memory"]
    operation.signature = operation.signature.with_instructions("Keep a fact.")
    episode = am.ThreeStageEpisode(agent)
    episode.set_lm(local_lm(engine, max_tokens=8).copy(model=engine.register("warm-1", lora(engine))))
    episode._compiled = True
    return episode


def transcript(program: Any) -> list[list[tuple[int, ...]]]:
    """Every token that went into and came out of the model in one greedy episode."""
    steps = program(**EPISODE).trajectory.steps
    return [[step.completion.prompt_ids, step.completion.completion_ids] for step in steps]


@pytest.fixture(scope="module")
def compiled(engine: PolicyEngine) -> am.ThreeStageEpisode:
    return trained(engine)


@pytest.fixture(scope="module")
def expected(compiled: am.ThreeStageEpisode) -> list[list[tuple[int, ...]]]:
    return transcript(compiled)


@pytest.fixture
def saved(compiled: am.ThreeStageEpisode, tmp_path: Path) -> Path:
    compiled.save(tmp_path / "compiled", metrics={"reward": 0.5})
    return tmp_path / "compiled"


def test_a_loaded_program_makes_the_same_prompts_and_completions(
    saved: Path, compiled: am.ThreeStageEpisode, expected: list[list[tuple[int, ...]]]
) -> None:
    loaded = am.load(saved)
    assert type(loaded) is am.ThreeStageEpisode
    own, base = policy_engine(loaded.get_lm()), policy_engine(compiled.get_lm())
    assert own is not None
    assert own is not base
    assert transcript(loaded) == expected
    assert loaded._compiled
    agent = loaded.agent
    assert (agent.max_rounds, agent.max_context_tokens, agent.recall_top_k, agent.filter_threshold) == (2, 4000, 1, 0.4)
    assert agent.on_overflow == "summarize"
    assert agent.step.lm is agent.summarize.lm
    assert agent.step.lm.kwargs == compiled.agent.step.lm.kwargs
    assert agent.operations["add_memory"].signature.instructions == "Keep a fact."


def test_the_weights_matter_to_what_is_compared(compiled: am.ThreeStageEpisode, engine: PolicyEngine) -> None:
    base = compiled.deepcopy()
    base.set_lm(compiled.get_lm().copy(model=engine.name))
    before, after = transcript(base)[0], transcript(compiled)[0]
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_it_is_the_same_in_a_new_process(saved: Path, expected: list[list[tuple[int, ...]]]) -> None:
    script = (
        "import json, sys, agemem_dspy as am; program = am.load(sys.argv[1]);"
        "steps = program(**json.loads(sys.argv[2])).trajectory.steps;"
        "print(json.dumps([[s.completion.prompt_ids, s.completion.completion_ids] for s in steps]))"
    )
    command = [sys.executable, "-c", script, str(saved), json.dumps(EPISODE)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[list(ids) for ids in step] for step in expected]


def test_saving_again_what_was_loaded_writes_the_same_program(saved: Path, tmp_path: Path) -> None:
    am.load(saved).save(tmp_path / "again")
    for name in ("program.json", "adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_the_manifest_says_where_the_weights_come_from(saved: Path, engine: PolicyEngine) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    assert manifest["base_model"]["sha256"] == engine.loaded.sha256
    assert manifest["base_model"]["name"] == engine.loaded.name
    assert manifest["adapter"] == {"version": "warm-1", "kind": "lora"}
    assert manifest["metrics"] == {"reward": 0.5}
    assert manifest["packages"]["dspy"] == dspy.__version__
    assert manifest["created"].endswith("+00:00")


def test_the_card_is_one_that_the_hub_reads(saved: Path, engine: PolicyEngine) -> None:
    card = ModelCard.load(saved / "README.md")
    assert card.data.library_name == "peft"
    assert "agemem" in card.data.tags
    assert "| reward | 0.500 | |" in card.text
    assert f"LoRA adapter of {engine.loaded.name}" in card.text
    assert str(saved) not in card.content
    (saved / "README.md").write_text("Edited on the hub.\n")
    am.load(saved)
    assert {path.suffix for path in saved.iterdir()} == {".json", ".md", ".safetensors"}


def test_an_engine_in_memory_is_shared(saved: Path, engine: PolicyEngine, expected: list[Any]) -> None:
    loaded = am.load(saved, lm=local_lm(engine, max_tokens=8))
    assert policy_engine(loaded.get_lm()) is engine
    assert loaded.get_lm().model == "local/tiny@warm-1"
    assert transcript(loaded) == expected


def test_weights_are_not_given_to_another_model(saved: Path, other_tiny: Path) -> None:
    with pytest.raises(ModelError, match="were trained on the base model .* pass an LM of that model"):
        am.load(saved, lm=local_lm(PolicyEngine(load_model(other_tiny))))
    with pytest.raises(ModelError, match="trained weights of .* which 'openai/gpt-4o-mini' cannot serve"):
        am.load(saved, lm=dspy.LM("openai/gpt-4o-mini"))


def test_a_base_model_that_moved_or_changed_is_named(tiny: Path, other_tiny: Path, tmp_path: Path) -> None:
    home = tmp_path / "base"
    shutil.copytree(tiny, home)
    engine = PolicyEngine(load_model(home))
    trained(engine).save(tmp_path / "compiled")
    shutil.rmtree(home)
    with pytest.raises(ModelError, match="base model 'base' .* is not here .* pass lm=local_lm"):
        am.load(tmp_path / "compiled")
    moved = am.load(tmp_path / "compiled", lm=local_lm(PolicyEngine(load_model(tiny)), max_tokens=8))
    assert moved.get_lm().model.endswith("@warm-1")
    shutil.copytree(other_tiny, home)
    with pytest.raises(ModelError, match="runs on the base model 'base' .* bring the right weights back"):
        am.load(tmp_path / "compiled")


def test_a_damaged_adapter_is_refused(saved: Path) -> None:
    weights = saved / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelError, match="adapter_model.safetensors is not the file that was saved"):
        am.load(saved)


def test_a_base_without_training_is_saved_without_weights(engine: PolicyEngine, tmp_path: Path) -> None:
    program = am.NoMemoryAgent("question -> answer", adapter=am.CompactAdapter())
    program.set_lm(local_lm(engine, max_tokens=8))
    program.save(tmp_path / "base")
    assert not (tmp_path / "base" / "adapter_config.json").exists()
    assert transcript(am.load(tmp_path / "base")) == transcript(program)


def test_two_trained_versions_in_one_program_are_refused(engine: PolicyEngine, tmp_path: Path) -> None:
    program = trained(engine)
    program.agent.summarize.lm = program.get_lm().copy(model=engine.register("warm-2", lora(engine, seed=2)))
    with pytest.raises(ConfigurationError, match="several versions .*warm-1.*set_lm"):
        program.save(tmp_path / "two")
    assert list(tmp_path.iterdir()) == []


def test_the_reward_is_kept_beside_the_program(tmp_path: Path) -> None:
    weights = am.RewardWeights(task=0.5, context=0.25, memory=0.25)
    agent = am.NoMemoryAgent("question -> answer")
    agent.save(tmp_path / "with", metric=am.TrajectoryReward(weights, bootstrap_threshold=0.9))
    reward = load_reward(tmp_path / "with")
    assert reward is not None
    assert (reward.weights, reward.bootstrap_threshold) == (weights, 0.9)
    agent.save(tmp_path / "without")
    assert load_reward(tmp_path / "without") is None
    with pytest.raises(ConfigurationError, match="only a TrajectoryReward can be saved"):
        agent.save(tmp_path / "function", metric=lambda example, pred: 1.0)
    with pytest.raises(ConfigurationError, match="a reward with answer_judge cannot be saved"):
        agent.save(tmp_path / "judged", metric=am.TrajectoryReward(answer_judge=LMJudge(JudgeAnswer)))


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="holds files but no saved program"):
        am.AgeMemAgent("question -> answer").save(tmp_path)
    with pytest.raises(RunError, match="is not a saved program"):
        am.load(tmp_path)


def test_an_unknown_kind_of_program_is_refused(tmp_path: Path) -> None:
    from agemem_dspy.checkpoints import write_checkpoint

    write_checkpoint(tmp_path / "new", {"agent": "AgentOfTomorrow"}, manifest={"packages": {}})
    with pytest.raises(RunError, match="holds a 'AgentOfTomorrow', which this version does not know"):
        am.load(tmp_path / "new")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_a_merged_model_is_base_and_adapter(tiny: Path, engine: PolicyEngine, tmp_path: Path) -> None:
    weights = lora(engine, seed=5)
    folder = save_merged(engine, engine.register("to-merge", weights), tmp_path / "merged")
    weights.save(tmp_path / "adapter", base_model=str(tiny))
    ids = torch.tensor([engine.tokenizer.encode("I live in Rome. Where?")])
    merged = AutoModelForCausalLM.from_pretrained(folder)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny)
    with torch.no_grad():
        logits, expected, before = (one.eval()(ids).logits for one in (merged, adapted, base))
    assert torch.allclose(logits, expected, atol=1e-4)
    assert not torch.allclose(logits, before, atol=1e-2)
    said = local_lm(engine, max_tokens=6).copy(model=f"{engine.name}@to-merge")("Where?")
    assert local_lm(str(folder), max_tokens=6)("Where?") == said
    with pytest.raises(RunError, match="holds something already"):
        save_merged(engine, engine.name, folder)
    with pytest.raises(ModelError, match="does not serve"):
        save_merged(engine, "local/tiny@nowhere", tmp_path / "new")


def test_the_command_line_merges_a_compiled_program(
    engine: PolicyEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(engine).save(tmp_path / "program")
    merged = str(tmp_path / "merged")
    done = agemem(capsys, "models", "merge", "--program", str(tmp_path / "program"), "--out", merged, "--json")
    assert done.code == 0, done.err
    assert done.json["path"] == merged
    assert (tmp_path / "merged" / "tokenizer.json").exists()
    again = refused(agemem(capsys, "models", "merge", "--program", str(tmp_path / "program"), "--out", merged))
    assert "holds something already" in again
    untrained = am.ThreeStageEpisode(am.AgeMemAgent("question -> answer"))
    untrained.set_lm(local_lm(engine))
    untrained.save(tmp_path / "untrained")
    words = ["models", "merge", "--program", str(tmp_path / "untrained"), "--out", str(tmp_path / "other")]
    assert "has no trained weights to merge" in refused(agemem(capsys, *words))
