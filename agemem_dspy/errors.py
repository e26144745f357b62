"""Every error the library raises on purpose.

AgeMemError
├── ConfigurationError      an option, weight or combination that cannot work
│   └── MissingDependency   an extra that is not installed; names the install command
├── DataError               a data file or example that cannot be read; names file and line
├── ModelError              a model or adapter that cannot be found, loaded or hashed
├── MemoryStoreError        the long-term store
│   ├── MemoryNotFound      no entry with this id in this scope
│   ├── MemoryExists        an entry with this id, which a new one cannot have
│   ├── StoreLocked         another process holds the folder
│   └── EmbedderMismatch    the store was built with another embedding model
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


class StoreLocked(MemoryStoreError):
    """Another process holds the store's folder."""


class EmbedderMismatch(MemoryStoreError):
    """The store was built with another embedding model: `name` and `dimension` where they are known."""

    def __init__(self, message: str, name: str | None = None, dimension: int | None = None) -> None:
        super().__init__(message)
        self.name, self.dimension = name, dimension


class WorldError(AgeMemError):
    """An environment used out of turn (before reset, after the end, closed), or one whose backend failed."""


class ToolError(AgeMemError):
    """A policy's mistake in a tool call; shown to the agent as an observation."""


class RewardError(AgeMemError):
    """A reward term, judge or embedder raised; the message names the term."""


class TrainingError(AgeMemError):
    """A training run that cannot learn; the message says what may help."""


class RunError(AgeMemError):
    """A run directory that cannot be written or resumed."""
