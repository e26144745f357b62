"""What rivals and baselines share: they remember in their own way, then a model answers once, or acts in a world."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dspy
from dspy.signatures.signature import ensure_signature

from agemem_dspy.environments import Environment
from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.short_term import Message
from agemem_dspy.programs.acting import EPISODE_INPUTS, act_in, begun, task_of
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.program import Program
from agemem_dspy.programs.session import Play, Session, arun, run
from agemem_dspy.programs.single_call import answer_once, rendered_by
from agemem_dspy.signatures import AgentStep
from agemem_dspy.types import Embedder, Stage

_ACTING = (
    "Do the task by acting, one action at a time, with what you know of it. Answer only when there is nothing to do."
)


class Rival(Program):
    """Plays the three stages over an empty store of its own; what it remembers stands before the task.

    A question is answered in one LM call. In a world the same model acts step by step in `ThreeStageEpisode`'s loop:
    `act` is its tool, and what comes of it a message. What was remembered is looked up once, with the task.

    Args:
        signature: the task, "question -> answer" or any class signature.
        shown: the inputs that `respond` has beside the signature's.
        memory_tools: those of the model that answers or acts; with some it also answers step by step.
        max_rounds: LM calls in a turn that is played step by step; in a world beside its steps.
        embedder: what makes vectors of texts; `default_embedder()` when left out.
        max_context_tokens: T_max (8192 in the paper), for the reward and in a world; there the oldest messages leave.
        adapter: renders the calls; DSPy's configured one when left out.
    """

    respond: dspy.Predict | None = None  # makes the one call

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        *,
        shown: Sequence[str] = (),
        memory_tools: Sequence[str] = (),
        max_rounds: int = 5,
        embedder: Embedder | None = None,
        max_context_tokens: int = 8192,
        adapter: dspy.Adapter | None = None,
    ) -> None:
        super().__init__()
        self.signature = ensure_signature(signature)
        taken = sorted({*EPISODE_INPUTS, *shown} & set(self.signature.input_fields))
        if taken:
            raise ConfigurationError(f"rename the input {taken[0]!r}: this program uses that name")
        self.max_context_tokens, self.embedder, self.adapter = max_context_tokens, embedder, adapter
        self.actor = AgeMemAgent(
            signature,
            memory_tools=memory_tools,
            max_rounds=max_rounds,
            max_context_tokens=max_context_tokens,
            adapter=adapter,
        )
        if not memory_tools:  # else it is told of a memory that it does not manage
            step = self.actor.step.signature
            self.actor.step.signature = step.with_instructions(
                step.instructions.replace(AgentStep.instructions, _ACTING)
            )

    @abstractmethod
    def _remember(self, session: Session, messages: Sequence[str], distractors: Sequence[str], task: str) -> Play:
        """Play stages 1 and 2, put what is to be seen with the task into the context, and return it as inputs."""

    def forward(
        self,
        messages: Sequence[str] = (),
        distractors: Sequence[str] = (),
        environment: str | None = None,
        seed: int | None = None,
        **inputs: Any,
    ) -> dspy.Prediction:
        """Play one episode.

        Args:
            messages: what arrives in stage 1, one a turn.
            distractors: what arrives in stage 2, one a turn.
            environment: the world of stage 3, as `make_environment` takes it; it states the task.
            seed: of the world's episode.
            inputs: the signature's inputs; none with a world.

        Returns:
            the signature's outputs (None where there is no answer that could be read) and `trajectory`.

        Raises:
            ConfigurationError: inputs that do not fit, or no such world.
            MissingDependency: the world's extra is not installed.
            WorldError: the world failed.
        """
        with self._begun(environment, seed) as (session, world):
            return run(self._play(session, world, messages, distractors, inputs))

    async def aforward(
        self,
        messages: Sequence[str] = (),
        distractors: Sequence[str] = (),
        environment: str | None = None,
        seed: int | None = None,
        **inputs: Any,
    ) -> dspy.Prediction:
        """`forward`, awaiting the LM."""
        with self._begun(environment, seed) as (session, world):
            return await arun(self._play(session, world, messages, distractors, inputs))

    @contextmanager
    def _begun(self, environment: str | None, seed: int | None) -> Iterator[tuple[Session, Environment | None]]:
        with (
            begun(environment, seed) as world,
            LongTermMemory.open(":memory:", embedder=self.embedder) as memory,
            rendered_by(self.adapter),
        ):
            yield self.actor.session(memory), world

    def _play(
        self,
        session: Session,
        world: Environment | None,
        messages: Sequence[str],
        distractors: Sequence[str],
        inputs: Mapping[str, Any],
    ) -> Play:
        task = task_of(self.signature, world, inputs)
        shown = yield from self._remember(session, messages, distractors, task)
        if world is not None:
            yield from act_in(session, world, task)
        elif self.respond is None:
            yield from session.turn(Stage.REASON, 0, task, must_answer=True)
        else:
            session.context.append(Message(role="user", content=task, kind="question"))
            return (yield from answer_once(self.respond, {**inputs, **shown}, session))
        return self.actor.prediction(session)
