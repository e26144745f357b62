"""Every command and every line of Python in the README runs.

The one change: the remote LM and the fetched model are replaced by a scripted LM and a tiny model.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest

import agemem_dspy as am
from agemem_dspy.environments import WORLDS
from agemem_dspy.policy.tiny import tiny_llama
from tests.command_line import agemem
from tests.fakes import scripted_lm
from tests.fakes_openai import KEY, EmbeddingServer

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny", corpus=["Ana lives in Rome"], vocab_size=300)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """A working directory of the test's own, and a person at the keyboard who says hello and leaves."""
    folder, keyboard = Path.cwd(), sys.stdin
    os.chdir(tmp_path)
    sys.stdin = io.StringIO("Hello.\n/quit\n")
    yield tmp_path
    os.chdir(folder)
    sys.stdin = keyboard


def commands(program: str) -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line.partition("#")[0].strip() for line in lines if line.startswith(program)]


def test_make_targets_exist() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    wanted = [command.split()[1] for command in commands("make")]
    assert wanted == ["demo", "test"]
    assert set(wanted) <= set(targets)


@pytest.mark.parametrize("command", commands("agemem"))
def test_a_command_runs(command: str, tiny: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command.replace("smollm2-135m", str(tiny)))[1:]
    if words[0] == "memory":
        agemem(capsys, "memory", "add", "diet: vegan", "--where", "memories/")
    outcome = agemem(capsys, *words)
    assert outcome.code == 0, outcome.err


def test_the_python_runs(tiny: Path, here: Path) -> None:
    first, second = blocks("python")
    settings, program = first.split("dspy.configure(lm=dspy.LM(")
    program = program.partition("\n")[2]
    program = program.replace('"assistant:train")', '"assistant:train", limit=8)').replace("limit=20", "limit=2")
    scope: dict[str, Any] = {}
    with dspy.context(lm=scripted_lm(lambda prompt: "[[ ## answer ## ]]\nA table for one.")):
        exec(compile(settings + program, "README.md", "exec"), scope)
        exec(compile(second.replace("smollm2-135m", str(tiny)), "README.md", "exec"), scope)
    assert (here / "compiled" / "program.json").exists()
    assert type(scope["compiled"]).__name__ == "ThreeStageEpisode"
    assert scope["lm"].model == "local/tiny"


def test_the_python_of_the_optimizers_page_runs(tiny: Path, here: Path) -> None:
    agent = am.AgeMemAgent("question -> answer", adapter=am.CompactAdapter(), max_rounds=2)
    episode = am.ThreeStageEpisode(agent)
    episode.set_lm(am.local_lm(str(tiny), max_tokens=8))
    train = am.load_dataset("assistant:train", limit=2)
    scope: dict[str, Any] = {"am": am, "episode": episode, "train": train, "val": train, "lm": episode.get_lm()}
    for code in blocks("python", (ROOT / "docs" / "optimizer.md").read_text(encoding="utf-8")):
        with dspy.context(adapter=am.CompactAdapter()):
            exec(compile(code, "optimizer.md", "exec"), scope)
    assert scope["tuned"].lm.model.startswith("local/tiny@finetuned-")
    assert scope["compiled"].get_lm().model.startswith("local/tiny@")
    assert (here / "runs" / "first" / "grpo" / "program.json").exists()


def test_the_python_of_the_memory_page_runs(here: Path, agemem_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scope: dict[str, Any] = {"am": am}
    page = blocks("python", (ROOT / "docs" / "memory.md").read_text(encoding="utf-8"))
    changes, past, filters, scopes, awaited, order, looked_through, embedders, safety = page
    try:
        exec(compile(changes, "memory.md", "exec"), scope)
        assert scope["changes"] == ["add", "update", "undo", "delete", "undo"]
        assert scope["memory"].get(scope["airport"].id).content == "home airport: Lyon"
        exec(compile(past, "memory.md", "exec"), scope)
        assert [one.content for one in scope["known"]] == ["home airport: Lyon"]
        assert scope["everything"] == [replace(one, score=None) for one in scope["known"]]
        exec(compile(filters, "memory.md", "exec"), scope)
        assert [found.content for found in scope["cheap"]] == ["Hotel Artemide"]
        assert len(scope["recent"]) == 3
        exec(compile(scopes, "memory.md", "exec"), scope)
        assert [view.all() for view in (scope["monday"], scope["for_bob"])] == [[], []]
        assert [one.agent_id for one in scope["of_all_agents"]] == [None, None, None, "planner"]
        assert scope["helper"].memory.all() == scope["of_all_agents"][-1:] == [scope["plan"]]
        exec(compile(awaited, "memory.md", "exec"), scope)
        assert scope["found"][0].content == "seat: by the window"
        exec(compile(order, "memory.md", "exec"), scope)
        assert len(scope["varied"]) == 3
        assert scope["notebook"].reranking is scope["shortest"]
        exec(compile(looked_through, "memory.md", "exec"), scope)
        assert scope["report"].entries == 5
        exec(compile(safety, "memory.md", "exec"), scope)
        assert [one.content for one in scope["guarded"].all()][-1] == "wifi password: [password]"
        assert scope["waiting"].reason == "it revokes instructions"
        assert scope["agent"].memory is scope["guarded"]
    finally:
        for view in ("memory", "planner", "monday", "for_bob"):
            scope[view].close()
    with EmbeddingServer() as server:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        exec(compile(embedders, "memory.md", "exec"), scope)
        scope["embedder"].embed(["home airport: Geneva"])
    assert (agemem_home / "embeddings").is_dir()
    with am.LongTermMemory.open("notes/") as notes:
        assert [memory.content for memory in notes.all()] == ["home airport: Geneva"]


def test_the_python_of_the_environments_page_runs() -> None:
    scope: dict[str, Any] = {"am": am}
    text = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    for code in blocks("python", text):
        exec(compile(code, "environments.md", "exec"), scope)
    assert scope["goal"] == "pick up the blue box"
    assert scope["result"].success
    assert (len(scope["train"]), scope["train"][0].environment) == (64, "babyai:GoToLocal")
    assert scope["again"][0].messages[0].startswith("An earlier time the task was: pick up the blue box.")
    for world in WORLDS:
        assert f"`{world}:" in text, f"docs/environments.md does not name the world {world}"
