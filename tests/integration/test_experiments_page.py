"""The page about experiments: every command is one, every link leads somewhere, its own file is an experiment."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import agemem_dspy as am
from agemem_dspy.bench import load_experiment, shipped
from agemem_dspy.programs.methods import Method
from tests.bench_runs import experiment, played
from tests.command_line import agemem

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """A working directory with what the commands name: HotpotQA's file, saved programs."""
    for phase in ("warm_start", "grpo"):
        am.ThreeStageEpisode(am.AgeMemAgent("question -> answer")).save(tmp_path / "runs" / "demo" / phase)
    row = {
        "_id": "q", "question": "Who made it?", "answer": "Ana", "supporting_facts": [["Ana", 0]],
        "context": [["Ana", ["Ana made the boat."]], ["Bob", ["Bob sleeps."]]],
    }  # fmt: skip
    (tmp_path / "hotpot_dev_distractor_v1.json").write_text(json.dumps([row, {**row, "_id": "r"}]), encoding="utf-8")
    folder = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(folder)


@pytest.mark.parametrize("command", [command for command in COMMANDS if " compare " not in command])
def test_a_command_is_one(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = agemem(capsys, *shlex.split(command)[1:], "--estimate", "--json")
    assert shown.code == 0, shown.err
    assert sum(row["lm_calls"] for row in shown.json["budget"]) > 0


def test_the_comparison_is_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = [command for command in COMMANDS if " compare " in command]
    names = ["base", "+LT", "+LT/RL"]
    made = experiment(methods=[{"name": name, "method": "agemem"} for name in names])
    scores = {("w", name, 0): [float(place), 1.0] for place, name in enumerate(names)}
    played(here / "runs" / "components", made, scores)
    shown = agemem(capsys, *shlex.split(command.replace("prompt_tokens", "answer"))[1:])
    assert shown.code == 0, shown.err
    assert "+LT − +LT/RL" in shown.out


def test_every_experiment_has_its_row_and_every_link_its_file() -> None:
    links = dict(re.findall(r"\| \[([\w-]+)\]\(\.\./(\S+)\)", PAGE))
    assert set(links) == set(shipped())
    assert all((ROOT / path).is_file() for path in links.values())


def test_every_method_is_explained() -> None:
    table = PAGE.partition("## Rivals")[2].partition("Controls:")[0]
    assert set(re.findall(r"`([\w-]+)`", table)) >= {method.value for method in Method}


def test_its_own_file_is_an_experiment(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(blocks("toml")[0], encoding="utf-8")
    made = load_experiment(tmp_path / "mine.toml")
    assert (made.recipe.max_steps, [method.name for method in made.methods]) == (30, ["without", "with"])
