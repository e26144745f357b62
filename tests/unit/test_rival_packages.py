"""The real packages as rivals: their pipelines over our store and DSPy's LM; skipped where they are not installed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import dspy
import pytest
from fakes import answer, calls, scripted_lm
from program_contract import CHATTER, INPUTS, MESSAGES, EpisodeContract, sensible

import agemem_dspy as am
from agemem_dspy.errors import MissingDependency
from agemem_dspy.memory import HashEmbedder
from agemem_dspy.programs.rivals import LangMemAgent, Mem0Agent

MEM0, LANGMEM = find_spec("mem0") is not None, find_spec("langmem") is not None
with_mem0 = pytest.mark.skipif(not MEM0, reason='needs mem0: pip install "agemem-dspy[mem0]"')
with_langmem = pytest.mark.skipif(not LANGMEM, reason='needs langmem: pip install "agemem-dspy[langmem]"')
# What the packages and theirs warn of is not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def made(kind: Any, signature: Any = "question -> answer", **options: Any) -> Any:
    return kind(signature, embedder=HashEmbedder(), adapter=am.CompactAdapter(), **options)


def as_mem0(prompt: str) -> str:
    """Say what mem0's two prompts ask for: the message as its only fact, and to add it."""
    if '"facts"' in prompt and "smart memory manager" not in prompt:
        said = prompt.rstrip().rpartition("user: ")[2]
        return json.dumps({"facts": [] if said in CHATTER else [said]})
    if "smart memory manager" in prompt:
        fact = re.findall(r"\['(.*?)'\]", prompt)[-1]
        return json.dumps({"memory": [{"id": "9", "text": fact, "event": "ADD"}]})
    return sensible(prompt)


def as_langmem(prompt: str) -> str:
    """Call langmem's tool for each message that is no chatter."""
    if "memory subroutine" not in prompt:
        return sensible(prompt)
    told = [text for text in MESSAGES if text in prompt] or re.findall(r"I live in Rome \d\.", prompt)[:1]
    return calls(*(("Memory", {"content": text}) for text in told)) if told else answer("nothing new")


@with_mem0
class TestMem0(EpisodeContract):
    replies = staticmethod(as_mem0)
    can_be_saved = False

    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        return lambda signature: made(Mem0Agent, signature)


@with_langmem
class TestLangMem(EpisodeContract):
    replies = staticmethod(as_langmem)
    can_be_saved = False

    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        return lambda signature: made(LangMemAgent, signature)


@with_mem0
def test_mem0_decides_and_our_store_holds_what_it_decided() -> None:
    written = iter([
        {"facts": ["Lives in Rome"]}, {"memory": [{"id": "0", "text": "Lives in Rome", "event": "ADD"}]},
        {"facts": ["Lives in Oslo", "Owns a cat"]},
        {"memory": [{"id": "0", "text": "Lives in Oslo", "event": "UPDATE", "old_memory": "Lives in Rome"},
                    {"id": "1", "text": "Owns a cat", "event": "ADD"}]},
        {"facts": ["The cat is gone"]},
        {"memory": [{"id": "1", "text": "Owns a cat", "event": "DELETE"}, {"id": "0", "text": "x", "event": "NONE"}]},
    ])  # fmt: skip
    program = made(Mem0Agent)
    program.set_lm(scripted_lm(lambda prompt: next((json.dumps(one) for one in written), "Oslo")))
    prediction = program(**{**INPUTS, "distractors": []})
    changes = [(e.tool, e.turn, e.ok) for e in prediction.trajectory.events if e.tool != "retrieve_memory"]
    assert changes[:2] == [("add_memory", 0, True), ("update_memory", 1, True)]
    assert changes[2:] == [("add_memory", 1, True), ("delete_memory", 2, True)]
    assert len(prediction.trajectory.memories) == 1
    assert prediction.answer == "Oslo"


@with_mem0
def test_an_lm_that_fails_where_mem0_would_hide_it_stops_the_episode() -> None:
    def replies(prompt: str) -> Any:
        return ZeroDivisionError("broken") if "smart memory manager" in prompt else as_mem0(prompt)

    program = made(Mem0Agent)
    program.set_lm(scripted_lm(replies))
    with pytest.raises(dspy.LMError, match="broken"):
        program(**INPUTS)


@with_langmem
def test_langmem_inserts_updates_and_removes() -> None:
    def replies(prompt: str) -> str:
        if "memory subroutine" not in prompt:
            return "Oslo"
        if "m1" not in prompt:
            return calls(("Memory", {"content": "lives in Rome"}), ("Memory", {"content": "owns a cat"}))
        patch = [{"op": "replace", "path": "/content", "value": "lives in Oslo"}]
        return calls(
            ("PatchDoc", {"json_doc_id": "m1", "planned_edits": "the city", "patches": patch}),
            ("RemoveDoc", {"json_doc_id": "m2"}),
        )

    program = made(LangMemAgent, messages_per_call=2)
    program.set_lm(scripted_lm(replies))
    trajectory = program(**{**INPUTS, "distractors": []}).trajectory
    changed = [(event.tool, event.ok) for event in trajectory.events if event.tool != "retrieve_memory"]
    assert changed == [("add_memory", True)] * 2 + [("update_memory", True), ("delete_memory", True)]
    assert [memory.content for memory in trajectory.memories] == ["lives in Oslo"]


@pytest.mark.parametrize(("kind", "there", "extra"), [(Mem0Agent, MEM0, "mem0"), (LangMemAgent, LANGMEM, "langmem")])
def test_a_package_that_is_missing_is_named_with_its_install_command(kind: Any, there: bool, extra: str) -> None:
    if there:
        assert made(kind).signature is not None
    else:
        with pytest.raises(MissingDependency, match=rf'pip install "agemem-dspy\[{extra}\]"'):
            made(kind)
