"""Episodes of three facts for an untrained tiny model, and a reward that tells its trajectories apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from agemem_dspy.memory import HashEmbedder, LongTermMemory
from agemem_dspy.optimizers import TrainerConfig
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import local_lm
from agemem_dspy.policy.models import load
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import TrajectoryReward
from agemem_dspy.types import Trajectory

TRAINER = TrainerConfig(learning_rate=1e-2, lora_r=2, lora_alpha=4)
TRAINSET = [
    dspy.Example(
        id=name,
        messages=[f"I live in {city}."],
        distractors=["Nice day."],
        question="Where do I live?",
        answer=city,
        facts=[f"home: {city}"],
        operations=[{"turn": 0, "tool": "add_memory", "content": f"home: {city}"}],
        support=[f"home: {city}"],
    ).with_inputs("messages", "distractors", "question")
    for name, city in (("a", "Lyon"), ("b", "Rome"), ("c", "Oslo"))
]


class TokenReward(TrajectoryReward):
    """Pays the mean token id, so that rollouts of an untrained model differ."""

    def terms(self, example: Any, trajectory: Trajectory) -> dict[str, float]:
        taken = [token for step in trajectory.steps if step.completion for token in step.completion.completion_ids]
        return {"reward": sum(taken) / len(taken) if taken else 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    corpus = ["Reply with <tool_call> or <answer>text</answer>, nothing else. memory context arguments name tool"]
    return tiny_llama(
        tmp_path_factory.mktemp("tiny"), corpus=corpus, hidden=32, layers=2, heads=2, vocab_size=400, max_positions=4096
    )


def student(folder: Path) -> ThreeStageEpisode:
    """An episode on an engine of its own, as another process would have it."""
    memory = LongTermMemory.open(":memory:", embedder=HashEmbedder())
    episode = ThreeStageEpisode(AgeMemAgent("question -> answer", memory=memory, adapter=CompactAdapter()))
    episode.set_lm(local_lm(PolicyEngine(load(folder), name="tiny"), max_tokens=6))
    return episode


def sha(program: ThreeStageEpisode) -> str:
    lm = program.get_lm()
    weights = lm.engine.weights(lm.model)
    return str(weights.sha256()) if weights is not None else ""
