"""The guard for whom patterns are not enough: it goes by where a text comes from, not by what it says."""

from __future__ import annotations

from dataclasses import dataclass

from agemem_dspy.memory.guards.verdict import GuardContext, Verdict
from agemem_dspy.types import Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineUntrusted:
    """Quarantine whatever nobody vouches for: what an agent stores once it has read a tool's result, or an import.

    It lets through no poison that comes by such a way, in any language, a false fact included; a person has to release
    what is true. It is not among the guards that a `GuardedMemory` has unless others are named.
    """

    def __call__(self, memory: Memory, context: GuardContext) -> Verdict:
        """Judge one memory."""
        if context.provenance.trust == "trusted":
            return Verdict()
        return Verdict(action="quarantine", reason="its source is not trusted")
