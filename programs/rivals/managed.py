"""What the managed rivals have in common: a manager keeps the memory, the task retrieves from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import dspy

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.short_term import Message
from agemem_dspy.programs.agent import token_counter
from agemem_dspy.programs.rival import Rival
from agemem_dspy.programs.rivals.manager import ManagerSession
from agemem_dspy.programs.session import Play, Session
from agemem_dspy.tools import MemoryToolkit
from agemem_dspy.types import Embedder, Stage

SHORT_TERM_TOOLS = ("summarize_context", "filter_context")


class ManagedMemoryAgent(Rival):
    """Plays the three stages with a memory that LM calls of a fixed order keep, not the agent's own decisions.

    Every message, of stage 2 too, goes through `_store`, which is all that the rivals differ in beside `_recall`. The
    messages of stage 2 stay in the conversation before the task, as they do for `ThreeStageEpisode`. Stores,
    changes and the search are in the event log and the manager's LM calls among the steps, so that rewards, costs and
    GRPO see them.

    Args:
        signature: the task, "question -> answer" or any class signature; `conversation` and `memories` are added.
        top_k: how many entries are retrieved with the task.
        short_term_tools: let the model that answers or acts play stages 2 and 3 step by step with `summarize_context`
            and `filter_context`; without them it answers in one call.
        max_rounds: LM calls in a turn that is played step by step; in a world beside its steps.
        embedder: what makes vectors of texts; `default_embedder()` when left out.
        max_context_tokens: T_max (8192 in the paper), for the reward, and for the context in a world.
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
        if not 1 <= top_k <= 100:
            raise ConfigurationError("top_k must be between 1 and 100")
        super().__init__(
            signature,
            shown=["conversation", "memories"],
            memory_tools=SHORT_TERM_TOOLS if short_term_tools else (),
            max_rounds=max_rounds,
            embedder=embedder,
            max_context_tokens=max_context_tokens,
            adapter=adapter,
        )
        self.top_k, self.short_term_tools = top_k, short_term_tools
        if not short_term_tools:
            conversation = dspy.InputField(desc="what was said just before")
            memories = dspy.InputField(desc="what is remembered about this, the nearest first")
            asked = self.signature.prepend("memories", memories, type_=str)
            self.respond = dspy.Predict(asked.prepend("conversation", conversation, type_=str))

    @property
    def max_rounds(self) -> int:
        """LM calls in a turn that is played step by step."""
        return self.actor.max_rounds

    @max_rounds.setter
    def max_rounds(self, rounds: int) -> None:
        self.actor.max_rounds = rounds

    @abstractmethod
    def _store(self, manager: ManagerSession, messages: Sequence[str]) -> Play:
        """Take the messages of one stage into the memory, setting `manager.toolkit.turn` to the message at work."""

    def _recall(self, manager: ManagerSession, query: str) -> Play:
        """Return the texts that are shown with the task."""
        event = yield from manager.operate("retrieve_memory", query=query, top_k=self.top_k)
        return list(event.contents)

    def _remember(self, session: Session, messages: Sequence[str], distractors: Sequence[str], task: str) -> Play:
        context = session.context
        toolkit = MemoryToolkit(session.toolkit.long_term, context, log=session.toolkit)
        manager = ManagerSession(toolkit, session.steps, token_counter(self.actor.step))
        toolkit.stage = Stage.CONSTRUCT
        yield from self._store(manager, messages)
        for turn, text in enumerate(distractors):
            if self.short_term_tools:
                yield from session.turn(Stage.CONTROL, turn, text)
            else:
                context.append(Message(role="user", content=text))
        toolkit.stage = Stage.CONTROL
        yield from self._store(manager, distractors)
        toolkit.stage, toolkit.turn, toolkit.round = Stage.REASON, 0, 0
        said = "\n".join(context.texts())
        found = "\n".join((yield from self._recall(manager, task)))
        if found:
            context.append(Message(role="tool", content=found, kind="retrieved"))
        return {"conversation": said or "nothing", "memories": found or "nothing"}
