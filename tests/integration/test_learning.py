"""A tiny Llama, trained from nothing in a test, learns by step-wise GRPO what its pretraining left open.

The task is small on purpose: two facts to store, one distractor to clear away, a question. The base knows the
format, but its demonstrator made four decisions in ten carelessly.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest

from agemem_dspy.errors import ConfigurationError, DataError
from agemem_dspy.memory import HashEmbedder, LongTermMemory
from agemem_dspy.optimizers.demonstrator import careless_outputs
from agemem_dspy.optimizers.grpo_config import GRPOConfig
from agemem_dspy.optimizers.pretrain import pretrain_tiny
from agemem_dspy.optimizers.rollouts import collect_groups
from agemem_dspy.optimizers.samples import completions, grpo_samples
from agemem_dspy.optimizers.stepwise_grpo import StepwiseGRPO
from agemem_dspy.optimizers.training import TrainerConfig
from agemem_dspy.optimizers.tree import TokenTree
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import local_lm
from agemem_dspy.policy.models import load
from agemem_dspy.policy.weights import model_sha256
from agemem_dspy.programs import AgeMemAgent, ThreeStageEpisode
from agemem_dspy.rewards import RewardWeights, TrajectoryReward
from agemem_dspy.types import Group

VALUES = {"hotel": ("Ritz", "Savoy"), "seat": ("aisle", "window"), "diet": ("vegan", "halal")}
CHAT = ("It rains again.", "A dog barks.")
# What GRPO can move in a minute: clearing the context away, and an answer, whose absence costs a point in any profile.
METRIC = TrajectoryReward(RewardWeights(task=0.0, context=1.0, memory=0.0))


def episodes(count: int, *, seed: int) -> list[dspy.Example]:
    """Make episodes of one small world."""
    source = random.Random(seed)
    made = []
    for number in range(count):
        told = [(label, source.choice(VALUES[label])) for label in source.sample(sorted(VALUES), 2)]
        label, value = source.choice(told)
        facts = [f"{name}: {own}" for name, own in told]
        example = dspy.Example(
            id=f"{seed}-{number}",
            messages=[f"My {name} is {own}." for name, own in told],
            distractors=[source.choice(CHAT)],
            question=f"What is my {label}?",
            answer=value,
            facts=facts,
            operations=[{"turn": turn, "tool": "add_memory", "content": fact} for turn, fact in enumerate(facts)],
            support=[f"{label}: {value}"],
            key_items=[value],
        )
        made.append(example.with_inputs("messages", "distractors", "question"))
    return made


def program() -> ThreeStageEpisode:
    agent = AgeMemAgent(
        "question -> answer",
        memory=LongTermMemory.open(":memory:", embedder=HashEmbedder()),
        adapter=CompactAdapter(),
        max_rounds=2,
        max_context_tokens=1024,
    )
    return ThreeStageEpisode(agent)


TRAIN, HELD_OUT = episodes(100, seed=1), episodes(32, seed=9)


@dataclass(frozen=True, kw_only=True)
class Learned:
    base: ThreeStageEpisode
    compiled: ThreeStageEpisode
    losses: Sequence[float]
    lines: Sequence[dict[str, Any]]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """Pretraining and GRPO, once: about 50 s of one core."""
    losses: list[float] = []
    lines: list[dict[str, Any]] = []
    base = program()
    folder = pretrain_tiny(
        tmp_path_factory.mktemp("tiny"),
        base,
        TRAIN,
        steps=400,
        mistakes=0.4,
        max_tokens=1024,
        on_step=lambda line: losses.append(float(str(line["loss"]))),
    )
    base.set_lm(local_lm(PolicyEngine(load(folder)), max_tokens=48))
    optimizer = StepwiseGRPO(
        METRIC,
        config=GRPOConfig(max_steps=25, tasks_per_step=2, num_generations=8, beta=0.0),
        trainer=TrainerConfig(learning_rate=2e-3, max_tokens=4096),
        on_step=lines.append,
    )
    return Learned(base=base, compiled=optimizer.compile(base, trainset=TRAIN[:64]), losses=losses, lines=lines)


def drawn(program: ThreeStageEpisode) -> list[Group]:
    """Play the held-out episodes as GRPO plays: twice each, at temperature 1."""
    return collect_groups(program, HELD_OUT, METRIC, num_generations=2, temperature=1.0, num_threads=32, entropy=(11,))


def mean(groups: Sequence[Group], term: str) -> float:
    return statistics.fmean(terms[term] for group in groups for terms in group.terms)


def test_the_base_is_tiny_and_speaks_the_format(learned: Learned) -> None:
    lm = learned.base.get_lm()
    assert sum(p.numel() for p in lm.engine.model.parameters()) <= 1_000_000
    assert statistics.fmean(learned.losses[-20:]) < 0.2 * learned.losses[0]
    played = drawn(learned.base)
    assert statistics.fmean(s.parsed for group in played for t in group.trajectories for s in t.steps) > 0.9
    # What never parses gets -1 for the task and -1 for not answering.
    assert mean(played, "reward") > -0.5


def test_grpo_raises_the_reward_on_held_out_episodes(learned: Learned) -> None:
    before, after = drawn(learned.base), drawn(learned.compiled)
    assert mean(after, "reward") > mean(before, "reward") + 0.05
    assert mean(after, "preventive") > mean(before, "preventive") + 0.1
    assert len(learned.lines) == 25


def test_the_base_and_every_version_on_the_way_are_still_there(learned: Learned) -> None:
    engine = learned.base.get_lm().engine
    served = [str(line["model"]).partition("@")[2] for line in learned.lines]
    assert learned.base.get_lm().model == engine.name
    assert list(dict.fromkeys(served)) == list(engine.versions)
    assert learned.compiled.get_lm().model == learned.lines[-1]["model"]


def test_steps_over_an_edited_context_are_trained_as_they_were_served(learned: Learned) -> None:
    """A filter makes a trajectory of several branches; each call is trained once, token for token."""
    groups = collect_groups(
        learned.compiled, TRAIN[:2], METRIC, num_generations=4, temperature=1.0, num_threads=8, entropy=(7,)
    )
    varied = [group for group in groups if len(set(group.rewards)) > 1]
    trajectories = grpo_samples(groups, "call")
    samples = [sample for own in trajectories for sample in own]
    taped = [one for group in varied for own in completions(group) for _, one in own]
    found = [(tuple(sample.prompt_ids), tuple(sample.completion_ids)) for sample in samples]
    assert found == [(one.prompt_ids, one.completion_ids) for one in taped]
    assert len(trajectories) < len(TokenTree(samples).leaves)


# Pretraining


def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    folders = [
        pretrain_tiny(tmp_path / name, program(), TRAIN[:4], steps=2, max_tokens=256, seed=seed)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    first, same, other = (model_sha256(folder) for folder in folders)
    assert first == same != other


@pytest.mark.parametrize("mistakes", [0.0, 0.3, 0.6])
def test_the_share_of_careless_decisions_is_the_one_asked_for(mistakes: float) -> None:
    source = random.Random(0)
    outputs = [list(careless_outputs(example, mistakes, source)) for example in episodes(400, seed=2)]
    storing = np.mean([bool(steps[turn].get("tool_calls")) for steps in outputs for turn in (0, 1)])
    looking = np.mean([len(steps) == 5 for steps in outputs])
    assert storing == pytest.approx(1 - mistakes, abs=0.06)
    assert looking == pytest.approx(1 - mistakes, abs=0.06)


def test_without_mistakes_the_careless_demonstrator_is_perfect() -> None:
    example = episodes(1, seed=0)[0]
    steps = list(careless_outputs(example, 0.0, random.Random(0)))
    tools = [step["tool_calls"][0]["name"] for step in steps[:-1]]
    assert tools == ["add_memory", "add_memory", "filter_context", "retrieve_memory"]
    assert steps[-1] == {"answer": example.answer}


@pytest.mark.parametrize(
    "options", [{"examples": []}, {"steps": 0}, {"mistakes": 1.0}, {"learning_rate": 0.0}, {"max_tokens": 0}]
)
def test_what_cannot_be_pretrained_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="pretraining needs"):
        pretrain_tiny(tmp_path, program(), **{"examples": TRAIN[:1], **options})


def test_an_example_without_operations_is_named(tmp_path: Path) -> None:
    bare = dspy.Example(id="bare", messages=["Hi."], distractors=[], question="Who?")
    with pytest.raises(DataError, match="'bare'"):
        pretrain_tiny(tmp_path, program(), [bare.with_inputs("messages", "distractors", "question")])
