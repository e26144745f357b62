"""How entries are points of a Qdrant collection: names, vectors, payloads, and the conditions on them."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models

from agemem_dspy.memory.checks import Scalar
from agemem_dspy.memory.connection import SCHEMA_VERSION
from agemem_dspy.types import Embedder, Memory, Provenance, Version

PREFIX = "agemem-"
MEANING, WORDS = "meaning", "words"  # the vectors of a point
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


def create_collection(client: QdrantClient, name: str, dimension: int, *, server: bool) -> None:
    """Make a collection, and on a server the indexes of what every request filters on."""
    vectors = {MEANING: models.VectorParams(size=dimension, distance=models.Distance.COSINE)}
    try:
        client.create_collection(
            name, vectors_config=vectors, sparse_vectors_config={WORDS: models.SparseVectorParams()}
        )
    except Exception:
        if not client.collection_exists(name):  # else another process was quicker: good
            raise
    if server:
        tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        hidden = models.BoolIndexParams(type=models.BoolIndexType.BOOL)
        moment = models.DatetimeIndexParams(type=models.DatetimeIndexType.DATETIME)
        for field, schema in (("user_id", tenant), ("removed", hidden), ("expires_at", moment)):
            client.create_payload_index(name, field, field_schema=schema, wait=True)


def condition(
    user_id: str,
    memory_id: str | None = None,
    *,
    where: Mapping[str, Scalar] | None = None,
    removed: bool | None = False,
    updated_at: str | None = None,
) -> models.Filter:
    """Return the condition that every call carries: a user, and what else is asked for.

    Args:
        removed: entries out of sight (True), in sight and not expired (False), or all (None).
        updated_at: when they were changed last.
    """
    wanted: list[Any] = [] if memory_id is None else [models.HasIdCondition(has_id=[memory_id])]
    wanted.append(models.FieldCondition(key="user_id", match=models.MatchValue(value=user_id)))
    wanted.extend(equals(key, value) for key, value in (where or {}).items())
    if updated_at is not None:
        wanted.append(models.FieldCondition(key="updated_at", match=models.MatchValue(value=updated_at)))
    hidden = models.FieldCondition(key="removed", match=models.MatchValue(value=True))
    if removed:
        wanted.append(hidden)
    return models.Filter(must=wanted, must_not=[hidden, expired()] if removed is False else None)


def payload_of(user_id: str, kept: Mapping[str, Any], versions: Sequence[Version]) -> dict[str, Any]:
    """Return what is stored of an entry: its last version spelt out, the others as they were.

    Args:
        kept: a payload with what no change touches: memory_type, created_at, seq.
        versions: all of them, oldest first.
    """
    now = versions[-1]
    return {
        "user_id": user_id,
        "seq": kept["seq"],
        "content": now.content,
        "metadata": dict(now.metadata),
        "memory_type": kept["memory_type"],
        "created_at": kept["created_at"],
        "updated_at": now.at,
        "expires_at": now.expires_at,
        "change": now.change,
        "by": dict(now.by),
        "removed": not now.live,
        "former": [dataclasses.asdict(version) for version in versions[:-1]],
    }


def collection_name(embedder: Embedder) -> str:
    """Return the collection of an embedding model: readable, and unique by a hash of name, dimension and layout."""
    slug = re.sub(r"[^a-z0-9]+", "-", embedder.name.lower()).strip("-")[:48]
    digest = hashlib.sha256(f"{embedder.name}\n{embedder.dimension}\n{SCHEMA_VERSION}".encode()).hexdigest()[:8]
    return f"{PREFIX}{slug}-{embedder.dimension}-{digest}"


def expired() -> models.FieldCondition:
    """Return the condition of entries whose time has passed."""
    return models.FieldCondition(key="expires_at", range=models.DatetimeRange(lte=datetime.datetime.now(datetime.UTC)))


def sparse(weights: Mapping[int, float]) -> models.SparseVector:
    """Return weights by word index as Qdrant takes them."""
    return models.SparseVector(indices=list(weights), values=list(weights.values()))


def cosine_of(query: Sequence[float], vectors: Any) -> float:
    """Return the similarity of a query to a point's vector; both have length 1."""
    return float(np.dot(query, vectors[MEANING]))


def equals(key: str, value: Scalar) -> models.FieldCondition:
    """Return the condition of entries whose metadata has a value under a key."""
    path = f"metadata.{key}" if _PLAIN_KEY.match(key) else f'metadata."{key}"'
    if isinstance(value, bool | str) or (isinstance(value, int) and abs(value) > 2**53):  # a range would round it
        return models.FieldCondition(key=path, match=models.MatchValue(value=value))
    return models.FieldCondition(key=path, range=models.Range(gte=value, lte=value))  # 1 and 1.0 are equal


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
    )


def versions_of(payload: Mapping[str, Any]) -> list[Version]:
    """Return an entry's versions, oldest first."""
    last = Version(
        change=payload["change"],
        content=payload["content"],
        metadata=dict(payload["metadata"]),
        live=not payload["removed"],
        expires_at=payload["expires_at"],
        at=payload["updated_at"],
        by=dict(payload["by"]),
    )
    return [*(Version(**former) for former in payload["former"]), last]
