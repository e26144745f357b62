"""The baselines that an agent has to beat: no memory at all, and retrieval without decisions (RAG).

Both are called like `ThreeStageEpisode` and return a `Trajectory` too, so any evaluation compares them with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dspy
from dspy.signatures.signature import ensure_signature
from dspy.utils.exceptions import AdapterParseError, ContextWindowExceededError

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.fence import fenced
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.short_term import Message, ShortTermMemory
from agemem_dspy.policy.recorder import record
from agemem_dspy.programs.agent import task_message, token_counter
from agemem_dspy.programs.program import Program
from agemem_dspy.programs.session import Ask, Play, arun, run
from agemem_dspy.tools import MemoryToolkit
from agemem_dspy.types import Embedder, Memory, Stage, Step, StopReason, ToolEvent, Trajectory


class NoMemoryAgent(Program):
    """Answers from the question alone: no tools, nothing of stages 1 and 2 (the paper's No-Memory).

    Args:
        signature: the task, "question -> answer" or any class signature.
        max_context_tokens: T_max (8192 in the paper), for the reward alone.
        adapter: renders the one call; DSPy's configured one when left out.
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        *,
        max_context_tokens: int = 8192,
        adapter: dspy.Adapter | None = None,
    ) -> None:
        super().__init__()
        if max_context_tokens < 1:
            raise ConfigurationError("max_context_tokens must be at least 1")
        self.signature = ensure_signature(signature)
        taken = {"messages", "distractors", "memories"}.intersection(self.signature.input_fields)
        if taken:
            raise ConfigurationError(f"rename the input {sorted(taken)[0]!r}: an episode uses that name")
        self.max_context_tokens, self.adapter = max_context_tokens, adapter
        self.respond = dspy.Predict(self.signature)

    def forward(self, messages: Sequence[str] = (), distractors: Sequence[str] = (), **inputs: Any) -> dspy.Prediction:
        """Answer the question.

        Args:
            messages: not shown.
            distractors: not shown.
            inputs: the signature's inputs.

        Returns:
            the signature's outputs (None where the reply could not be read) and `trajectory`.
        """
        with _rendered_by(self.adapter):
            return run(self._play(inputs))

    async def aforward(
        self, messages: Sequence[str] = (), distractors: Sequence[str] = (), **inputs: Any
    ) -> dspy.Prediction:
        """`forward`, awaiting the LM."""
        with _rendered_by(self.adapter):
            return await arun(self._play(inputs))

    def _play(self, inputs: Mapping[str, Any]) -> Play:
        context = ShortTermMemory(token_counter(self.respond), max_tokens=self.max_context_tokens)
        context.append(Message(role="user", content=task_message(self.signature, inputs), kind="question"))
        return (yield from _respond(self.respond, inputs, context))


