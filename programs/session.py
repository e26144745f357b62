"""One conversation of an agent: its two memories, its steps, and how a turn is played.

Written once for threads and asyncio: a turn is a generator that yields what it needs from outside
(an LM call, a user's tool, the long-term store) and is driven by `run` or `arun`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError, ContextWindowExceededError

from agemem_dspy.environments import Environment
from agemem_dspy.errors import ToolError
from agemem_dspy.memory.short_term import Kind, Message, ShortTermMemory
from agemem_dspy.policy.compact import render_step
from agemem_dspy.policy.recorder import Tape, record
from agemem_dspy.programs.overflow import OnOverflow, OverflowGuard
from agemem_dspy.programs.window import ContextWindow, as_shown
from agemem_dspy.signatures import answer_fields
from agemem_dspy.tools import READ_TOOLS, MemoryToolkit
from agemem_dspy.types import Completion, Outcome, Stage, Step, StopReason, ToolEvent, Trajectory


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to the driver: call a predictor and send back its prediction."""

    call: Callable[..., Any]
    inputs: Mapping[str, Any]


Play = Generator[Any, Any, Any]  # yields `Ask` and `Invoke`


class Session:
    """What one episode, or one call of the agent, accumulates. Not thread-safe.

    Args:
        predictor: the trainable step predictor.
        summarizer: the predictor behind `summarize_context`.
        toolkit: the tools, bound to this session's memories.
        required: outputs without which an answer is not one.
        max_rounds: LM calls allowed in one turn.
        recall_top_k: how many memories an automatic recall shows.
        on_overflow: what the system does when a prompt would not fit; see `OverflowGuard`.
    """

    def __init__(
        self,
        predictor: dspy.Predict,
        summarizer: dspy.Predict,
        toolkit: MemoryToolkit,
        *,
        required: Collection[str],
        max_rounds: int,
        recall_top_k: int,
        on_overflow: OnOverflow = "drop_oldest",
    ) -> None:
        self.predictor, self.summarizer, self.toolkit = predictor, summarizer, toolkit
        self.required, self.max_rounds, self.recall_top_k = required, max_rounds, recall_top_k
        self.window = ContextWindow(predictor, toolkit.tools, max_tokens=toolkit.short_term.max_tokens)
        self.guard = OverflowGuard(on_overflow, toolkit, self.window)
        self.steps: list[Step] = []
        self.stop_reason = StopReason.ROUND_LIMIT
        self.answer: dict[str, Any] | None = None
        self.outcome: Outcome | None = None
        self.context_tokens = 0
        self._opening = Message(role="user", content="")  # the message that began this turn

    @property
    def context(self) -> ShortTermMemory:
        """The short-term memory."""
        return self.toolkit.short_term

    def turn(
        self,
        stage: Stage,
        turn: int,
        text: str,
        *,
        recall: bool = False,
        must_answer: bool = False,
        world: Environment | None = None,
    ) -> Play:
        """Play one message: show it, then let the agent act until the turn ends.

        A turn that needs no answer also ends after calls that all succeeded and left nothing to read. Two
        unreadable replies in a row end any turn, so that an LM that does not master the format costs few rounds.
        With a world the turn ends with its episode, and has as many rounds more as that has steps.
        """
        kit = self.toolkit
        kit.stage, kit.turn, kit.round = stage, turn, 0
        self.context.overhead = self.context.overhead or self.window.count(())
        if self._opening in self.context.messages:  # the question of a turn that is over need not stay
            self.context.unpin(self._opening.id)
        self._opening = self.context.append(
            Message(role="user", content=text, kind="question" if must_answer else "message")
        )
        if recall and text.strip():
            event = yield from kit.recall(text, self.recall_top_k)
            if event.contents:
                self.context.append(Message(role="tool", content=event.observation, kind="retrieved"))
        self.stop_reason, self.answer = StopReason.ROUND_LIMIT, None
        missed = 0
        for kit.round in range(1, self.max_rounds + (world.max_steps if world else 0) + 1):
            finished = yield from self._step(must_answer)
            if finished:
                return
            if world is not None and world.last.done:
                self.stop_reason = StopReason.WORLD_ENDED
                return
            reply = next(step for step in reversed(self.steps) if step.kind == "act")
            missed = missed + 1 if reply.error else 0
            if missed == 2:
                self.stop_reason = StopReason.UNREADABLE
                return

    def aside(self, stage: Stage, turn: int, text: str) -> Play:
        """Play a turn after the end: what it stores stays, how the episode ended does not change."""
        ended = self.stop_reason, self.answer, self.context_tokens
        yield from self.turn(stage, turn, text)
        self.stop_reason, self.answer, self.context_tokens = ended

    def _step(self, must_answer: bool) -> Play:
        """Make one LM call and execute what it asks for; return whether the turn is over."""
        kit, signature, tape = self.toolkit, self.predictor.signature, Tape()
        self.window.tools = kit.tools  # a world offers one more
        output: Mapping[str, Any] = {}
        error, wrote = None, ""
        overflow = yield from self._make_room()
        while overflow is None:
            try:
                output = yield Ask(Taped(self.predictor, tape), self.window.inputs(self.context.messages))
                break
            except AdapterParseError as failure:
                error, wrote = first_line(failure), failure.lm_response
                break
            except ContextWindowExceededError as failure:
                overflow = yield from self._make_room(refusal=first_line(failure))
        seen = tuple(as_shown(message) for message in self.context.messages)
        completion = tape.completions[-1] if tape.completions else None
        self.context_tokens = self._prompt_tokens(completion)

        requested = getattr(output.get("tool_calls"), "tool_calls", None) or []
        calls = [{"name": call.name, "arguments": call.args} for call in requested]
        answer = {n: output.get(n) for n in answer_fields(signature) if _given(output.get(n), beside=calls)}
        lacking = [name for name in self.required if name not in answer] if must_answer else []
        answered = bool(answer) and not lacking
        step = self._record(
            kind="act",
            context=seen,
            output={"reasoning": output.get("reasoning") or "", "tool_calls": calls, "answer": answer or None},
            parsed=bool(calls or answered),
            error=error or overflow,
            completion=completion,
        )
        if overflow is not None:
            self.stop_reason = StopReason.CONTEXT_OVERFLOW
            return True

        text = completion.text if completion else wrote or render_step(step.output["reasoning"], calls, answer or None)
        issued = self.context.append(Message(role="assistant", content=text or "(nothing)", kind="call"))
        position, events = len(self.steps) - 1, []
        if not step.parsed:
            incomplete = answer and f"the answer lacks {', '.join(lacking)}; give all of it at once"
            events.append(kit.reject(error or incomplete or "the reply held neither a tool call nor an answer"))
        for call in calls:
            events.append(
                (
                    yield from kit.run(
                        call["name"],
                        call["arguments"],
                        summarize=self._summarize,
                        call_message=issued.id,
                        notes=tuple(tape.notes),
                    )
                )
            )
        for event in events:
            kind: Kind = "retrieved" if event.ok and event.tool in READ_TOOLS else "result"
            self.context.append(Message(role="tool", content=event.observation, kind=kind))
        self.steps[position] = replace(step, events=tuple(events))
        return self._finished(answer if answered else {}, events, must_answer)

    def _make_room(self, refusal: str | None = None) -> Generator[Any, Any, str | None]:
        """Let the guard make the next prompt fit; return why it cannot be asked, if so."""
        summarize = partial(self._summarize, kind="guard")
        return self.guard.make_room(self._opening.id, summarize, refusal=refusal)

    def _summarize(self, conversation: str, kind: str = "summarize") -> Generator[Ask, Any, str]:
        """Make the LM call that writes a summary; return it, empty when it cannot be read.

        Raises:
            ToolError: the conversation is too long for the LM.
        """
        tape, error, summary = Tape(), None, ""
        try:
            prediction = yield Ask(Taped(self.summarizer, tape), {"conversation": conversation})
            summary = str(prediction.summary or "").strip()
        except AdapterParseError as failure:
            error = first_line(failure)
        except ContextWindowExceededError as failure:
            raise ToolError("the messages are too long to summarize at once; give a smaller span") from failure
        self._record(
            kind=kind,
            context=({"role": "user", "kind": "message", "content": conversation},),
            output={"summary": summary},
            parsed=bool(summary),
            error=error,
            completion=tape.completions[-1] if tape.completions else None,
        )
        return summary

    def _record(self, *, completion: Completion | None, **what: Any) -> Step:
        """Add a step, stamped with where the episode is and what its prompt cost."""
        kit = self.toolkit
        step = Step(
            stage=kit.stage,
            turn=kit.turn,
            round=kit.round,
            prompt_tokens=self._prompt_tokens(completion),
            completion=completion,
            **what,
        )
        self.steps.append(step)
        return step

    def _prompt_tokens(self, completion: Completion | None) -> int:
        return len(completion.prompt_ids) if completion else self.window.count(self.context.messages)

    def _finished(self, answer: dict[str, Any], events: list[ToolEvent], must_answer: bool) -> bool:
        succeeded = all(event.ok for event in events)
        unread = any(event.tool in READ_TOOLS or event.tool not in self.toolkit.memory_tools for event in events)
        finished = succeeded and not unread and bool(answer or (events and not must_answer))
        if finished:
            self.stop_reason = StopReason.ANSWERED
            self.answer = answer if must_answer else None  # what ends an earlier stage's turn is no answer to the task
        return finished

    def trajectory(self) -> Trajectory:
        """Return everything that happened, as a value."""
        return Trajectory(
            steps=tuple(self.steps),
            events=self.toolkit.events,
            answer=self.answer,
            stop_reason=self.stop_reason,
            context_tokens=self.context_tokens,
            max_context_tokens=self.context.max_tokens,
            context=self.context.texts(),
            memories=tuple(self.toolkit.long_term.all()),
            outcome=self.outcome,
        )


