"""ThreeStageEpisode: plays the three stages of a training trajectory with one agent.

Deviations from the paper: 1. in stages 1 and 2 a turn also ends after a step whose calls all succeeded and
left nothing to read, without a further `<answer>`; 2. a stage-1 message is followed by what the agent
already stores about it, as a message of its own, only if there is something.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.long_term import LongTermMemory
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

    Example:
        >>> ThreeStageEpisode(agent)(messages=["I fly from Lyon."], distractors=["Nice weather."], question="…")
    """

    def __init__(self, agent: AgeMemAgent, *, stages: int = 3) -> None:
        super().__init__()
        if stages not in (1, 2, 3):
            raise ConfigurationError(f"stages must be 1, 2 or 3, not {stages}")
        taken = {"messages", "distractors"}.intersection(agent.signature.input_fields)
        if taken:
            raise ConfigurationError(f"rename the agent's input {sorted(taken)[0]!r}: an episode uses that name")
        self.agent = agent
        self.stages = stages

    def forward(self, messages: Sequence[str], distractors: Sequence[str] = (), **inputs: Any) -> dspy.Prediction:
        """Play one episode.

        Args:
            messages: what arrives in stage 1, one a turn.
            distractors: what arrives in stage 2, one a turn.
            inputs: the agent's own inputs, shown in stage 3.

        Returns:
            the agent's outputs (None where it never answered) and `trajectory`.
        """
        with self._store() as memory, self.agent.context():
            session = self.agent.session(memory)
            run(self._play(session, messages, distractors, inputs))
            return self.agent.prediction(session)

    async def aforward(
        self, messages: Sequence[str], distractors: Sequence[str] = (), **inputs: Any
    ) -> dspy.Prediction:
        """`forward`, awaiting the LM and asynchronous tools."""
        with self._store() as memory, self.agent.context():
            session = self.agent.session(memory)
            await arun(self._play(session, messages, distractors, inputs))
            return self.agent.prediction(session)

    def _store(self) -> LongTermMemory:
        return self.agent.memory.blank()

    def _play(
        self, session: Session, messages: Sequence[str], distractors: Sequence[str], inputs: dict[str, Any]
    ) -> Play:
        task = self.agent.task_text(inputs)
        for turn, text in enumerate(messages):
            yield from session.turn(Stage.CONSTRUCT, turn, text, recall=True)
            if session.stop_reason is StopReason.CONTEXT_OVERFLOW:
                return
        session.context.clear()
        for turn, text in enumerate(distractors if self.stages >= 2 else ()):
            yield from session.turn(Stage.CONTROL, turn, text)
            if session.stop_reason is StopReason.CONTEXT_OVERFLOW:
                return
        if self.stages == 3:
            yield from session.turn(Stage.REASON, 0, task, must_answer=True)
