"""The benchmark of the second visit, in BabyAI: who may store what was done does it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import answer, call, scripted_lm

import agemem_dspy as am
from agemem_dspy.data import load_dataset
from agemem_dspy.environments import make_environment
from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory import HashEmbedder
from benchmarks.second_visit import table, visit_twice

pytest.importorskip("minigrid", reason='the extra babyai is not installed: pip install -e ".[babyai]"')


def test_the_second_visit_goes_better_where_memory_is_carried(tmp_path: Path) -> None:
    """An agent that learns the way only afterwards: on its first visit it gives up after a turn."""
    [one] = load_dataset("babyai:GoToRedBall@5", limit=1)
    with make_environment(one.environment) as world:
        world.reset(one.seed)
        way = world.solution()

    def policy(prompt: str) -> str:
        if "Store what will help" in prompt:
            return call("add_memory", content=f"{one.goal}: the way is known")
        if "act(action)" not in prompt:
            return answer("read")
        if "retrieve_memory" not in prompt.partition("You can: ")[2]:
            return call("retrieve_memory", query=one.goal)
        if "the way is known" not in prompt:
            return call("act", action="turn left") if 'turn left"' not in prompt else answer("I give up")
        return call("act", action=way[prompt.count('"action"')])

    memory = am.LongTermMemory.open(":memory:", embedder=HashEmbedder())
    episode = am.ThreeStageEpisode(am.AgeMemAgent("question -> answer", memory=memory, adapter=am.CompactAdapter()))
    episode.set_lm(scripted_lm(policy))
    visits = visit_twice(episode, [one], out=tmp_path)
    succeeded = {name: [visit.mean("success") for visit in both] for name, both in visits.items()}
    assert succeeded == {"each from an empty memory": [0.0, 0.0], "memory carried": [0.0, 1.0]}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "carried-1.jsonl", "carried-2.jsonl", "empty-1.jsonl", "empty-2.jsonl",
    ]  # fmt: skip
    (row,) = map(json.loads, (tmp_path / "carried-2.jsonl").read_text("utf-8").splitlines())
    assert row["actions"] == len(way)
    shown = table(visits, "title")
    assert [column.header for column in shown.columns][2:] == ["first visit", "second visit", "gain", "p"]
    assert list(shown.columns[4].cells)[::4] == ["+0.000", "+1.000"]


def test_what_cannot_be_visited_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a NoMemoryAgent carries no memory"):
        visit_twice(am.NoMemoryAgent("question -> answer"), [])
    questions = load_dataset("assistant:test", limit=1)
    with pytest.raises(ConfigurationError, match="only worlds are visited"):
        visit_twice(am.ThreeStageEpisode(am.AgeMemAgent("question -> answer")), questions)
