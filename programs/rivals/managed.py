"""What the rivals have in common: a manager keeps the memory, the question retrieves from it, a model answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import dspy
from dspy.signatures.signature import ensure_signature

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.short_term import Message, ShortTermMemory
from agemem_dspy.programs.agent import AgeMemAgent, task_message, token_counter
from agemem_dspy.programs.program import Program
from agemem_dspy.programs.rivals.manager import ManagerSession
from agemem_dspy.programs.session import Play, Session, arun, run
from agemem_dspy.programs.single_call import answer_once, refuse_names, rendered_by
from agemem_dspy.tools import MemoryToolkit
from agemem_dspy.types import Embedder, Stage, Step

SHORT_TERM_TOOLS = ("summarize_context", "filter_context")


class ManagedMemoryAgent(Program):
    """Plays the three stages with a memory that LM calls of a fixed order keep, not the agent's own decisions.

    Every message, of stage 2 too, goes through `_store`, which is all that the rivals differ in beside `_recall`. The
    messages of stage 2 stay in the conversation before the question, as they do for `ThreeStageEpisode`. Stores,
    changes and the search are in the event log and the manager's LM calls among the steps, so that rewards, costs and
    GRPO see them.

    Args:
        signature: the task, "question -> answer" or any class signature; `conversation` and `memories` are added.
        top_k: how many entries are retrieved with the question.
        short_term_tools: let the answering model play stages 2 and 3 step by step with `summarize_context` and
            `filter_context`; without them it answers in one call.
        max_rounds: LM calls in a turn with those tools.
        embedder: what makes vectors of texts; `default_embedder()` when left out.
        max_context_tokens: T_max (8192 in the paper), for the reward alone.
        adapter: renders the calls; DSPy's configured one when left out.
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        *,
        top_k: int = 3,
        short_term_tools: bool = False,
        max_rounds: int = 5,
        embedder: Embedder | None = None,
        max_context_tokens: int = 8192,
        adapter: dspy.Adapter | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= 100 or max_context_tokens < 1 or max_rounds < 1:
            raise ConfigurationError(
                "top_k must be between 1 and 100, and max_context_tokens and max_rounds at least 1"
            )
        self.signature = ensure_signature(signature)
        refuse_names(self.signature, "messages", "distractors", "conversation", "memories")
        self.top_k, self.short_term_tools, self.max_rounds = top_k, short_term_tools, max_rounds
        self.max_context_tokens, self.embedder, self.adapter = max_context_tokens, embedder, adapter
        if short_term_tools:
            self.agent = AgeMemAgent(
                signature,
                memory_tools=SHORT_TERM_TOOLS,
                max_rounds=max_rounds,
                max_context_tokens=max_context_tokens,
                adapter=adapter,
            )
        else:
            conversation = dspy.InputField(desc="what was said just before")
            memories = dspy.InputField(desc="what is remembered about this, the nearest first")
            asked = self.signature.prepend("memories", memories, type_=str)
            self.respond = dspy.Predict(asked.prepend("conversation", conversation, type_=str))

    @abstractmethod
    def _store(self, manager: ManagerSession, messages: Sequence[str]) -> Play:
        """Take the messages of one stage into the memory, setting `manager.toolkit.turn` to the message at work."""

    def _recall(self, manager: ManagerSession, query: str) -> Play:
        """Return the texts that are shown with the question."""
        event = yield from manager.operate("retrieve_memory", query=query, top_k=self.top_k)
        return list(event.contents)

    def forward(self, messages: Sequence[str], distractors: Sequence[str] = (), **inputs: Any) -> dspy.Prediction:
        """Play one episode over an empty store of its own.

        Args:
            messages: what arrives in stage 1, one a turn.
            distractors: what arrives in stage 2, one a turn.
            inputs: the signature's inputs; they are also the query.

        Returns:
            the signature's outputs (None where there is no answer that could be read) and `trajectory`.
        """
        with LongTermMemory.open(":memory:", embedder=self.embedder) as memory, rendered_by(self.adapter):
            return run(self._play(memory, messages, distractors, inputs))

    async def aforward(
        self, messages: Sequence[str], distractors: Sequence[str] = (), **inputs: Any
    ) -> dspy.Prediction:
        """`forward`, awaiting the LM."""
        with LongTermMemory.open(":memory:", embedder=self.embedder) as memory, rendered_by(self.adapter):
            return await arun(self._play(memory, messages, distractors, inputs))

    def _play(
        self, memory: LongTermMemory, messages: Sequence[str], distractors: Sequence[str], inputs: Mapping[str, Any]
    ) -> Play:
        task = task_message(self.signature, inputs)
        count = token_counter(self.predictors()[0])
        session = self.agent.session(memory) if self.short_term_tools else None
        context = session.context if session else ShortTermMemory(count, max_tokens=self.max_context_tokens)
        steps: list[Step] = session.steps if session else []
        toolkit = MemoryToolkit(memory, context, log=session.toolkit if session else None)
        manager = ManagerSession(toolkit, steps, count)
        toolkit.stage = Stage.CONSTRUCT
        yield from self._store(manager, messages)
        yield from self._converse(session, context, distractors)
        toolkit.stage = Stage.CONTROL
        yield from self._store(manager, distractors)
        toolkit.stage, toolkit.turn, toolkit.round = Stage.REASON, 0, 0
        said = "\n".join(context.texts())
        found = "\n".join((yield from self._recall(manager, task)))
        if found:
            context.append(Message(role="tool", content=found, kind="retrieved"))
        if session:
            yield from session.turn(Stage.REASON, 0, task, must_answer=True)
            return self.agent.prediction(session)
        context.append(Message(role="user", content=task, kind="question"))
        asked = {**inputs, "conversation": said or "nothing", "memories": found or "nothing"}
        events = toolkit.events
        return (yield from answer_once(self.respond, asked, context, steps=steps, events=events, memories=memory.all()))

    def _converse(self, session: Session | None, context: ShortTermMemory, distractors: Sequence[str]) -> Play:
        """Let the messages of stage 2 into the context, where the agent, if there is one, may clear up."""
        for turn, text in enumerate(distractors):
            if session:
                yield from session.turn(Stage.CONTROL, turn, text)
            else:
                context.append(Message(role="user", content=text))
