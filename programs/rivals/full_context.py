"""Full context: no memory at all, everything that was said is in the prompt."""

from __future__ import annotations

from collections.abc import Sequence

import dspy

from agemem_dspy.memory.short_term import Message
from agemem_dspy.programs.rival import Rival
from agemem_dspy.programs.session import Play, Session


class FullContextAgent(Rival):
    """Is shown the messages of both stages, in order, before the task.

    Args:
        signature: the task, "question -> answer" or any class signature; `conversation` is added to its inputs.
        max_context_tokens: T_max (8192 in the paper), for the reward, and for the context in a world, where the oldest
            messages leave; what the model cannot hold with a question is an overflow.
        adapter: renders the calls; DSPy's configured one when left out.
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        *,
        max_context_tokens: int = 8192,
        adapter: dspy.Adapter | None = None,
    ) -> None:
        super().__init__(signature, shown=["conversation"], max_context_tokens=max_context_tokens, adapter=adapter)
        conversation = dspy.InputField(desc="everything that was said before, in order")
        self.respond = dspy.Predict(self.signature.prepend("conversation", conversation, type_=str))

    def _remember(self, session: Session, messages: Sequence[str], distractors: Sequence[str], task: str) -> Play:
        yield from ()
        said = [*messages, *distractors]
        for text in said:
            session.context.append(Message(role="user", content=text))
        return {"conversation": "\n".join(said)}
