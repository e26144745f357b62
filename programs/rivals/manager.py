"""What a memory manager may do during an episode: ask an LM, look up what is stored, change it; all of it is logged."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError, ContextWindowExceededError
from pydantic_core import to_jsonable_python

from agemem_dspy.policy.recorder import Tape
from agemem_dspy.programs.session import Ask, Taped, first_line
from agemem_dspy.tools import MemoryToolkit
from agemem_dspy.types import Completion, Step, ToolEvent


class ManagerSession:
    """One episode of a manager. Not thread-safe.

    Args:
        toolkit: bound to the episode's store; its stage and turn are set by the episode.
        steps: where the LM calls are recorded, in order.
        count_tokens: tokens of a text.
    """

    def __init__(self, toolkit: MemoryToolkit, steps: list[Step], count_tokens: Callable[[str], int]) -> None:
        self.toolkit, self.steps, self.count_tokens = toolkit, steps, count_tokens

    def ask(self, predictor: dspy.Predict, **inputs: Any) -> Generator[Ask, Any, Any]:
        """Make one LM call and return its lone output, None where the reply could not be read or did not fit."""
        (output,) = predictor.signature.output_fields
        tape, value, error = Tape(), None, None
        try:
            value = (yield Ask(Taped(predictor, tape), inputs)).get(output)
        except (AdapterParseError, ContextWindowExceededError) as failure:
            error = first_line(failure)
        shown = "\n".join(f"{name}: {to_jsonable_python(given)}" for name, given in inputs.items())
        self.record(shown, {output: to_jsonable_python(value)}, error, tape.completions[-1:])
        return value

    def record(self, shown: str, written: dict[str, Any], error: str | None, completions: list[Completion]) -> None:
        """Add the step of one LM call."""
        kit, completion = self.toolkit, completions[-1] if completions else None
        kit.round += 1
        self.steps.append(
            Step(
                stage=kit.stage,
                turn=kit.turn,
                round=kit.round,
                kind="manage",
                context=({"role": "user", "kind": "message", "content": shown},),
                output={"reasoning": "", "tool_calls": [], "answer": written},
                parsed=error is None and any(value is not None for value in written.values()),
                prompt_tokens=len(completion.prompt_ids) if completion else self.count_tokens(shown),
                completion=completion,
                error=error,
            )
        )

    def nearest(self, text: str, top_k: int) -> Generator[Any, Any, dict[str, str]]:
        """Map the short ids of the entries nearest to a text to their contents, the nearest first."""
        if not text.strip():
            return {}
        event = yield from self.toolkit.recall(text, top_k)
        found = (self.toolkit.long_term.get(id) for id in event.memory_ids)
        return {self.toolkit.alias(memory): memory.content for memory in found}

    def operate(self, tool: str, **arguments: Any) -> Generator[Any, Any, ToolEvent]:
        """Run one memory tool; a call that cannot work is an event, as the agent's are."""
        return (yield from self.toolkit.run(tool, arguments))
