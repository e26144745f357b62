"""ThreeStageEpisode: plays the three stages of a training trajectory with one agent; the third may be in a world.

Deviations from the paper: 1. in stages 1 and 2 a turn also ends after a step whose calls all succeeded and
left nothing to read, without a further `<answer>`; 2. a stage-1 message is followed by what the agent
already stores about it, as a message of its own, only if there is something; 3. in a world (`environments`)
the task of stage 3 is to act, and an answer only ends the episode early.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import dspy

from agemem_dspy.environments import Environment
from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.programs.acting import EPISODE_INPUTS, act_in, begun, debriefing, outcome_of, task_of
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.program import Program
from agemem_dspy.programs.session import Play, Session, arun, run
from agemem_dspy.types import Stage, StopReason


class ThreeStageEpisode(Program):
    """Construct memory, keep the context clean, then answer.

    Every call plays one episode over an empty store of its own; the agent's own memory is not touched, so an
    episode may be repeated, in any number of threads.

    Args:
        agent: whose policy plays.
        stages: the last stage that is played, 1 to 3; fewer than 3 serve a progressive curriculum.
        recall: when the agent is shown, without asking, what it stores about a message: in stage 1 ("construct", the
            paper's way) or in all stages ("always", the paper's RAG variant when the agent has no STM tools; there it
            retrieves at every step, here at every message).
        max_steps: actions allowed in a world (30 in AgentBoard).
        carry_memory: play over the agent's own memory instead, so that one episode may help the next; after a world
            the agent is told how it ended and may store what it learned.

    Example:
        >>> ThreeStageEpisode(agent)(messages=["I fly from Lyon."], distractors=["Nice weather."], question="…")
        >>> ThreeStageEpisode(agent)(messages=["Doors open by 'toggle'."], environment="babyai:OpenDoor", seed=3)
    """

    def __init__(
        self,
        agent: AgeMemAgent,
        *,
        stages: int = 3,
        recall: Literal["construct", "always"] = "construct",
        max_steps: int = 30,
        carry_memory: bool = False,
    ) -> None:
        super().__init__()
        if stages not in (1, 2, 3):
            raise ConfigurationError(f"stages must be 1, 2 or 3, not {stages}")
        if recall not in ("construct", "always"):
            raise ConfigurationError(f"recall must be 'construct' or 'always', not {recall!r}")
        if max_steps < 1:
            raise ConfigurationError(f"max_steps must be 1 or more, not {max_steps}")
        taken = [name for name in EPISODE_INPUTS if name in agent.signature.input_fields]
        if taken:
            raise ConfigurationError(f"rename the agent's input {taken[0]!r}: an episode uses that name")
        self.agent = agent
        self.stages, self.recall, self.max_steps, self.carry_memory = stages, recall, max_steps, carry_memory

    def forward(
        self,
        messages: Sequence[str],
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
            inputs: the agent's own inputs, shown in stage 3; none with a world.

        Returns:
            the agent's outputs (None where it never answered) and `trajectory`.

        Raises:
            ConfigurationError: inputs that do not fit, or no such world.
            MissingDependency: the world's extra is not installed.
            WorldError: the world failed.
        """
        with self._begun(environment, seed) as (session, world):
            run(self._play(session, world, messages, distractors, inputs))
            return self.agent.prediction(session)

    async def aforward(
        self,
        messages: Sequence[str],
        distractors: Sequence[str] = (),
        environment: str | None = None,
        seed: int | None = None,
        **inputs: Any,
    ) -> dspy.Prediction:
        """`forward`, awaiting the LM, asynchronous tools and the long-term store."""
        with self._begun(environment, seed) as (session, world):
            await arun(self._play(session, world, messages, distractors, inputs))
            return await session.toolkit.long_term.awaited(partial(self.agent.prediction, session))

    @contextmanager
    def _begun(self, environment: str | None, seed: int | None) -> Iterator[tuple[Session, Environment | None]]:
        with begun(environment, seed, max_steps=self.max_steps) as world, self._store() as memory, self.agent.context():
            yield self.agent.session(memory), world

    def _store(self) -> AbstractContextManager[LongTermMemory]:
        if self.carry_memory:
            return nullcontext(self.agent.memory)
        return self.agent.memory.blank()

    def _play(
        self,
        session: Session,
        world: Environment | None,
        messages: Sequence[str],
        distractors: Sequence[str],
        inputs: Mapping[str, Any],
    ) -> Play:
        task, always = task_of(self.agent.signature, world, inputs), self.recall == "always"
        if world is not None and self.stages == 3:
            session.outcome = outcome_of(world)  # none of it yet, should the context be full before
        for turn, text in enumerate(messages):
            yield from session.turn(Stage.CONSTRUCT, turn, text, recall=True)
            if session.stop_reason is StopReason.CONTEXT_OVERFLOW:
                return
        session.context.clear()
        for turn, text in enumerate(distractors if self.stages >= 2 else ()):
            yield from session.turn(Stage.CONTROL, turn, text, recall=always)
            if session.stop_reason is StopReason.CONTEXT_OVERFLOW:
                return
        if self.stages < 3:
            return
        if world is None:
            yield from session.turn(Stage.REASON, 0, task, recall=always, must_answer=True)
            return
        yield from act_in(session, world, task, recall=always)
        if self.carry_memory and session.stop_reason is not StopReason.CONTEXT_OVERFLOW:
            yield from session.aside(Stage.REASON, 1, debriefing(outcome_of(world)))
