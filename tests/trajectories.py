"""Small constructors for the values that rewards read, shared by the reward and evaluation tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dspy
import numpy as np
from numpy.typing import NDArray

from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.types import Memory, Stage, Step, StopReason, ToolEvent, Trajectory

ADD, UPDATE, DELETE = "add_memory", "update_memory", "delete_memory"
RETRIEVE, FILTER, SUMMARIZE = "retrieve_memory", "filter_context", "summarize_context"


def make_event(
    tool: str,
    *contents: str,
    stage: int = 1,
    turn: int = 0,
    ids: tuple[str, ...] = (),
    ok: bool = True,
    automatic: bool = False,
    detail: str = "",
    tokens: tuple[int, int] = (0, 0),
    arguments: Mapping[str, Any] | None = None,
) -> ToolEvent:
    """Make one event; a failed one carries no ids and no contents, as the toolkit logs it."""
    return ToolEvent(
        index=0,
        stage=Stage(stage),
        turn=turn,
        round=0,
        tool=tool,
        arguments=arguments or {},
        ok=ok,
        observation="done" if ok else "no such id; use one that was shown",
        error=None if ok else "no such id; use one that was shown",
        memory_ids=ids if ok else (),
        contents=contents if ok else (),
        detail=detail,
        tokens_before=tokens[0],
        tokens_after=tokens[1],
        automatic=automatic,
    )


def add(content: str, *, key: str = "", turn: int = 0, stage: int = 1, ok: bool = True) -> ToolEvent:
    """Make an add; the key (its id) defaults to the content."""
    return make_event(ADD, content, ids=(key or content,), turn=turn, stage=stage, ok=ok)


def update(key: str, former: str, content: str, *, turn: int = 0, stage: int = 1, ok: bool = True) -> ToolEvent:
    """Make an update of one entry."""
    return make_event(UPDATE, content, ids=(key,), detail=former, turn=turn, stage=stage, ok=ok)


def delete(key: str, former: str, *, turn: int = 0, stage: int = 1, ok: bool = True) -> ToolEvent:
    """Make a delete of one entry."""
    return make_event(DELETE, former, ids=(key,), detail=former, turn=turn, stage=stage, ok=ok)


def retrieve(*contents: str, stage: int = 3, automatic: bool = False, ok: bool = True) -> ToolEvent:
    """Make a retrieve that found some contents."""
    return make_event(RETRIEVE, *contents, ids=contents, stage=stage, automatic=automatic, ok=ok)


def make_step(*events: ToolEvent, **changes: Any) -> Step:
    """Make one parsed step of the agent in stage 1."""
    step = Step(
        stage=Stage.CONSTRUCT,
        turn=0,
        round=0,
        kind="act",
        context=(),
        output={},
        parsed=True,
        prompt_tokens=100,
        events=events,
    )
    return replace(step, **changes)


def make_trajectory(
    *events: ToolEvent,
    answer: str | Mapping[str, Any] | None = "Lisbon",
    stop: StopReason | None = None,
    tokens: int = 800,
    limit: int = 8000,
    context: Iterable[str] = (),
    steps: tuple[Step, ...] = (),
) -> Trajectory:
    """Make a trajectory; the final memories are what the events leave behind."""
    numbered = tuple(replace(event, index=position) for position, event in enumerate(events))
    live: dict[str, str] = {}
    for event in numbered:
        if event.ok and event.tool in (ADD, UPDATE):
            live.update(zip(event.memory_ids, event.contents, strict=True))
        elif event.ok and event.tool == DELETE:
            for memory_id in event.memory_ids:
                live.pop(memory_id, None)
    fields = {"answer": answer} if isinstance(answer, str) else answer
    return Trajectory(
        steps=steps or (make_step(*numbered),),
        events=numbered,
        answer=fields,
        stop_reason=stop or (StopReason.ROUND_LIMIT if answer is None else StopReason.ANSWERED),
        context_tokens=tokens,
        max_context_tokens=limit,
        context=tuple(context),
        memories=tuple(Memory(id=memory_id, content=content) for memory_id, content in live.items()),
    )


AIRPORT, OLD_DIET, DIET, PIN = "home airport: Lisbon", "diet: vegetarian", "diet: vegan", "locker code: 4711"


def make_example(**changes: Any) -> dspy.Example:
    """Make an example with one add, one update and one delete; the question needs the airport."""
    fields: dict[str, Any] = {
        "id": "q1",
        "messages": [
            "By the way, my home airport is Lisbon.",
            "My diet is vegetarian and my locker code is 4711.",
            "I changed my mind, my diet is now vegan.",
            "Please forget my locker code.",
        ],
        "distractors": ["The weather was wild today."],
        "question": "What is my home airport?",
        "answer": "Lisbon",
        "facts": [AIRPORT, DIET],
        "operations": [
            {"turn": 0, "tool": ADD, "content": AIRPORT},
            {"turn": 1, "tool": ADD, "content": OLD_DIET},
            {"turn": 1, "tool": ADD, "content": PIN},
            {"turn": 2, "tool": UPDATE, "content": DIET, "old": OLD_DIET},
            {"turn": 3, "tool": DELETE, "old": PIN},
        ],
        "support": [AIRPORT],
        "key_items": ["Lisbon"],
    }
    return dspy.Example(**{**fields, **changes}).with_inputs("messages", "distractors", "question")


def gold_events(example: dspy.Example) -> tuple[ToolEvent, ...]:
    """Return the example's gold operations as executed ones, then a filter and a retrieve of the support."""
    keys: dict[str, str] = {}
    events: list[ToolEvent] = []
    for number, operation in enumerate(example.operations):
        turn, content, old = operation["turn"], operation.get("content", ""), operation.get("old", "")
        key = keys.pop(old, str(number))
        if operation["tool"] == ADD:
            events.append(add(content, key=key, turn=turn))
        elif operation["tool"] == UPDATE:
            events.append(update(key, old, content, turn=turn))
        else:
            events.append(delete(key, old, turn=turn))
        keys[content] = key
    events.append(make_event(FILTER, "small talk", stage=2, tokens=(300, 250)))
    return (*events, retrieve(*example.support))


def honest_events() -> tuple[ToolEvent, ...]:
    """Return what a good agent does with `make_example()`."""
    return (
        add(AIRPORT, key="1", turn=0),
        add(OLD_DIET, key="2", turn=1),
        add(PIN, key="3", turn=1),
        update("2", OLD_DIET, DIET, turn=2),
        delete("3", PIN, turn=3),
        make_event(FILTER, "The weather was wild today.", stage=2, tokens=(300, 250)),
        retrieve(AIRPORT),
    )


def honest_trajectory(**changes: Any) -> Trajectory:
    """Return the trajectory of a good agent on `make_example()`."""
    return make_trajectory(*honest_events(), **{"context": [f"m1: {AIRPORT}"], **changes})


class LetterEmbedder:
    """Counts letters: texts of the same letters are near, whatever their order."""

    name = "letters"
    dimension = 26

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        rows = [[text.lower().count(chr(97 + letter)) + 1e-9 for letter in range(26)] for text in texts]
        matrix = np.asarray(rows, dtype=np.float32)
        return np.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), dtype=np.float32)


def make_sample(prompt: Sequence[int], completion: Sequence[int]) -> Sample:
    """Return an LM call of weight and advantage 1."""
    return Sample(
        prompt_ids=np.array(prompt, dtype=np.int64),
        completion_ids=np.array(completion, dtype=np.int64),
        logprobs=np.zeros(len(completion)),
        advantage=1.0,
        weight=1.0,
    )
