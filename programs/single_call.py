"""One LM call that answers, and the finished episode it makes: how programs end that do not act step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError, ContextWindowExceededError

from agemem_dspy.policy.recorder import record
from agemem_dspy.programs.session import Ask, Play, Session, first_line
from agemem_dspy.types import Stage, Step, StopReason, Trajectory


def rendered_by(adapter: dspy.Adapter | None) -> Any:
    """Return the DSPy context in which an adapter renders, the configured one when it is None."""
    return dspy.context(adapter=adapter) if adapter is not None else dspy.context()


def answer_once(predictor: dspy.Predict, inputs: Mapping[str, Any], session: Session) -> Play:
    """Make the one LM call and return the finished episode as a Prediction.

    Args:
        session: its context is what the reward is to take for that of the answer.
    """
    context = session.context
    seen = tuple({"role": m.role, "kind": m.kind, "content": m.content} for m in context.messages)
    outputs = list(predictor.signature.output_fields)
    answer: dict[str, Any] = {}
    error, stop = None, StopReason.ROUND_LIMIT
    with record() as tape:
        try:
            prediction = yield Ask(predictor, inputs)
            answer = {name: prediction[name] for name in outputs if prediction.get(name) is not None}
        except AdapterParseError as failure:
            error = first_line(failure)
        except ContextWindowExceededError as failure:
            error, stop = first_line(failure), StopReason.CONTEXT_OVERFLOW
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
        steps=(*session.steps, step),
        events=session.toolkit.events,
        answer=answer or None,
        stop_reason=StopReason.ANSWERED if answer else stop,
        context_tokens=tokens,
        max_context_tokens=context.max_tokens,
        context=context.texts(),
        memories=tuple(session.toolkit.long_term.all()),
    )
    return dspy.Prediction(**{name: answer.get(name) for name in outputs}, trajectory=trajectory)
