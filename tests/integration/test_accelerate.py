"""Two processes under `accelerate launch` come to what one comes to, each with half of the work."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import several_processes
import torch

from agemem_dspy.optimizers import processes
from agemem_dspy.policy.tiny import tiny_llama

SCRIPT = Path(several_processes.__file__)


@pytest.fixture(autouse=True)
def own_warnings_only() -> Iterator[None]:
    """TRL 1.16 and accelerate 1.15 warn of their own affairs under transformers 5.23 and torch 2.13."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    corpus = ["Reply with <tool_call> or <answer>text</answer>, nothing else. memory context arguments name tool"]
    tiny_llama(folder / "tiny", corpus=corpus, hidden=32, layers=2, heads=2, vocab_size=400, max_positions=4096)
    return folder


@pytest.fixture(scope="module")
def several(home: Path) -> list[dict[str, Any]]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    options = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port]
    root = SCRIPT.parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    finished = subprocess.run(
        [sys.executable, *launch, *options, str(SCRIPT), str(home)], env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return [torch.load(home / f"{rank}.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(home: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return several_processes.come_to(home / "tiny", home / "alone")


def test_both_processes_took_part(several: list[dict[str, Any]]) -> None:
    assert [one["of"] for one in several] == [2, 2]


@pytest.mark.parametrize("update", ["tree", "one trajectory", "dapo", "grpo"])
def test_the_gradient_is_that_of_one_process(several: list[dict[str, Any]], alone: dict[str, Any], update: str) -> None:
    """With one trajectory the second process has nothing to compute."""
    expected = alone[update]["gradient"]
    for one in several:
        assert float((one[update]["gradient"] - expected).norm() / expected.norm()) < 1e-5
        assert one[update]["loss"] == pytest.approx(alone[update]["loss"], rel=1e-4)
    assert several[0][update]["sha"] == several[1][update]["sha"]


def test_a_supervised_step_is_that_of_one_process(several: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert several[0]["imitation"] == several[1]["imitation"]
    assert several[0]["imitation"]["loss"] == pytest.approx(alone["imitation"]["loss"], rel=1e-5)


@pytest.mark.parametrize("trainer", ["GRPO", "TRL"])
def test_a_program_is_compiled_together(
    home: Path, several: list[dict[str, Any]], alone: dict[str, Any], trainer: str
) -> None:
    """Both play a share of the trajectories, know all of them, hold the same weights; the first reports."""
    first, second = (one[trainer] for one in several)
    assert first["sha"] == second["sha"]
    assert (len(first["lines"]), second["lines"]) == (2, [])
    for line, expected in zip(first["lines"], alone[trainer]["lines"], strict=True):
        assert line == pytest.approx(expected, rel=1e-2, abs=1e-4)
    written = [json.loads(line) for line in (home / "runs" / trainer / "metrics.jsonl").read_text().splitlines()]
    assert [(line["reward"], line["loss"]) for line in written] == first["lines"]


def test_a_finished_phase_is_read_back_by_both(several: list[dict[str, Any]]) -> None:
    first, second = (one["warm start"] for one in several)
    assert first["sha"] == first["again"] == second["sha"] == second["again"] != ""


def test_what_cannot_be_shared_is_refused(several: list[dict[str, Any]]) -> None:
    for one in several:
        overlap, prompts = one["refusals"]
        assert "rollouts ahead of the update (overlap) cannot be shared by 2 processes" in overlap
        assert "the prompt phase cannot be shared by 2 processes" in prompts


def test_a_process_alone_has_everything_for_its_share() -> None:
    assert (processes.count(), processes.is_first()) == (1, True)
    assert processes.share([1, 2, 3]) == processes.joined([1, 2, 3]) == [1, 2, 3]
    assert processes.of_first(lambda: 7) == 7
    assert processes.summed({"loss": 0.5}) == {"loss": 0.5}
    processes.refuse_several("nothing")
