"""The reward tuner: a resumable study whose value is the unweighted answer score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agemem_dspy.data.assistant import generate
from agemem_dspy.errors import ConfigurationError, RunError
from agemem_dspy.memory.embedder import HashEmbedder
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.optimizers.grpo_config import GRPOConfig
from agemem_dspy.optimizers.training import TrainerConfig
from agemem_dspy.optimizers.tuning import RewardTuner, simplex, uniforms
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.policy.lm import local_lm
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.programs import AgeMemAgent, ThreeStageEpisode
from agemem_dspy.rewards import RewardWeights

GRPO = GRPOConfig(num_generations=2, tasks_per_step=1, max_steps=1, beta=0.0)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> ThreeStageEpisode:
    folder = tiny_llama(tmp_path_factory.mktemp("tiny"), corpus=["Ana lives in Rome"], vocab_size=300, hidden=32)
    agent = AgeMemAgent(
        "question -> answer",
        memory=LongTermMemory.open(":memory:", embedder=HashEmbedder()),
        adapter=CompactAdapter(),
        max_rounds=1,
    )
    episode = ThreeStageEpisode(agent)
    episode.set_lm(local_lm(folder, max_tokens=8))
    return episode


def tuner(student: ThreeStageEpisode, folder: Path, **options: object) -> RewardTuner:
    settings: dict[str, object] = {"n_trials": 2, "grpo": GRPO, "trainer": TrainerConfig(lora_r=2)}
    return RewardTuner(
        student,
        trainset=generate("train", 2),
        valset=generate("val", 2),
        study_dir=folder,
        **{**settings, **options},  # type: ignore[arg-type]
    )


def test_the_known_points_come_first_and_the_value_is_the_answer_score(
    student: ThreeStageEpisode, tmp_path: Path
) -> None:
    seen: list[dict[str, object]] = []
    model = student.get_lm().model
    result = tuner(student, tmp_path, on_trial=seen.append).run()
    assert [trial["weights"] for trial in result.trials] == [
        pytest.approx({"task": 1 / 3, "context": 1 / 3, "memory": 1 / 3}),
        pytest.approx({"task": 1.0, "context": 0.0, "memory": 0.0}, abs=1e-5),
    ]
    assert [trial["trial"] for trial in seen] == [0, 1]
    assert result.value == 0.0  # a random model answers nothing right; its weighted reward would be negative
    assert student.get_lm().model == model


def test_a_second_run_continues_the_study(student: ThreeStageEpisode, tmp_path: Path) -> None:
    tuner(student, tmp_path, n_trials=1).run()
    again = tuner(student, tmp_path, n_trials=3).run()
    assert [trial["trial"] for trial in again.trials] == [0, 1, 2]
    assert len(tuner(student, tmp_path, n_trials=3).run().trials) == 3


def test_an_interrupted_trial_is_played_again_and_not_counted(student: ThreeStageEpisode, tmp_path: Path) -> None:
    class Stop(BaseException):
        """What Ctrl-C is to a program."""

    class Interrupted(RewardTuner):
        def _objective(self, trial: optuna.Trial) -> float:
            super()._objective(trial)
            raise Stop

    settings: dict[str, Any] = {"trainset": generate("train", 2), "valset": generate("val", 2), "study_dir": tmp_path}
    settings |= {"n_trials": 2, "grpo": GRPO, "trainer": TrainerConfig(lora_r=2)}
    with pytest.raises(Stop):
        Interrupted(student, **settings).run()
    result = RewardTuner(student, **settings).run()
    assert [trial["state"] for trial in result.trials] == ["complete", "complete"]
    weights = [trial["weights"]["task"] for trial in result.trials]
    assert sorted(weights) == pytest.approx([1 / 3, 1.0], abs=1e-5)


def test_ctrl_c_in_training_ends_the_study_and_its_trial_does_not_count(
    student: ThreeStageEpisode, tmp_path: Path
) -> None:
    class CtrlC(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            raise KeyboardInterrupt  # while a step is reported

    class Interrupted(RewardTuner):
        def _open(self) -> optuna.Study:
            study = super()._open()
            study.pruner = CtrlC()
            return study

    settings: dict[str, Any] = {"trainset": generate("train", 2), "valset": generate("val", 2), "study_dir": tmp_path}
    settings |= {"n_trials": 1, "grpo": GRPO, "trainer": TrainerConfig(lora_r=2)}
    finished: list[dict[str, Any]] = []
    with pytest.raises(KeyboardInterrupt):
        Interrupted(student, **settings, on_trial=finished.append).run()
    assert finished == []
    result = RewardTuner(student, **settings).run()
    assert [trial["state"] for trial in result.trials] == ["complete"]


def test_another_configuration_is_refused_with_the_difference(student: ThreeStageEpisode, tmp_path: Path) -> None:
    tuner(student, tmp_path, n_trials=1).run()
    with pytest.raises(RunError, match="another seed"):
        tuner(student, tmp_path, seed=1).run()


def test_a_folder_that_cannot_be_written_is_said(student: ThreeStageEpisode, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RunError, match="choose another study_dir"):
        tuner(student, blocked / "study").run()


@pytest.mark.parametrize("options", [{"n_trials": 0}, {"valset": []}, {"trainset": []}])
def test_bad_input_is_refused(student: ThreeStageEpisode, tmp_path: Path, options: dict[str, object]) -> None:
    settings = {"trainset": generate("train", 1), "valset": generate("val", 1), "study_dir": tmp_path, **options}
    with pytest.raises(ConfigurationError):
        RewardTuner(student, **settings)  # type: ignore[arg-type]


@given(st.tuples(*[st.floats(0.01, 10)] * 3))
def test_uniforms_are_what_simplex_undoes(raw: tuple[float, float, float]) -> None:
    weights = RewardWeights.normalized(task=raw[0], context=raw[1], memory=raw[2])
    back = simplex(uniforms(weights))
    assert (back.task, back.context, back.memory) == pytest.approx((weights.task, weights.context, weights.memory))
