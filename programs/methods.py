"""The methods that an evaluation compares, by name: the agent, its rivals and the baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import dspy

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.baselines import NoMemoryAgent, RetrieveOnlyAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.programs.rivals import (
    ExtractUpdateAgent,
    FullContextAgent,
    LangMemAgent,
    LinkedNotesAgent,
    Mem0Agent,
    SchemaManagerAgent,
)

TASK = "question -> answer"


class Method(StrEnum):
    """How a program remembers: the agent, a baseline, a program of our own after a published system, or its package."""

    AGEMEM = "agemem"
    NO_MEMORY = "no-memory"
    FULL_CONTEXT = "full-context"
    RAG = "rag"
    MEM0 = "mem0"
    A_MEM = "a-mem"
    LANGMEM = "langmem"
    MEM0_PACKAGE = "mem0-package"
    LANGMEM_PACKAGE = "langmem-package"


UNSAVED = frozenset({Method.MEM0_PACKAGE, Method.LANGMEM_PACKAGE})  # played as they are: `save` refuses them


def build_method(method: Method, signature: str | type[dspy.Signature] = TASK, **options: Any) -> Any:
    """Return the program that plays a method's episodes.

    Args:
        signature: the task.
        options: of the method's own class; one that it does not take is refused.

    Raises:
        ConfigurationError: an option that the method does not take, or that cannot work.
    """
    build, takes = _METHODS[method]
    unknown = sorted(set(options) - set(takes) - {"adapter"})
    if unknown:
        raise ConfigurationError(
            f"the method {method.value} takes no {unknown[0]!r}; it takes {', '.join(takes) or 'no options'}"
        )
    return build(signature, **options)


def options_of(method: Method) -> tuple[str, ...]:
    """Name the options that a method takes."""
    return _METHODS[method][1]


def _agemem(signature: str | type[dspy.Signature], **options: Any) -> ThreeStageEpisode:
    episode = {"recall": options.pop("recall")} if "recall" in options else {}
    return ThreeStageEpisode(AgeMemAgent(signature, **options), **episode)


_MANAGED = ("top_k", "short_term_tools", "max_rounds", "max_context_tokens", "embedder")
_METHODS: Mapping[Method, tuple[Callable[..., Any], tuple[str, ...]]] = {
    Method.AGEMEM: (
        _agemem,
        ("memory_tools", "recall", "max_rounds", "max_context_tokens", "recall_top_k", "filter_threshold", "memory"),
    ),
    Method.NO_MEMORY: (NoMemoryAgent, ("max_context_tokens",)),
    Method.RAG: (RetrieveOnlyAgent, ("top_k", "max_context_tokens", "embedder")),
    Method.FULL_CONTEXT: (FullContextAgent, ("max_context_tokens",)),
    Method.MEM0: (ExtractUpdateAgent, (*_MANAGED, "neighbours")),
    Method.A_MEM: (LinkedNotesAgent, (*_MANAGED, "neighbours")),
    Method.MEM0_PACKAGE: (Mem0Agent, _MANAGED),
    Method.LANGMEM_PACKAGE: (LangMemAgent, (*_MANAGED, "neighbours", "messages_per_call")),
    Method.LANGMEM: (SchemaManagerAgent, (*_MANAGED, "neighbours", "messages_per_call")),
}
