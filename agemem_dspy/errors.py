"""Every error the library raises on purpose.

AgeMemError
├── ConfigurationError      an option, weight or combination that cannot work
│   └── MissingDependency   an extra that is not installed; names the install command
├── DataError               a data file or example that cannot be read; names file and line
├── ModelError              a model or adapter that cannot be found, loaded or hashed
├── MemoryStoreError        the long-term store
│   ├── MemoryNotFound      no entry with this id in this scope
│   ├── MemoryExists        an entry with this id, which a new one cannot have
│   ├── MemoryDuplicate     an entry with this content, where none was to be added twice
│   ├── StoreLocked         another process holds the folder
│   ├── EmbedderMismatch    the store was built with another embedding model
│   └── MemoryRejected      a guard refused an entry; nothing was stored
│       └── MemoryQuarantined  a guard set it aside: stored, but out of sight until it is released
├── GuardError              a guard raised or gave no verdict; names the guard
├── WorldError              an environment used out of turn, or one whose backend failed
├── ToolError               a policy's mistake; becomes an observation, never a crash
├── RewardError             a reward term or judge raised; names the term
├── TrainingError           a training run that cannot learn; says what may help
└── RunError                a run directory that cannot be written or resumed

A policy's mistake is data (`ToolEvent(ok=False)`); ours is one of these.
"""

from __future__ import annotations


class AgeMemError(Exception):
    """Base of every error raised on purpose; its message says what to do."""


class ConfigurationError(AgeMemError, ValueError):
    """An option, weight or combination that cannot work."""


class MissingDependency(ConfigurationError):
    """A package that is not installed; the message names the install command."""


class DataError(AgeMemError, ValueError):
    """A data file or example that cannot be read; the message names file and line."""


class ModelError(AgeMemError):
    """A model or adapter that cannot be found, loaded or verified."""


class MemoryStoreError(AgeMemError):
    """A failure of the long-term store."""


class MemoryNotFound(MemoryStoreError, KeyError):
    """No entry with this id in this scope."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class MemoryExists(MemoryStoreError):
    """An entry with this id is there already."""


class MemoryDuplicate(MemoryStoreError):
    """The content is there already: in the entry with this `id`, or, where that is None, in the same batch."""

    def __init__(self, message: str, id: str | None = None) -> None:
        super().__init__(message)
        self.id = id


class StoreLocked(MemoryStoreError):
    """Another process holds the store's folder."""


class EmbedderMismatch(MemoryStoreError):
    """The store was built with another embedding model: `name` and `dimension` where they are known."""

    def __init__(self, message: str, name: str | None = None, dimension: int | None = None) -> None:
        super().__init__(message)
        self.name, self.dimension = name, dimension


class WorldError(AgeMemError):
    """An environment used out of turn (before reset, after the end, closed), or one whose backend failed."""


class MemoryRejected(MemoryStoreError):
    """A guard refused an entry: nothing was stored. `guard` is its name, `reason` what it found."""

    def __init__(self, guard: str, reason: str) -> None:
        super().__init__(guard, reason)
        self.guard, self.reason = guard, reason

    def __str__(self) -> str:
        return f"refused by {self.guard}: {self.reason}"


class MemoryQuarantined(MemoryRejected):
    """A guard set an entry aside: it is stored under `id`, out of sight until a person releases it."""

    def __init__(self, guard: str, reason: str, id: str) -> None:
        MemoryStoreError.__init__(self, guard, reason, id)
        self.guard, self.reason, self.id = guard, reason, id

    def __str__(self) -> str:
        return f"put into quarantine by {self.guard}: {self.reason}"


class GuardError(AgeMemError):
    """A guard raised, or gave no verdict; the message names it."""


class ToolError(AgeMemError):
    """A policy's mistake in a tool call; shown to the agent as an observation."""


class RewardError(AgeMemError):
    """A reward term, judge or embedder raised; the message names the term."""


class TrainingError(AgeMemError):
    """A training run that cannot learn; the message says what may help."""


class RunError(AgeMemError):
    """A run directory that cannot be written or resumed."""
