"""Guards: what may be stored, and what may be shown. A guard is any callable `guard(memory, context) -> Verdict`.

`memory.guarded` puts them before a store; these are the ones that it has unless others are named.
"""

from __future__ import annotations

from agemem_dspy.memory.guards.instructions import QuarantineInstructions
from agemem_dspy.memory.guards.limits import RateLimit, SizeLimit
from agemem_dspy.memory.guards.redaction import Redact
from agemem_dspy.memory.guards.sources import QuarantineUntrusted
from agemem_dspy.memory.guards.verdict import Guard, GuardContext, Verdict

__all__ = [
    "Guard",
    "GuardContext",
    "QuarantineInstructions",
    "QuarantineUntrusted",
    "RateLimit",
    "Redact",
    "SizeLimit",
    "Verdict",
    "read_guards",
    "write_guards",
]


def write_guards() -> tuple[Guard, ...]:
    """Return the guards before ADD and UPDATE: limits first, since they are cheap, then what reads the text."""
    return SizeLimit(), RateLimit(), Redact(), QuarantineInstructions()


def read_guards() -> tuple[Guard, ...]:
    """Return the guards before RETRIEVE, for what was stored by others, or before there were guards."""
    return (QuarantineInstructions(),)
