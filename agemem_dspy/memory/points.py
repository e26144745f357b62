"""How entries are points of an engine: the name of their collection, their vectors and payloads."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agemem_dspy.memory.conditions import content_label, labels_of, scope_labels
from agemem_dspy.memory.folder import SCHEMA_VERSION
from agemem_dspy.memory.scope import Scope
from agemem_dspy.types import Embedder, Entry, Memory, Provenance, Version

PREFIX = "agemem-"


def payload_of(scope: Scope, memory_type: str, seq: int, versions: Sequence[Version]) -> dict[str, Any]:
    """Return what is stored of an entry: its last version spelt out, the others as they were.

    Args:
        seq: its place in the order of the store.
        versions: all of them, oldest first.
    """
    now = versions[-1]
    return {
        "user_id": scope.user_id,
        "agent_id": scope.agent_id,
        "session_id": scope.session_id,
        "seq": seq,
        "content": now.content,
        "metadata": dict(now.metadata),
        "labels": [*labels_of(now.metadata), content_label(now.content), *scope_labels(scope)],
        "memory_type": memory_type,
        "created_at": versions[0].at,
        "updated_at": now.at,
        "expires_at": now.expires_at,
        "change": now.change,
        "by": dict(now.by),
        "state": "live" if now.live else "deleted",
        "former": [dataclasses.asdict(version) for version in versions[:-1]],
    }


def collection_name(embedder: Embedder) -> str:
    """Return the collection of an embedding model: readable, and unique by a hash of name, dimension and layout."""
    slug = re.sub(r"[^a-z0-9]+", "-", embedder.name.lower()).strip("-")[:48]
    digest = hashlib.sha256(f"{embedder.name}\n{embedder.dimension}\n{SCHEMA_VERSION}".encode()).hexdigest()[:8]
    return f"{PREFIX}{slug}-{embedder.dimension}-{digest}"


def memory_of(memory_id: str, payload: Mapping[str, Any], score: float | None = None) -> Memory:
    """Return an entry as it is now."""
    return Memory(
        id=memory_id,
        content=payload["content"],
        metadata=dict(payload["metadata"]),
        memory_type=payload["memory_type"],
        created_at=payload["created_at"],
        updated_at=payload["updated_at"],
        expires_at=payload["expires_at"],
        score=score,
        provenance=Provenance.of(payload["by"]),
        agent_id=payload.get("agent_id"),
        session_id=payload.get("session_id"),
    )


def entry_of(entry_id: str, payload: Mapping[str, Any]) -> Entry:
    """Return an entry with all that it ever was."""
    return Entry(
        id=entry_id,
        versions=tuple(versions_of(payload)),
        memory_type=payload["memory_type"],
        agent_id=payload.get("agent_id"),
        session_id=payload.get("session_id"),
    )


def scope_of(payload: Mapping[str, Any]) -> Scope:
    """Return whose entry it is; what a version before scopes had agents and sessions has written has none."""
    return Scope(user_id=payload["user_id"], agent_id=payload.get("agent_id"), session_id=payload.get("session_id"))


def payload_at(payload: Mapping[str, Any], moment: str) -> dict[str, Any] | None:
    """Return what would have been stored of an entry at a time, None before it was added."""
    versions = versions_of(payload)
    made = [number for number, version in enumerate(versions, start=1) if version.at <= moment]
    if not made:
        return None
    return payload_of(scope_of(payload), payload["memory_type"], payload["seq"], versions[: made[-1]])


def versions_of(payload: Mapping[str, Any]) -> list[Version]:
    """Return an entry's versions, oldest first."""
    last = Version(
        change=payload["change"],
        content=payload["content"],
        metadata=dict(payload["metadata"]),
        live=payload["state"] == "live",
        expires_at=payload["expires_at"],
        at=payload["updated_at"],
        by=dict(payload["by"]),
    )
    return [*(Version(**former) for former in payload["former"]), last]
