"""Agents that are awaited leave the event loop free while the long-term memory works."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import dspy
import numpy as np
import pytest
from fakes import answer, call, scripted_lm
from fakes_qdrant import QdrantServer
from numpy.typing import NDArray

from agemem_dspy.memory import GuardedMemory, HashEmbedder, LongTermMemory
from agemem_dspy.memory.event_loop import awaited, beside_loop, in_loop, off_loop
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.programs.agent import AgeMemAgent

SCRIPT = [
    call("add_memory", content="I drink tea"),
    call("retrieve_memory", query="tea"),
    call("filter_context", criteria="tea"),
    call("update_memory", memory_id="m1", content="I drink coffee"),
    answer("coffee"),
]


class Waiting(HashEmbedder):
    """Embeds nothing before the event loop has gone on."""

    def __init__(self) -> None:
        super().__init__(32)
        self.ticked = threading.Event()
        self.waits: list[bool] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.ticked.clear()
        self.waits.append(self.ticked.wait(30))
        return super().embed(texts)


@pytest.fixture(params=["memory", "folder", "server"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | Path]:
    if request.param == "server":
        with QdrantServer() as server:
            yield server.url
    else:
        yield ":memory:" if request.param == "memory" else tmp_path / "memories"


def test_no_memory_tool_blocks_the_event_loop(where: str | Path) -> None:
    embedder = Waiting()

    async def main() -> tuple[dspy.Prediction, list[str]]:
        async with GuardedMemory(LongTermMemory.open(where, embedder=embedder)) as memory:
            agent = AgeMemAgent("question -> answer", memory=memory, adapter=CompactAdapter(), max_rounds=8)
            playing = asyncio.create_task(agent.acall(question="What do I drink?", user_id="ana"))
            while not playing.done():
                embedder.ticked.set()
                await asyncio.sleep(0.001)
            with await memory.ascoped("ana") as anas:
                return await playing, [one.content for one in await anas.aall()]

    with dspy.context(lm=scripted_lm(SCRIPT)):
        prediction, stored = asyncio.run(main())
    assert prediction.answer == "coffee"
    assert stored == ["I drink coffee"]
    assert len(embedder.waits) >= 5  # the recall, and each of the four tools
    assert all(embedder.waits)


def test_synchronous_code_awaits_beside_the_loop() -> None:
    async def later(value: int) -> int:
        await asyncio.sleep(0)
        if value < 0:
            raise ValueError("negative")
        return value

    def code() -> list[object]:
        assert in_loop()
        caught = ""
        try:
            awaited(later(-1))
        except ValueError as error:
            caught = str(error)
        here = threading.current_thread()
        return [awaited(later(1)), caught, off_loop(threading.current_thread) is here]

    async def main() -> list[object]:
        return await beside_loop(code)

    assert asyncio.run(main()) == [1, "negative", False]
    assert not in_loop()
    assert off_loop(threading.current_thread) is threading.current_thread()


def test_a_cancellation_arrives_inside_and_may_be_cleaned_up_after() -> None:
    done: list[str] = []

    def code() -> None:
        try:
            awaited(asyncio.sleep(60))
        except asyncio.CancelledError:
            awaited(asyncio.sleep(0))
            done.append("cleaned up")
            raise

    async def main() -> None:
        task = asyncio.create_task(beside_loop(code))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert done == ["cleaned up"]
