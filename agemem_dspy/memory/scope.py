"""A scope: whose entries a view of a store sees, changes and removes, and whose those are that it adds."""

from __future__ import annotations

from dataclasses import dataclass

from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory.checks import checked_name, checked_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A user; of theirs one agent alone, or one session alone, where it is named."""

    user_id: str
    agent_id: str | None = None
    session_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse names that cannot be stored.

        Raises:
            MemoryStoreError: one is no text, blank, or not encodable.
        """
        checked_text(self.user_id, "user_id")
        checked_name(self.agent_id, "agent_id")
        checked_name(self.session_id, "session_id")

    def sees(self, entry: Scope) -> bool:
        """Tell whether an entry of that scope is in this one: it is equal in all that this one names."""
        return (
            self.user_id == entry.user_id
            and self.agent_id in (None, entry.agent_id)
            and self.session_id in (None, entry.session_id)
        )

    def of_user(self, user_id: str, agent_id: str | None, session_id: str | None) -> Scope:
        """Return the scope with other names; an agent or a session that is None stays as it is."""
        return Scope(
            user_id=user_id,
            agent_id=self.agent_id if agent_id is None else agent_id,
            session_id=self.session_id if session_id is None else session_id,
        )

    def of_entry(self, agent_id: str | None, session_id: str | None) -> Scope:
        """Return the scope of an entry that a view of this one takes over; this one's names where it has none.

        Raises:
            MemoryStoreError: the view would not see it, or a name cannot be stored.
        """
        entry = self.of_user(self.user_id, agent_id, session_id)
        if not self.sees(entry):
            raise MemoryStoreError(
                f"{self} cannot take over what it would not see, an entry of agent {agent_id!r} in session "
                f"{session_id!r}: insert it into a view of the user alone."
            )
        return entry

    def __str__(self) -> str:
        named = [f"{what} {name!r}" for what, name in (("agent", self.agent_id), ("session", self.session_id)) if name]
        return f"User {self.user_id!r}" + (f" ({', '.join(named)})" if named else "")