class RetrieveOnlyAgent(Program):
    """Stores every stage-1 message as it is, retrieves with the question, answers in one call (RAG).

    The stores and the search are done by this program, not chosen by the model; they are in the event log, so the
    reward terms of storage and relevance measure them. The distractors of stage 2 are not shown.

    Args:
        signature: the task, "question -> answer" or any class signature; `memories` is added to its inputs.
        top_k: how many messages are retrieved.
        embedder: what makes vectors of texts; `default_embedder()` when left out.
        max_context_tokens: T_max (8192 in the paper), for the reward alone.
        adapter: renders the one call; DSPy's configured one when left out.
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
        super().__init__()
        if not 1 <= top_k <= 100 or max_context_tokens < 1:
            raise ConfigurationError("top_k must be between 1 and 100, and max_context_tokens at least 1")
        self.signature = ensure_signature(signature)
        taken = {"messages", "distractors", "memories"}.intersection(self.signature.input_fields)
        if taken:
            raise ConfigurationError(f"rename the input {sorted(taken)[0]!r}: this program uses that name")
        self.top_k, self.max_context_tokens = top_k, max_context_tokens
        self.embedder, self.adapter = embedder, adapter
        memories = dspy.InputField(desc="what was said before about this, the nearest first")
        self.respond = dspy.Predict(self.signature.append("memories", memories, type_=str))

    def forward(self, messages: Sequence[str], distractors: Sequence[str] = (), **inputs: Any) -> dspy.Prediction:
        """Store the messages, retrieve, answer.

        Args:
            messages: stored, one entry each.
            distractors: not shown.
            inputs: the signature's inputs; they are also the query.

        Returns:
            the signature's outputs (None where the reply could not be read) and `trajectory`.
        """
        with LongTermMemory.open(":memory:", embedder=self.embedder) as memory, _rendered_by(self.adapter):
            return run(self._play(memory, messages, inputs))

    async def aforward(
        self, messages: Sequence[str], distractors: Sequence[str] = (), **inputs: Any
    ) -> dspy.Prediction:
        """`forward`, awaiting the LM."""
        with LongTermMemory.open(":memory:", embedder=self.embedder) as memory, _rendered_by(self.adapter):
            return await arun(self._play(memory, messages, inputs))

    def _play(self, memory: LongTermMemory, messages: Iterable[str], inputs: Mapping[str, Any]) -> Play:
        context = ShortTermMemory(token_counter(self.respond), max_tokens=self.max_context_tokens)
        toolkit = MemoryToolkit(memory, context)
        toolkit.stage = Stage.CONSTRUCT
        for toolkit.turn, text in enumerate(messages):
            yield from toolkit.run("add_memory", {"content": text})
        toolkit.stage, toolkit.turn = Stage.REASON, 0
        task = task_message(self.signature, inputs)
        context.append(Message(role="user", content=task, kind="question"))
        event = yield from toolkit.run("retrieve_memory", {"query": task, "top_k": self.top_k})
        found = "\n".join(fenced(content) for content in event.contents)
        if found:
            context.append(Message(role="tool", content=found, kind="retrieved"))
        asked = {**inputs, "memories": found or "nothing"}
        return (yield from _respond(self.respond, asked, context, toolkit.events, memory.all()))


def _rendered_by(adapter: dspy.Adapter | None) -> Any:
    return dspy.context(adapter=adapter) if adapter is not None else dspy.context()


def _respond(
    predictor: dspy.Predict,
    inputs: Mapping[str, Any],
    context: ShortTermMemory,
    events: tuple[ToolEvent, ...] = (),
    memories: Iterable[Memory] = (),
) -> Play:
    """Make the one LM call and return the finished episode as a Prediction."""
    seen = tuple({"role": m.role, "kind": m.kind, "content": m.content} for m in context.messages)
    outputs = list(predictor.signature.output_fields)
    answer: dict[str, Any] = {}
    error, stop = None, StopReason.ROUND_LIMIT
    with record() as tape:
        try:
            prediction = yield Ask(predictor, inputs)
            answer = {name: prediction[name] for name in outputs if prediction.get(name) is not None}
        except AdapterParseError as failure:
            error = str(failure.message or failure).strip().split("\n")[0]
        except ContextWindowExceededError as failure:
            error, stop = str(failure).strip().split("\n")[0], StopReason.CONTEXT_OVERFLOW
    completion = tape.completions[-1] if tape.completions else None
    tokens = len(completion.prompt_ids) if completion else context.tokens
    step = Step(
        stage=Stage.REASON,
        turn=0,
        round=1,
        kind="act",
        context=seen,
        output={"reasoning": "", "tool_calls": [], "answer": answer or None},
        parsed=bool(answer),
        prompt_tokens=tokens,
        completion=completion,
        error=error,
    )
    trajectory = Trajectory(
        steps=(step,),
        events=events,
        answer=answer or None,
        stop_reason=StopReason.ANSWERED if answer else stop,
        context_tokens=tokens,
        max_context_tokens=context.max_tokens,
        context=context.texts(),
        memories=tuple(memories),
    )
    return dspy.Prediction(**{name: answer.get(name) for name in outputs}, trajectory=trajectory)
