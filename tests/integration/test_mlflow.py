"""`mlflow.dspy.autolog` sees our optimizers as it sees DSPy's: a run a compilation, with settings and steps."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.teleprompt import Teleprompter
from tiny_episodes import TRAINER, TRAINSET, TokenReward, folder, sha, student

from agemem_dspy.optimizers import AgeMemOptimizer, BootstrapToolDemos, GRPOConfig, StepwiseGRPO, WarmStart
from agemem_dspy.optimizers.tracking import log_step

__all__ = ["folder"]  # a fixture

SMALL: dict[str, Any] = {"max_steps": 2, "num_generations": 2, "tasks_per_step": 1, "num_threads": 1}
WHY = "MLflow is not installed: pip install mlflow"


def grpo(**options: Any) -> StepwiseGRPO:
    return StepwiseGRPO(TokenReward(), config=GRPOConfig(**SMALL), trainer=TRAINER, **options)


@pytest.mark.parametrize("optimizer", [AgeMemOptimizer, BootstrapToolDemos, WarmStart, StepwiseGRPO])
def test_an_optimizer_is_one_that_autologging_patches(optimizer: type) -> None:
    assert optimizer in Teleprompter.__subclasses__()
    params = optimizer(TokenReward()).get_params()
    assert json.loads(json.dumps(params)) == params
    assert params["type"].endswith(f".{optimizer.__name__}")
    assert params["reward"]["weights"] == {"task": 1 / 3, "context": 1 / 3, "memory": 1 / 3}


def test_params_are_a_copy() -> None:
    """MLflow puts the arguments of `compile` into what it is given."""
    optimizer = grpo()
    optimizer.get_params().update(student="x", seconds_before=0.0)
    assert optimizer.get_params() == grpo().get_params()
    assert not {"student", "seconds_before"} & set(vars(optimizer))


def test_without_mlflow_nothing_is_written() -> None:
    log_step({"phase": "grpo", "step": 1, "steps": 2, "loss": 0.5})


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[Any]:
    """MLflow with a store of this test's own and autologging on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own affairs
        module = pytest.importorskip("mlflow", reason=WHY)
        pytest.importorskip("mlflow.dspy", reason=WHY)
        pytest.importorskip("sqlalchemy", reason=WHY)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        module.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
        module.create_experiment("agemem", artifact_location=(tmp_path / "artifacts").as_uri())
        module.set_experiment("agemem")
        module.dspy.autolog(log_compiles=True, log_traces=False, silent=True)
        try:
            yield module
        finally:
            module.dspy.autolog(disable=True, silent=True)
            dspy.configure(callbacks=[], track_usage=False)  # as autolog found them


def runs(mlflow: Any) -> list[Any]:
    found: list[Any] = mlflow.search_runs(output_format="list")
    assert all(run.info.status == "FINISHED" for run in found)
    return found


def history(mlflow: Any, run: Any, name: str) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in mlflow.MlflowClient().get_metric_history(run.info.run_id, name)]


def test_a_compilation_is_a_run_with_settings_and_a_value_a_step(mlflow: Any, folder: Path) -> None:
    lines: list[dict[str, Any]] = []
    expected = sha(grpo().compile(student(folder), trainset=TRAINSET))
    optimizer = grpo(on_step=lines.append)
    compiled = optimizer.compile(student(folder), trainset=TRAINSET, valset=TRAINSET[:1])
    assert sha(compiled) == expected  # watching changes nothing
    assert vars(optimizer).keys() == vars(grpo()).keys()
    run, _ = runs(mlflow)
    assert run.data.params["StepwiseGRPO.config.max_steps"] == "2"
    assert run.data.params["StepwiseGRPO.trainer.learning_rate"] == str(TRAINER.learning_rate)
    assert run.data.params["StepwiseGRPO.reward.weights.task"] == str(1 / 3)
    assert history(mlflow, run, "grpo.reward") == [(line["step"], line["reward"]) for line in lines]
    assert history(mlflow, run, "grpo.terms.reward") == [(line["step"], line["terms"]["reward"]) for line in lines]
    assert history(mlflow, run, "grpo.loss") == [(line["step"], line["loss"]) for line in lines]
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert {"best_model.json", "trainset.json", "valset.json"} <= files


def test_the_phases_of_a_compilation_share_its_run(mlflow: Any, folder: Path, tmp_path: Path) -> None:
    metric = TokenReward()

    optimizer = AgeMemOptimizer(
        metric,
        prompts=BootstrapToolDemos(metric, threshold=-10.0, max_demos=1, num_threads=1),
        warm_start=WarmStart(metric, threshold=-10.0, trainer=TRAINER, num_threads=1),
        grpo=grpo(log_dir=tmp_path),
        log_dir=tmp_path,
    )
    for _ in range(2):  # the second time it reads the phases back: MLflow has added no setting that differs
        optimizer.compile(student(folder), trainset=TRAINSET)
    _, run = runs(mlflow)
    names = {name.partition(".")[0] for name in run.data.params}
    assert names >= {"AgeMemOptimizer", "BootstrapToolDemos", "WarmStart", "StepwiseGRPO"}
    assert [step for step, _ in history(mlflow, run, "warm_start.loss")] == [1, 2]
    assert [step for step, _ in history(mlflow, run, "grpo.reward")] == [1, 2]


def test_what_mlflow_refuses_is_a_warning(mlflow: Any, caplog: pytest.LogCaptureFixture) -> None:
    with mlflow.start_run():
        grpo().log_params()
        StepwiseGRPO(TokenReward()).log_params()  # other values under the same names
        log_step({"phase": "grpo", "step": 1, "tools": {"rm -rf ✂ /\n": 2, "x" * 400: 1}, "farmed": ["a"]})
    assert "MLflow did not take what log_params was given" in caplog.text
    assert "log_metrics" not in caplog.text
    (run,) = runs(mlflow)
    assert set(run.data.metrics) == {"grpo.tools.rm -rf _ /_", f"grpo.tools.{'x' * 239}"}
    with mlflow.start_run():
        mlflow.dspy.autolog(log_compiles=False, silent=True)
        log_step({"phase": "grpo", "step": 1, "loss": 1.0})
    assert runs(mlflow)[0].data.metrics == {}
