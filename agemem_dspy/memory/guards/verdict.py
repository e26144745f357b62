"""What a guard is told, what it answers, and how the answers of several are one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agemem_dspy.errors import ConfigurationError, GuardError
from agemem_dspy.types import Memory, Provenance

Operation = Literal["add", "update", "retrieve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardContext:
    """What is being done with a memory.

    `provenance` is that of the text: of what is written, or of the entry that is about to be shown. `by` is what the
    history will say of the change, `before` the entry that an update would change, `query` what was asked for.
    `added(seconds)` counts the entries that this user has tried to add in the last seconds, None: since the store was
    opened; the one in question is among them.
    """

    operation: Operation
    user_id: str
    provenance: Provenance = field(default_factory=Provenance)
    by: Mapping[str, Any] = field(default_factory=dict)
    before: Memory | None = None
    query: str = ""
    added: Callable[[float | None], int] = lambda seconds: 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A guard's answer.

    "allow" lets the memory pass, "quarantine" keeps it out of sight until a person releases it, "reject" refuses it.
    `content`, `metadata` and `by` are what to store, or to show, instead; None leaves them as they are. `reason` is
    read by the agent too: it names what was found and does not repeat it.

    Raises:
        ConfigurationError: another action, or none given for what is not allowed.
    """

    action: Literal["allow", "quarantine", "reject"] = "allow"
    reason: str = ""
    content: str | None = None
    metadata: Mapping[str, Any] | None = None
    by: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.action not in ("allow", "quarantine", "reject"):
            raise ConfigurationError(f"a verdict is allow, quarantine or reject, not {self.action!r}")
        if self.action != "allow" and not self.reason:
            raise ConfigurationError(f"say why: a verdict to {self.action} needs a reason")


Guard = Callable[[Memory, GuardContext], Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What all guards together say: the action, whose it is and why, and what is left of the memory and its `by`."""

    action: Literal["allow", "quarantine", "reject"]
    guard: str
    reason: str
    memory: Memory
    by: Mapping[str, Any]


def judged(guards: Iterable[Guard], memory: Memory, context: GuardContext) -> Judgement:
    """Ask the guards in order; each sees what those before it have rewritten.

    The first rejection ends it. A quarantine does not, so that what is kept is rewritten and no larger than allowed.

    Raises:
        GuardError: a guard raised, or returned no `Verdict`; names it.
    """
    action: Literal["allow", "quarantine"] = "allow"
    name, reason = "", ""
    for guard in guards:
        asked = getattr(guard, "__name__", type(guard).__name__)
        try:
            verdict = guard(memory, context)
        except Exception as error:
            raise GuardError(f"the guard {asked} raised {type(error).__name__}: {error}") from error
        if not isinstance(verdict, Verdict):
            raise GuardError(f"the guard {asked} returned {type(verdict).__name__}, but must return a Verdict")
        if verdict.content is not None:
            memory = replace(memory, content=verdict.content)
        if verdict.metadata is not None:
            memory = replace(memory, metadata=verdict.metadata)
        if verdict.by is not None:
            context = replace(context, by=verdict.by)
        if verdict.action == "reject":
            return Judgement(action="reject", guard=asked, reason=verdict.reason, memory=memory, by=context.by)
        if verdict.action == "quarantine" and action == "allow":
            action, name, reason = "quarantine", asked, verdict.reason
    return Judgement(action=action, guard=name, reason=reason, memory=memory, by=context.by)
