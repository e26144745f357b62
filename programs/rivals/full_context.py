"""Full context: no memory at all, everything that was said is in the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dspy
from dspy.signatures.signature import ensure_signature

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.short_term import Message, ShortTermMemory
from agemem_dspy.programs.agent import task_message, token_counter
from agemem_dspy.programs.program import Program
from agemem_dspy.programs.session import Play, arun, run
from agemem_dspy.programs.single_call import answer_once, refuse_names, rendered_by


class FullContextAgent(Program):
    """Answers in one call that shows the messages of both stages, in order, before the question.

    Args:
        signature: the task, "question -> answer" or any class signature; `conversation` is added to its inputs.
        max_context_tokens: T_max (8192 in the paper), for the reward alone; what the model cannot hold is an overflow.
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
        refuse_names(self.signature, "messages", "distractors", "conversation")
        self.max_context_tokens, self.adapter = max_context_tokens, adapter
        conversation = dspy.InputField(desc="everything that was said before, in order")
        self.respond = dspy.Predict(self.signature.prepend("conversation", conversation, type_=str))

    def forward(self, messages: Sequence[str], distractors: Sequence[str] = (), **inputs: Any) -> dspy.Prediction:
        """Answer the question.

        Returns:
            the signature's outputs (None where the reply could not be read) and `trajectory`.
        """
        with rendered_by(self.adapter):
            return run(self._play([*messages, *distractors], inputs))

    async def aforward(
        self, messages: Sequence[str], distractors: Sequence[str] = (), **inputs: Any
    ) -> dspy.Prediction:
        """`forward`, awaiting the LM."""
        with rendered_by(self.adapter):
            return await arun(self._play([*messages, *distractors], inputs))

    def _play(self, said: Sequence[str], inputs: Mapping[str, Any]) -> Play:
        context = ShortTermMemory(token_counter(self.respond), max_tokens=self.max_context_tokens)
        for text in said:
            context.append(Message(role="user", content=text))
        context.append(Message(role="user", content=task_message(self.signature, inputs), kind="question"))
        return (yield from answer_once(self.respond, {**inputs, "conversation": "\n".join(said)}, context))
