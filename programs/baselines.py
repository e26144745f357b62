"""The baselines that an agent has to beat: no memory at all, and retrieval without decisions (RAG).

Both are called like `ThreeStageEpisode` and return a `Trajectory` too, so any evaluation compares them with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import dspy

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.fence import fenced
from agemem_dspy.memory.short_term import Message
from agemem_dspy.programs.rival import Rival
from agemem_dspy.programs.session import Play, Session
from agemem_dspy.tools import MemoryToolkit
from agemem_dspy.types import Embedder, Stage


class NoMemoryAgent(Rival):
    """Knows the task alone: no memory tools, nothing of stages 1 and 2 (the paper's No-Memory).

    Args:
        signature: the task, "question -> answer" or any class signature.
        max_context_tokens: T_max (8192 in the paper), for the reward, and for the context in a world.
        adapter: renders the calls; DSPy's configured one when left out.
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        *,
        max_context_tokens: int = 8192,
        adapter: dspy.Adapter | None = None,
    ) -> None:
        super().__init__(signature, max_context_tokens=max_context_tokens, adapter=adapter)
        self.respond = dspy.Predict(self.signature)

    def _remember(self, session: Session, messages: Sequence[str], distractors: Sequence[str], task: str) -> Play:
        yield from ()
        return {}


class RetrieveOnlyAgent(Rival):
    """Stores every stage-1 message as it is, retrieves with the task, then answers or acts (RAG).

    The stores and the search are done by this program, not chosen by the model; they are in the event log, so the
    reward terms of storage and relevance measure them. The distractors of stage 2 are not shown.

    Args:
        signature: the task, "question -> answer" or any class signature; `memories` is added to its inputs.
        top_k: how many messages are retrieved.
        embedder: what makes vectors of texts; `default_embedder()` when left out.
        max_context_tokens: T_max (8192 in the paper), for the reward, and for the context in a world.
        adapter: renders the calls; DSPy's configured one when left out.
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        *,
        top_k: int = 3,
        embedder: Embedder | None = None,
        max_context_tokens: int = 8192,
        adapter: dspy.Adapter | None = None,
    ) -> None:
        if not 1 <= top_k <= 100:
            raise ConfigurationError("top_k must be between 1 and 100")
        super().__init__(
            signature, shown=["memories"], embedder=embedder, max_context_tokens=max_context_tokens, adapter=adapter
        )
        self.top_k = top_k
        memories = dspy.InputField(desc="what was said before about this, the nearest first")
        self.respond = dspy.Predict(self.signature.append("memories", memories, type_=str))

    def _remember(self, session: Session, messages: Sequence[str], distractors: Sequence[str], task: str) -> Play:
        toolkit = MemoryToolkit(session.toolkit.long_term, session.context, log=session.toolkit)
        toolkit.stage = Stage.CONSTRUCT
        for toolkit.turn, text in enumerate(messages):
            yield from toolkit.run("add_memory", {"content": text})
        toolkit.stage, toolkit.turn = Stage.REASON, 0
        event = yield from toolkit.run("retrieve_memory", {"query": task, "top_k": self.top_k})
        found = "\n".join(fenced(content) for content in event.contents)
        if found:
            session.context.append(Message(role="tool", content=found, kind="retrieved"))
        return {"memories": found or "nothing"}