class Taped:
    """Calls a predictor with a tape running."""

    def __init__(self, predictor: dspy.Predict, tape: Tape) -> None:
        self.predictor, self.tape = predictor, tape

    def __call__(self, **inputs: Any) -> Any:
        with record(self.tape):
            return self.predictor(**inputs)

    async def acall(self, **inputs: Any) -> Any:
        with record(self.tape):
            return await self.predictor.acall(**inputs)


def run(play: Play) -> Any:
    """Drive a session's generator to its end in this thread and return its value."""
    step: Callable[[], Any] = partial(next, play)
    while True:
        try:
            request = step()
        except StopIteration as done:
            return done.value
        try:
            reply = request.call(**request.inputs)
        except Exception as error:  # noqa: BLE001 - handed to the generator, which knows whose fault it is
            step = partial(play.throw, error)
        else:
            step = partial(play.send, reply)


async def arun(play: Play) -> Any:
    """`run`, awaiting LM calls, asynchronous tools and the long-term store."""
    step: Callable[[], Any] = partial(next, play)
    while True:
        try:
            request = step()
        except StopIteration as done:
            return done.value
        try:
            reply = await request.call.acall(**request.inputs)
        except Exception as error:  # noqa: BLE001 - as above
            step = partial(play.throw, error)
        else:
            step = partial(play.send, reply)


def _given(value: Any, *, beside: Collection[Any]) -> bool:
    """Tell whether an output was given: an LM that calls tools may still fill the answer with a word for nothing."""
    if not isinstance(value, str):
        return value is not None
    text = value.strip().lower()
    return bool(text) and not (beside and text in {"none", "null", "n/a"})


def first_line(error: Exception) -> str:
    """Return what went wrong without the adapter's copy of the whole prompt."""
    message = getattr(error, "message", None) or str(error)
    return str(message).strip().splitlines()[0] if str(message).strip() else type(error).__name__
