"""How the overflow guard's doings are shown: as the system's, beside what the agent did."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agemem_dspy.terms import by_guard
from agemem_dspy.types import ToolEvent


def guard_events(events: Iterable[ToolEvent]) -> list[ToolEvent]:
    """Return those in which the guard made room in the context."""
    return [event for event in events if by_guard(event)]


def guard_line(event: ToolEvent) -> str:
    """Say what was taken out of the context, and why."""
    before, after, limit = event.tokens_before, event.tokens_after, event.arguments["limit"]
    noted = "".join(f"; {note}" for note in event.notes)
    return f"the system {event.observation} to make room: {before:,} tokens → {after:,}, limit {limit:,}{noted}"


def guard_json(event: ToolEvent) -> dict[str, Any]:
    """Return the same for machines; `summary` is None where the messages were dropped."""
    return {
        "stage": int(event.stage),
        "turn": event.turn,
        "round": event.round,
        "removed": list(event.contents),
        "summary": event.detail or None,
        "tokens_before": event.tokens_before,
        "tokens_after": event.tokens_after,
        "limit": event.arguments["limit"],
        "notes": list(event.notes),
    }
