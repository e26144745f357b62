"""The glossary: the values that travel from an episode to a weight update.

Read top to bottom it is the life of one example: a `Memory` is stored, a `ToolEvent`
records what was done, a `Completion` what the policy wrote, a `Step` joins the two, a
`Trajectory` is three stages of steps, a `Group` is K trajectories of one task.
All values are frozen; change one with `dataclasses.replace`.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

OVERFLOW_GUARD = "overflow_guard"  # as `ToolEvent.tool`: the system made room in the context, not the policy
UNDO_EDIT = "undo_edit"  # as `ToolEvent.tool`: a program took back a change of the context


class Stage(enum.IntEnum):
    """The three stages of a trajectory (AgeMem, section 3)."""

    CONSTRUCT = 1
    CONTROL = 2
    REASON = 3


class StopReason(enum.StrEnum):
    """Why an episode ended, so that no reward has to guess."""

    ANSWERED = "answered"
    ROUND_LIMIT = "round_limit"
    UNREADABLE = "unreadable_replies"
    CONTEXT_OVERFLOW = "context_overflow"
    WORLD_ENDED = "world_ended"


SourceRole = Literal["user", "assistant", "tool", "system"]
Trust = Literal["trusted", "untrusted"]
_ROLES: tuple[Any, ...] = get_args(SourceRole)
_TRUSTS: tuple[Any, ...] = get_args(Trust)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where an entry's words come from: what a guard goes by.

    `role` is whose words they are, `channel` the way they came ("conversation", a tool's name, a command), and `trust`
    whether the person whose memories these are, or code of theirs, said them. What nobody vouches for is untrusted.
    """

    role: SourceRole = "system"
    channel: str = "unknown"
    trust: Trust = "untrusted"

    @classmethod
    def of(cls, by: Mapping[str, Any]) -> Provenance:
        """Read it out of the `by` of a `Version`; where a part is missing or malformed, nobody vouches."""
        role: Any = by.get("role")
        channel: Any = by.get("channel")
        trust: Any = by.get("trust")
        return cls(
            role=role if role in _ROLES else "system",
            channel=channel if isinstance(channel, str) and channel else "unknown",
            trust=trust if trust in _TRUSTS else "untrusted",
        )

    def by(self) -> dict[str, str]:
        """Return it as keys of a `by`, from which `of` reads it again."""
        return {"role": self.role, "channel": self.channel, "trust": self.trust}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One long-term entry.

    `score` is a cosine similarity, set only on search results. Times are ISO 8601, UTC. `provenance` is that of its
    last change. `agent_id` and `session_id` are those of the view that added it, None where it names none.
    """

    id: str
    content: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    memory_type: str = "general"
    created_at: str = ""
    updated_at: str = ""
    expires_at: str | None = None
    score: float | None = None
    provenance: Provenance = Provenance()
    agent_id: str | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMemory:
    """An entry that is not stored yet, for `add_many`: the arguments of `LongTermMemory.add`."""

    content: str
    metadata: Mapping[str, Any] | None = None
    memory_type: str = "general"
    expires_at: str | datetime.datetime | None = None
    by: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What an entry became by one change.

    `change` is "add", "update", "delete" or "undo", `live` whether the entry was in sight after it, `at` when it was
    made (ISO 8601, UTC) and `by` what its maker said about it, such as the tool and the message that asked for it.
    """

    change: str
    content: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    live: bool = True
    expires_at: str | None = None
    at: str = ""
    by: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A long-term entry with all that it ever was, oldest version first: what one store hands to another."""

    id: str
    versions: tuple[Version, ...]
    memory_type: str = "general"
    agent_id: str | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolEvent:
    """One executed operation. Rewards read these and nothing else (spec 6.2).

    `memory_ids` and `contents` are parallel: what an LTM tool stored, changed, removed or
    retrieved; for filter and summarize, `contents` holds the removed messages. `detail`
    holds what replaced them (the summary) or, for update and delete, the former content.
    `tokens_before` and `tokens_after` count the short-term context around the operation.
    `automatic` is what the system did by itself: it earns and costs nothing.
    """

    index: int
    stage: Stage
    turn: int
    round: int
    tool: str
    arguments: Mapping[str, Any]
    ok: bool
    observation: str
    error: str | None = None
    memory_ids: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    detail: str = ""
    tokens_before: int = 0
    tokens_after: int = 0
    automatic: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the sampler did in one LM call, token for token.

    `prompt_ids` (P,), `completion_ids` (T,) and `logprobs` (T,) are the sampler's own; text is
    never re-encoded. `logprobs` are natural logs under `temperature`; `model` names the
    immutable weight version that sampled.
    """

    model: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    temperature: float
    finish_reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One LM call of a trajectory: what was seen, what was written, what came of it.

    `kind` is "act" for the agent's own step, "summarize" for the LM call inside
    `summarize_context` and "guard" for the overflow guard's, which is not trained on.
    `completion` is None when the LM is not a local policy.
    """

    stage: Stage
    turn: int
    round: int
    kind: str
    context: tuple[Mapping[str, Any], ...]
    output: Mapping[str, Any]
    parsed: bool
    prompt_tokens: int
    events: tuple[ToolEvent, ...] = ()
    completion: Completion | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What acting in a world came to: `progress` in [0, 1] is the best share of the goal, `success` whether it is all.

    `actions` counts those that were taken, impossible ones included.
    """

    environment: str
    goal: str
    success: bool
    progress: float
    actions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One episode: its steps, its event log, and what was left at the end.

    `answer` maps the task's output fields to values; None when the agent never answered.
    `context_tokens` is T_used, the tokens in context when answering; `max_context_tokens`
    is T_max. `context` holds the texts of the final context, `memories` the final LTM. `outcome`
    is there when stage 3 was played in a world.
    """

    steps: tuple[Step, ...]
    events: tuple[ToolEvent, ...]
    answer: Mapping[str, Any] | None
    stop_reason: StopReason
    context_tokens: int
    max_context_tokens: int
    context: tuple[str, ...] = ()
    memories: tuple[Memory, ...] = ()
    outcome: Outcome | None = None

    @property
    def answered(self) -> bool:
        """Tell whether the agent answered or, in a world, acted at all."""
        return self.answer is not None if self.outcome is None else self.outcome.actions > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """K trajectories of one task with their rewards (K,), the unit of a GRPO update.

    `gains` are, for each trajectory, by how much each of its steps (S,) raised the reward; empty where nobody asked.
    """

    task: str
    trajectories: tuple[Trajectory, ...]
    rewards: tuple[float, ...]
    terms: tuple[Mapping[str, float], ...]
    gains: tuple[tuple[float, ...], ...] = ()


@runtime_checkable
class Embedder(Protocol):
    """Anything that turns texts into unit vectors. `name` identifies the model to a store.

    One that remembers what it embedded also has `forget(texts)`, which a store calls with what it purges.
    """

    name: str
    dimension: int

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one L2-normalised row a text, float32, shape (n, dimension)."""
        ...
