"""What cannot be trained is refused by name, before anything is sampled where that can be known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest

from agemem_dspy.errors import ConfigurationError, RewardError, RunError
from agemem_dspy.memory import HashEmbedder, LongTermMemory
from agemem_dspy.optimizers import GRPOConfig, StepwiseGRPO, TrainerConfig
from agemem_dspy.optimizers.monitor import describe_groups
from agemem_dspy.optimizers.samples import grpo_samples
from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import local_lm
from agemem_dspy.policy.models import load
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import RewardWeights, TrajectoryReward
from agemem_dspy.types import Group, Stage, Step, StopReason, Trajectory

SMALL = GRPOConfig(num_generations=2, tasks_per_step=1, max_steps=1, num_threads=2)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> PolicyEngine:
    folder = tiny_llama(tmp_path_factory.mktemp("tiny"), corpus=["Rome"], hidden=32, heads=2, vocab_size=300)
    return PolicyEngine(load(folder), name="tiny")


@pytest.fixture
def student(engine: PolicyEngine) -> ThreeStageEpisode:
    memory = LongTermMemory.open(":memory:", embedder=HashEmbedder())
    agent = AgeMemAgent("question -> answer", memory=memory, adapter=CompactAdapter(), max_rounds=1)
    episode = ThreeStageEpisode(agent)
    episode.set_lm(local_lm(engine, max_tokens=3))
    return episode


def example(**changes: Any) -> dspy.Example:
    gold = {"answer": "Lyon", "facts": [], "operations": [], "support": [], "key_items": []}
    fields = {"id": "a", "messages": ["Hi."], "distractors": [], "question": "Where?", **gold, **changes}
    return dspy.Example(**fields).with_inputs("messages", "distractors", "question")


def reward() -> TrajectoryReward:
    return TrajectoryReward(RewardWeights.paper(), embedder=HashEmbedder())


class BrokenReward(TrajectoryReward):
    """Has a term that fails on every trajectory."""

    def terms(self, example: Any, trajectory: Trajectory) -> dict[str, float]:
        def politeness(*_: Any) -> float:
            raise ZeroDivisionError("no words")

        return {"reward": self._value("politeness", politeness, example, trajectory)}


def test_a_term_that_raises_stops_the_run_with_its_name(student: ThreeStageEpisode) -> None:
    with pytest.raises(RewardError, match="'politeness' failed: ZeroDivisionError: no words"):
        StepwiseGRPO(BrokenReward(), config=SMALL).compile(student, trainset=[example()])


def test_labels_that_cannot_be_read_stop_the_run_with_the_terms_name(student: ThreeStageEpisode) -> None:
    with pytest.raises(RewardError, match="reward term 'preservation' failed"):
        StepwiseGRPO(reward(), config=SMALL).compile(student, trainset=[example(facts=5)])


def test_an_example_without_labels_is_no_reward_of_zero(student: ThreeStageEpisode) -> None:
    unlabelled = dspy.Example(messages=["Hi."], question="Where?").with_inputs("messages", "question")
    with pytest.raises(RewardError, match="facts"):
        StepwiseGRPO(reward(), config=SMALL).compile(student, trainset=[unlabelled])


def test_an_empty_training_set_is_refused(student: ThreeStageEpisode) -> None:
    with pytest.raises(ConfigurationError, match="training set is empty"):
        StepwiseGRPO(reward(), config=SMALL).compile(student, trainset=[])


def test_an_unknown_option_is_refused_by_name(student: ThreeStageEpisode) -> None:
    with pytest.raises(ConfigurationError, match="does not know the option 'num_epochs'"):
        StepwiseGRPO(reward(), config=SMALL).compile(student, trainset=[example()], num_epochs=3)


def test_a_remote_lm_cannot_be_trained(student: ThreeStageEpisode) -> None:
    student.set_lm(dspy.LM("openai/x"))
    with pytest.raises(ConfigurationError, match="'openai/x' is not a local policy"):
        StepwiseGRPO(reward(), config=SMALL).compile(student, trainset=[example()])


def test_several_lms_cannot_be_trained_at_once(student: ThreeStageEpisode) -> None:
    student.agent.summarize.lm = dspy.LM("openai/x")
    with pytest.raises(ConfigurationError, match="several LMs"):
        StepwiseGRPO(reward(), config=SMALL).compile(student, trainset=[example()])


def test_no_lm_at_all_is_refused() -> None:
    memory = LongTermMemory.open(":memory:", embedder=HashEmbedder())
    bare = ThreeStageEpisode(AgeMemAgent("question -> answer", memory=memory))
    with dspy.context(lm=None), pytest.raises(ConfigurationError, match="no LM is set"):
        StepwiseGRPO(reward(), config=SMALL).compile(bare, trainset=[example()])


def test_a_log_folder_that_cannot_be_written_is_found_before_anything_is_sampled(
    student: ThreeStageEpisode, engine: PolicyEngine, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("taken")
    calls = engine.counts.calls
    with pytest.raises(RunError, match="choose another log_dir"):
        StepwiseGRPO(reward(), config=SMALL, log_dir=tmp_path / "file" / "run").compile(student, trainset=[example()])
    assert engine.counts.calls == calls


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_generations": 1}, "num_generations is 1"),
        ({"num_generations": 0}, "num_generations is 0"),
        ({"tasks_per_step": 0}, "at least 1"),
        ({"max_steps": 0}, "at least 1"),
        ({"num_threads": 0}, "at least 1"),
        ({"temperature": 0.0}, "greedy"),
        ({"temperature": -1.0}, "greedy"),
        ({"beta": -0.1}, "beta"),
        ({"clip": 0.0}, "clip"),
        ({"scale": "step"}, "'step'"),
        ({"credit": "turn"}, "'turn'"),
        ({"lam": 1.5}, "lam must be between 0 and 1"),
        ({"seed": -1}, "seed"),
        ({"curriculum": "random"}, "'random'"),
        ({"curriculum": "progressive", "max_steps": 2}, "max_steps of at least 3"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        GRPOConfig(**option)


@pytest.mark.parametrize("name", ["learning_rate", "lora_r", "lora_alpha", "max_tokens", "max_grad_norm"])
def test_a_trainer_that_cannot_train_is_refused(name: str) -> None:
    bad: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigurationError, match=name):
        TrainerConfig(**bad)


@pytest.mark.parametrize("layers", [0, 3, -1])
def test_layers_that_are_not_there_are_refused(engine: PolicyEngine, layers: int) -> None:
    with pytest.raises(ConfigurationError, match="between 1 and 2"):
        PolicyTrainer(engine, TrainerConfig(top_layers=layers))


def step(error: str | None) -> Step:
    return Step(
        stage=Stage.REASON,
        turn=0,
        round=1,
        kind="act",
        context=(),
        output={},
        parsed=False,
        prompt_tokens=1,
        error=error,
    )


def group(*steps: Step) -> Group:
    played = Trajectory(
        steps=steps, events=(), answer=None, stop_reason=StopReason.ROUND_LIMIT, context_tokens=1, max_context_tokens=9
    )
    return Group(task="a", trajectories=(played, played), rewards=(0.0, 1.0), terms=({"reward": 0.0}, {"reward": 1.0}))


def test_steps_without_sampled_tokens_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no sampled tokens"):
        grpo_samples([group(step(None))], "call")


def test_episodes_without_a_call_are_no_samples() -> None:
    assert grpo_samples([group(step("the prompt is too long"))], "call") == []
    assert describe_groups([group()])["parse_rate"] is None
