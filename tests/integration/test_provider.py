"""DSPy's own weight optimizers train on the local engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
import torch
from dspy.clients.utils_finetune import TrainDataFormat, TrainingStatus
from dspy.teleprompt.grpo import GRPO  # DSPy does not name it at its top
from fakes import scripted_lm
from fakes_memory import InMemoryStore
from trajectories import make_example

from agemem_dspy.errors import ConfigurationError, TrainingError
from agemem_dspy.memory import HashEmbedder
from agemem_dspy.optimizers import TrainerConfig, trainable
from agemem_dspy.optimizers.provider import GRPOJob
from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import local_lm
from agemem_dspy.policy.models import load
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import TrajectoryReward

WORDS = ["red", "green", "blue", "black"]
EXAMPLES = [dspy.Example(question=f"colour {word}", answer=word).with_inputs("question") for word in WORDS]


@pytest.fixture
def engine(tmp_path: Path) -> PolicyEngine:
    corpus = ["question answer Given the fields produce Reply with alone", *[f"colour {word}" for word in WORDS]]
    loaded = load(tiny_llama(tmp_path / "tiny", corpus=corpus, hidden=32, vocab_size=300))
    with torch.no_grad():
        loaded.model.lm_head.weight.mul_(20)  # a head of random weights this small cannot be sure of any token
    return PolicyEngine(loaded)


def program(lm: dspy.LM) -> dspy.Predict:
    predict = dspy.Predict("question -> answer")
    predict.set_lm(trainable(lm))
    return predict


def conversations(reply: str) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"colour {word}"}, {"role": "assistant", "content": reply}]}
        for word in WORDS
    ]


def test_bootstrap_finetune_teaches_what_the_teacher_says(engine: PolicyEngine) -> None:
    student = program(local_lm(engine, max_tokens=6))
    teacher = dspy.Predict("question -> answer")
    teacher.set_lm(scripted_lm(["green"] * 4))
    options = {"learning_rate": 2e-2, "epochs": 15, "batch_size": 2, "lora_r": 8}
    with dspy.context(adapter=CompactAdapter()):
        assert student(question="colour red").answer != "green"
        optimizer = dspy.BootstrapFinetune(train_kwargs=options, adapter=CompactAdapter(), num_threads=1)
        compiled = optimizer.compile(student, trainset=EXAMPLES, teacher=teacher)
        assert [compiled(question=f"colour {word}").answer for word in WORDS] == ["green"] * 4
    assert "@finetuned-" in compiled.lm.model


def test_dspy_grpo_raises_the_reward_it_is_given(engine: PolicyEngine) -> None:
    student = program(local_lm(engine, max_tokens=4, temperature=1.0))
    adapter = CompactAdapter()
    asked = [adapter.format(student.signature, [], dict(one.inputs())) for one in EXAMPLES]
    said = [{"messages": [*turns, {"role": "assistant", "content": word}]} for turns in asked for word in WORDS]
    warm = student.lm.finetune(said, TrainDataFormat.CHAT, {"learning_rate": 1e-2, "epochs": 30, "lora_r": 8}).result()
    student.set_lm(warm)

    def is_green(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> float:
        return float(prediction.answer == "green")

    def share() -> float:
        return dspy.Evaluate(devset=EXAMPLES * 8, metric=is_green, num_threads=1)(student).score

    with dspy.context(adapter=adapter):
        assert share() < 50
        GRPO(
            metric=is_green,
            adapter=adapter,
            exclude_demos=True,
            num_threads=1,
            num_train_steps=12,
            num_dspy_examples_per_grpo_step=2,
            num_rollouts_per_grpo_step=8,
            train_kwargs={"learning_rate": 3e-3, "lora_r": 8},
        ).compile(student, trainset=EXAMPLES)
        assert share() > 70
    assert "@grpo-" in student.lm.model


def test_dspy_grpo_trains_a_three_stage_episode(engine: PolicyEngine) -> None:
    agent = AgeMemAgent(
        "question -> answer", memory=InMemoryStore(HashEmbedder()), adapter=CompactAdapter(), max_rounds=1
    )
    student = ThreeStageEpisode(agent)
    student.set_lm(trainable(local_lm(engine, max_tokens=4, temperature=1.0)))

    def tokens(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> float:
        TrajectoryReward()(example, prediction)
        return -float(sum(len(step.completion.completion_ids) for step in prediction.trajectory.steps))

    GRPO(
        metric=tokens,
        adapter=CompactAdapter(),
        exclude_demos=True,
        num_train_steps=1,
        num_rollouts_per_grpo_step=2,
        variably_invoked_predictor_grouping_mode="fill",
        variably_invoked_predictor_fill_strategy="max",
        failure_score=-90.0,
        format_failure_score=-100.0,
    ).compile(student, trainset=[make_example()])


# The jobs by themselves


def group(*rewards: float) -> list[dict[str, Any]]:
    asked = [{"role": "user", "content": "colour red"}]
    return [
        {"messages": asked, "completion": {"role": "assistant", "content": word}, "reward": reward}
        for word, reward in zip(WORDS, rewards, strict=False)
    ]


def begun(engine: PolicyEngine, **options: Any) -> tuple[GRPOJob, dspy.LM]:
    lm = trainable(local_lm(engine, temperature=1.0))
    job = lm.reinforce({"learning_rate": 1e-2, **options})
    assert isinstance(job, GRPOJob)
    return job, lm


def test_a_step_raises_what_was_better_and_serves_the_new_version(engine: PolicyEngine) -> None:
    job, lm = begun(engine, num_generations=2)
    base = lm.model
    ids = job.get_status()["pending_batch_ids"]
    job.step([{"batch_id": ids[0], "group": group(1.0, 0.0)}], TrainDataFormat.GRPO_CHAT)
    assert lm.model != base == engine.name
    assert job.metrics[0]["ratio"] == pytest.approx(1.0, abs=1e-5)  # the sampler's weights are the trained ones

    def logp(model: str, word: str) -> float:
        completion = engine.encode_completion(word)
        one = Sample(
            prompt_ids=engine.render([{"role": "user", "content": "colour red"}]),
            completion_ids=completion,
            logprobs=np.zeros(len(completion)),
            advantage=1.0,
            weight=1.0,
        )
        trainer = PolicyTrainer(engine, TrainerConfig(), start=engine.weights(model))
        return float(trainer.logprobs([one]).sum())

    assert logp(lm.model, "red") - logp(lm.model, "green") > logp(base, "red") - logp(base, "green")


def test_a_group_is_trained_on_once_and_a_tie_not_at_all(engine: PolicyEngine) -> None:
    job, lm = begun(engine)
    told = {"batch_id": 0, "group": group(1.0, 0.0)}
    job.step([told, told], TrainDataFormat.GRPO_CHAT)
    version = lm.model
    assert job.metrics[0]["tokens"] < 2 * len(engine.render(told["group"][0]["messages"]))
    job.step([told, {"batch_id": 1, "group": group(0.5, 0.5)}], TrainDataFormat.GRPO_CHAT)  # DSPy's leftovers
    assert lm.model == version
    assert len(job.metrics) == 1
    offered = [job.get_status()["pending_batch_ids"] for _ in range(2)]
    assert offered[0] == offered[1]
    assert min(offered[0]) == 4
    job.step([], TrainDataFormat.GRPO_CHAT)
    job.step([told], TrainDataFormat.GRPO_CHAT)  # sampled again, as it happens with the same words
    assert len(job.metrics) == 2


def test_a_checkpoint_is_a_version_that_stays(engine: PolicyEngine) -> None:
    job, lm = begun(engine)
    job.save_checkpoint("start")
    job.step([{"batch_id": 0, "group": group(1.0, 0.0)}], TrainDataFormat.GRPO_CHAT)
    job.save_checkpoint("end")
    job.terminate()
    assert job.checkpoints == {"start": engine.name, "end": lm.model}
    assert job.last_checkpoint == "end"
    assert job.status() is TrainingStatus.succeeded


def test_a_cancelled_fine_tuning_registers_nothing(engine: PolicyEngine) -> None:
    lm = trainable(local_lm(engine))
    job = lm.finetune(conversations("red"), TrainDataFormat.CHAT, {"epochs": 100_000})
    assert job.status() is TrainingStatus.running
    assert job.cancel()
    assert isinstance(job.result(timeout=60), TrainingError)
    assert job.status() is TrainingStatus.cancelled
    assert not engine.versions
    assert not job.cancel()
    done = trainable(local_lm(engine)).finetune(conversations("red"), TrainDataFormat.CHAT, {"learning_rate": 1e-3})
    done.result(timeout=60)
    assert not done.cancel()
    assert done.status() is TrainingStatus.succeeded


@pytest.mark.parametrize(
    ("options", "told"),
    [({"learn_rate": 1.0}, "unknown option 'learn_rate'; known: learning_rate"), ({"learning_rate": -1}, "positive")],
)
def test_wrong_options_are_refused_by_name(engine: PolicyEngine, options: dict[str, Any], told: str) -> None:
    lm = trainable(local_lm(engine, temperature=1.0))
    with pytest.raises(ConfigurationError, match=told):
        lm.reinforce(options)
    job = lm.finetune(conversations("red"), TrainDataFormat.CHAT, options)
    assert told.split(";")[0] in str(job.result(timeout=60))
    assert job.status() is TrainingStatus.failed


def test_what_cannot_be_trained_is_refused(engine: PolicyEngine) -> None:
    with pytest.raises(ConfigurationError, match="local_lm"):
        trainable(dspy.LM("openai/gpt-4o-mini"))
    with pytest.raises(ConfigurationError, match="temperature"):
        trainable(local_lm(engine)).reinforce({})
    job, _ = begun(engine, num_generations=3)
    with pytest.raises(ConfigurationError, match="num_generations=3"):
        job.step([{"batch_id": 0, "group": group(1.0, 0.0)}], TrainDataFormat.GRPO_CHAT)
    with pytest.raises(ConfigurationError, match="grpo_chat"):
        job.step([], TrainDataFormat.CHAT)
    assert "chat" in str(trainable(local_lm(engine)).finetune([], TrainDataFormat.COMPLETION).result(timeout=60))
