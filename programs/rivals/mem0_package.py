"""The mem0 package itself as a rival: its prompts and its pipeline over our store, our embedder and DSPy's LM.

Versions below 2 extract and update as Mem0's paper does; from 2 on the package only adds, so those are refused.
Deviation: its system and user prompts are one message, which every LM of DSPy takes.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import dspy
from dspy.utils.exceptions import ContextWindowExceededError

from agemem_dspy.errors import MissingDependency
from agemem_dspy.paths import cache_folder
from agemem_dspy.policy.recorder import record
from agemem_dspy.programs.rivals.managed import ManagedMemoryAgent
from agemem_dspy.programs.rivals.manager import ManagerSession
from agemem_dspy.programs.session import Play, first_line, run
from agemem_dspy.types import Memory, Stage

_INSTALL = 'run: pip install "agemem-dspy[mem0]"'
_USER = "user"


class Mem0Agent(ManagedMemoryAgent):
    """Hands every message to `mem0.Memory.add`, and the question to `mem0.Memory.search`.

    What mem0 stores, changes, removes and finds goes through the episode's tools, so it is in the log. Its LM calls
    are synchronous, also in `aforward`. It cannot be saved into a folder.

    Args:
        options: see `ManagedMemoryAgent`.

    Raises:
        MissingDependency: mem0 is not installed, or one that only adds.
    """

    def __init__(self, signature: str | type[dspy.Signature], **options: Any) -> None:
        super().__init__(signature, **options)
        try:
            found = version("mem0ai")
        except PackageNotFoundError as error:
            raise MissingDependency(f"the mem0 rival needs the package mem0ai; {_INSTALL}") from error
        if int(found.partition(".")[0]) >= 2:
            raise MissingDependency(f"mem0ai {found} only adds memories; the rival is its versions below 2; {_INSTALL}")
        self.manage = dspy.Predict("prompt -> reply")  # holds the LM; mem0 writes its own prompts

    def _store(self, manager: ManagerSession, messages: Sequence[str]) -> Play:
        yield from ()  # mem0 calls the LM itself
        with _opened(self, manager) as memory:
            for manager.toolkit.turn, text in enumerate(messages):
                manager.toolkit.round = 0
                memory.llm.context = contextvars.copy_context()
                memory.add([{"role": "user", "content": text}], user_id=_USER)
                if memory.llm.failure is not None:
                    raise memory.llm.failure

    def _recall(self, manager: ManagerSession, query: str) -> Play:
        yield from ()
        with _opened(self, manager) as memory:
            found = memory.search(query, user_id=_USER, limit=self.top_k)["results"]
        return [one["memory"] for one in found]


@contextlib.contextmanager
def _opened(agent: Mem0Agent, manager: ManagerSession) -> Iterator[Any]:
    """Open a `mem0.Memory` whose LM, embedder and store are ours."""
    os.environ.setdefault("MEM0_TELEMETRY", "False")
    os.environ.setdefault("MEM0_DIR", str(cache_folder() / "mem0"))  # it writes a file when it is imported
    import mem0.memory.main
    from qdrant_client import QdrantClient

    mem0.memory.main.capture_event = _tell_nobody
    embedder = manager.toolkit.long_term.embedder
    client = QdrantClient(":memory:")
    place = {"client": client, "collection_name": "unused", "embedding_model_dims": embedder.dimension}
    unused = {"provider": "openai", "config": {"api_key": "unused"}}
    memory = mem0.Memory.from_config(
        {
            "llm": unused,
            "embedder": unused,
            "vector_store": {"provider": "qdrant", "config": place},
            "history_db_path": ":memory:",
        }
    )
    memory.llm = _Mem0LM(agent.manage.lm or dspy.settings.lm, manager)
    memory.embedding_model = SimpleNamespace(embed=lambda text, memory_action=None: embedder.embed([text])[0].tolist())
    memory.vector_store = _Mem0Store(manager)
    try:
        yield memory
    finally:
        memory.db.close()
        client.close()


def _tell_nobody(*_: Any, **__: Any) -> None:
    """Stand in for mem0's telemetry, which starts a thread at every operation even when it is off."""


class _Mem0LM:
    """What mem0 takes for its LM. It calls it in threads of its own, and swallows some errors: they are kept here."""

    def __init__(self, lm: dspy.LM, manager: ManagerSession) -> None:
        self.lm, self.manager = lm, manager
        self.context = contextvars.copy_context()
        self.failure: Exception | None = None

    def generate_response(self, messages: list[dict[str, str]], **_: Any) -> str:
        return self.context.run(self._ask, messages)

    def _ask(self, messages: list[dict[str, str]]) -> str:
        shown, error, text = "\n\n".join(message["content"] for message in messages), None, ""
        with record() as tape:
            try:
                (reply,) = self.lm(shown)
                text = reply if isinstance(reply, str) else reply["text"] or ""
            except ContextWindowExceededError as failure:
                error = first_line(failure)
            except Exception as failure:
                self.failure = failure
                raise
        self.manager.record(shown, {"reply": text}, error, tape.completions)
        return text


class _Mem0Store:
    """What mem0 takes for its vector store: the episode's tools. The ids that it sees are those of our store."""

    def __init__(self, manager: ManagerSession) -> None:
        self.manager = manager

    def insert(self, vectors: Any, payloads: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> None:
        for payload in payloads:
            self._run("add_memory", content=payload["data"])

    def search(
        self, query: str, vectors: Any, limit: int = 5, filters: Mapping[str, Any] | None = None
    ) -> list[SimpleNamespace]:
        kit = self.manager.toolkit
        arguments = {"query": query, "top_k": limit}
        asked = kit.stage is Stage.REASON  # before that mem0 looks what it stores already, on its own account
        event = run(kit.run("retrieve_memory", arguments)) if asked else run(kit.recall(query, limit))
        return [_point(kit.long_term.get(id)) for id in event.memory_ids]

    def get(self, vector_id: str) -> SimpleNamespace:
        return _point(self.manager.toolkit.long_term.get(vector_id))

    def update(self, vector_id: str, vector: Any, payload: Mapping[str, Any]) -> None:
        self._run("update_memory", memory_id=self._alias(vector_id), content=payload["data"])

    def delete(self, vector_id: str) -> None:
        self._run("delete_memory", memory_id=self._alias(vector_id), confirmation=True)

    def _alias(self, id: str) -> str:
        kit = self.manager.toolkit
        return kit.alias(kit.long_term.get(id))

    def _run(self, tool: str, **arguments: Any) -> None:
        run(self.manager.operate(tool, **arguments))


def _point(memory: Memory) -> SimpleNamespace:
    payload = {"data": memory.content, "user_id": _USER, "created_at": memory.created_at}
    return SimpleNamespace(id=memory.id, payload=payload, score=memory.score)
