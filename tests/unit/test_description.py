"""What a program is described by: all that decides how it plays, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from fakes import CountingEmbedder, answer, scripted_lm

from agemem_dspy.evaluation import evaluate
from agemem_dspy.memory import HashEmbedder, LongTermMemory
from agemem_dspy.optimizers.resume import digest_of
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.policy.lm import local_lm
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.programs import AgeMemAgent, ThreeStageEpisode
from agemem_dspy.programs.description import describe_lm, describe_program
from agemem_dspy.rewards import TrajectoryReward


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"fine in {city}"


def episode(dimension: int = 64, **options: Any) -> ThreeStageEpisode:
    memory = LongTermMemory.open(":memory:", embedder=HashEmbedder(dimension))
    made = ThreeStageEpisode(
        AgeMemAgent("question -> answer", **{"memory": memory, "adapter": CompactAdapter(), **options})
    )
    made.set_lm(scripted_lm(lambda _: answer("Lyon")))
    return made


def reworded() -> ThreeStageEpisode:
    made = episode()
    operation = made.agent.operations["add_memory"]
    operation.signature = operation.signature.with_instructions("Keep what matters.")
    return made


def with_lm(**options: Any) -> ThreeStageEpisode:
    made = episode()
    made.set_lm(made.get_lm().copy(**options))
    return made


OTHERS: dict[str, Callable[[], ThreeStageEpisode]] = {
    "adapter": lambda: episode(adapter=dspy.JSONAdapter()),
    "adapter's setting": lambda: episode(adapter=dspy.ChatAdapter()),
    "user tool": lambda: episode(tools=[weather]),
    "user tool's wording": lambda: episode(tools=[dspy.Tool(weather, desc="Ask the weather.")]),
    "memory tool's wording": reworded,
    "embedder": lambda: episode(dimension=32),
    "rounds": lambda: episode(max_rounds=2),
    "LM": lambda: with_lm(model="scripted/other"),
    "temperature": lambda: with_lm(temperature=0.5),
}


def test_models_of_one_name_with_other_weights_are_told_apart(tmp_path: Path) -> None:
    """A folder that was trained anew must not be scored by the rows of the weights before it."""

    def described(folder: Path, seed: int) -> Any:
        tiny_llama(folder / "mine", corpus=["Ana lives in Rome"], hidden=16, layers=1, vocab_size=300, seed=seed)
        return describe_lm(local_lm(folder / "mine"))

    first, same, retrained = (described(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first == same
    assert first["model"] == retrained["model"]
    assert first != retrained


def test_programs_that_play_otherwise_are_told_apart() -> None:
    prints = {name: digest_of(make()) for name, make in OTHERS.items()}
    loose = digest_of(episode(adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)))
    assert len({*prints.values(), loose, digest_of(episode())}) == len(OTHERS) + 2
    assert describe_program(episode()) == describe_program(episode())


def test_what_is_configured_counts_where_a_program_has_none_of_its_own() -> None:
    bare = episode(adapter=None)
    bare.set_lm(None)
    own, lm = digest_of(episode()), scripted_lm([])
    with dspy.context(lm=lm, adapter=CompactAdapter()):
        first = digest_of(bare)
        assert digest_of(episode()) == own
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        assert digest_of(bare) != first
    with dspy.context(lm=lm.copy(temperature=0.5), adapter=CompactAdapter()):
        assert digest_of(bare) != first


def test_a_program_that_has_played_is_the_one_that_it_was() -> None:
    made = episode()
    before = digest_of(made)
    made(messages=["I live in Lyon."], distractors=[], question="Where do I live?")
    assert made.agent.step.history
    assert digest_of(made) == before


def test_an_embedder_that_is_made_on_first_use_changes_nothing() -> None:
    plain = AgeMemAgent("question -> answer")
    before = describe_program(plain)
    assert plain.memory is not None
    assert describe_program(plain) == before
    memory = LongTermMemory.open(":memory:", embedder=CountingEmbedder())
    assert describe_program(AgeMemAgent("question -> answer", memory=memory)) != before


@pytest.mark.parametrize("other", ["adapter", "user tool", "memory tool's wording"])
def test_an_evaluation_does_not_read_back_the_rows_of_another_program(tmp_path: Path, other: str) -> None:
    example = dspy.Example(
        messages=["I live in Lyon."], distractors=[], question="Where do I live?", answer="Lyon", facts=[], key_items=[]
    ).with_inputs("messages", "distractors", "question")
    for made, rows in ((episode(), 1), (episode(), 1), (OTHERS[other](), 2)):
        evaluate(made, [example], TrajectoryReward(), log_dir=tmp_path)
        assert len((tmp_path / "eval.jsonl").read_text(encoding="utf-8").splitlines()) == rows
