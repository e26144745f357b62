"""Points in a collection on a Qdrant server, through qdrant-client.

Every request is written once: what it is made with is the synchronous client or, beside an event loop, the asynchronous
one, whose methods have the same names and answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc
import tenacity
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory.conditions import Condition, Either, Equals, HasId, NumberBetween, Part, PointId, id_text
from agemem_dspy.memory.event_loop import awaited, in_loop
from agemem_dspy.memory.point_store import (
    CHUNK,
    DATETIME,
    INDEXES,
    INTEGER,
    KEYWORD,
    MEANING,
    TENANT,
    WORDS,
    Hit,
    Point,
    PointStore,
    Ranking,
    Record,
    in_chunks,
)

SERVER_TIMEOUT_S = 10
_PAGE = 1000
_FAILURES = (OSError, ApiException, ValueError, RuntimeError, KeyError, grpc.RpcError)
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class ServerPoints(PointStore):
    """A collection on a server; where the connection is lost or the server fails (5xx), it is tried three times."""

    is_server = True

    def __init__(
        self,
        url: str,
        collection: str,
        dimension: int,
        *,
        prefix: str,
        client: QdrantClient | None = None,
        async_client: AsyncQdrantClient | None = None,
    ) -> None:
        """Reach a server through the clients given, which stay open, or through ones made here.

        The key for these is in `QDRANT_API_KEY`; our collections' names begin with `prefix`. An asynchronous client has
        connections that belong to an event loop: every loop is given one of its own.

        Raises:
            MemoryStoreError: the URL is malformed, or the server does not answer or refuses.
        """
        self._url, self._collection, self._prefix = url, collection, prefix
        self._options: dict[str, Any] = {
            "url": url,
            "api_key": os.environ.get("QDRANT_API_KEY") or None,
            "timeout": SERVER_TIMEOUT_S,
            "check_compatibility": False,
        }
        self._given, self._given_async = client, async_client
        self._of_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncQdrantClient] = (
            weakref.WeakKeyDictionary()
        )
        try:
            self._client = client or QdrantClient(**self._options)
        except ValueError as error:
            raise MemoryStoreError(f"{url!r} is no server address ({error}). Write http://host:6333.") from error
        if not self._call(lambda client: client.collection_exists(collection)):
            self._create(dimension)

    def scroll(self, condition: Condition, keys: Sequence[str] | None = None) -> list[Record]:
        wanted, payload = _filter(condition), True if keys is None else list(keys)
        records: list[Record] = []
        offset: Any = None
        while True:
            page, offset = self._call(
                lambda client, start=offset: client.scroll(  # type: ignore[misc]
                    self._collection, scroll_filter=wanted, limit=_PAGE, offset=start, with_payload=payload
                )
            )
            records.extend((str(record.id), record.payload or {}) for record in page)
            if offset is None:
                return records

    def fetch(self, ids: Sequence[PointId], condition: Condition) -> list[Record]:
        return self.scroll(condition.also(HasId(tuple(ids))))

    def count(self, condition: Condition) -> int:
        wanted = _filter(condition)
        return int(self._call(lambda client: client.count(self._collection, count_filter=wanted, exact=True)).count)

    def has(self, point_id: str) -> bool:
        return bool(self._call(lambda client: client.retrieve(self._collection, [point_id], with_payload=False)))

    def rank(self, rankings: Sequence[Ranking]) -> list[list[Hit]]:
        requests = [
            models.QueryRequest(
                query=ranking.meaning if ranking.meaning is not None else _sparse(ranking.words or {}),
                using=WORDS if ranking.meaning is None else MEANING,
                filter=_filter(ranking.condition),
                limit=ranking.limit,
                with_payload=True,
            )
            for ranking in rankings
        ]
        answers = self._call(lambda client: client.query_batch_points(self._collection, requests))
        return [[(str(one.id), one.score, one.payload or None) for one in answer.points] for answer in answers]

    def insert(self, points: Iterable[Point]) -> None:
        mode = models.UpdateMode.INSERT_ONLY
        begun: list[Point] = []
        try:
            for chunk in in_chunks(points, CHUNK):
                made = [_point(point) for point in chunk]
                begun.extend(chunk)
                self._call(
                    lambda client, made=made: client.upsert(self._collection, made, wait=True, update_mode=mode)  # type: ignore[misc]
                )
        except BaseException as error:
            cause = error.__cause__
            refused = isinstance(cause, UnexpectedResponse) and not _passes(cause)
            self._take_back(begun[: -len(chunk)] if refused else begun)
            raise

    def replace(self, point: Point, condition: Condition) -> None:
        made, wanted = [_point(point)], _filter(condition)
        mode = models.UpdateMode.UPDATE_ONLY
        self._call(
            lambda client: client.upsert(self._collection, made, wait=True, update_filter=wanted, update_mode=mode)
        )

    def overwrite(self, payload: Mapping[str, Any], condition: Condition) -> None:
        new, wanted = dict(payload), _filter(condition)
        self._call(lambda client: client.overwrite_payload(self._collection, new, points=wanted, wait=True))

    def delete(self, condition: Condition) -> None:
        selector = models.FilterSelector(filter=_filter(condition))
        self._call(lambda client: client.delete(self._collection, selector, wait=True))

    def elsewhere(self, condition: Condition) -> str | None:
        wanted = _filter(condition)
        for found in self._call(lambda client: client.get_collections()).collections:
            name: str = found.name
            if not name.startswith(self._prefix) or name == self._collection:
                continue
            if self._call(lambda client, other=name: client.count(other, count_filter=wanted)).count:  # type: ignore[misc]
                return name
        return None

    def close(self) -> None:
        if self._given is None:
            self._client.close()
        if in_loop():
            mine = self._of_loop.pop(asyncio.get_running_loop(), None)
            if mine is not None:
                awaited(mine.close())

    def _take_back(self, points: Sequence[Point]) -> None:
        """Remove what an insertion that failed has written, or may have: an answer that is lost says neither."""
        if points:
            times = dict.fromkeys(str(point.payload["updated_at"]) for point in points)  # another's has another time
            ours = Either(tuple(Equals("updated_at", time) for time in times))
            with contextlib.suppress(MemoryStoreError):  # the failure of the insertion is the one to tell
                self.delete(Condition((HasId(tuple(point.id for point in points)), ours)))

    def _create(self, dimension: int) -> None:
        meaning = {MEANING: models.VectorParams(size=dimension, distance=models.Distance.COSINE)}
        words = {WORDS: models.SparseVectorParams()}
        try:
            self._call(
                lambda client: client.create_collection(
                    self._collection, vectors_config=meaning, sparse_vectors_config=words
                )
            )
        except MemoryStoreError:
            if not self._call(lambda client: client.collection_exists(self._collection)):
                raise  # else another process was quicker: good
        for field, kind in INDEXES.items():
            self._call(
                lambda client, field=field, schema=_SCHEMAS[kind]: client.create_payload_index(  # type: ignore[misc]
                    self._collection, field, field_schema=schema, wait=True
                )
            )

    def _call(self, request: Callable[[Any], Any]) -> Any:
        """Make a request, of the client that suits where we are, and return the answer."""
        rules: dict[str, Any] = {  # every request is idempotent
            "retry": tenacity.retry_if_exception(_passes),
            "stop": tenacity.stop_after_attempt(3),
            "wait": tenacity.wait_exponential(multiplier=0.2, max=2.0),
            "reraise": True,
        }
        try:
            if in_loop():
                return awaited(_made(request, self._async_client(), rules))
            return tenacity.Retrying(**rules)(request, self._client)
        except _FAILURES as error:
            raise MemoryStoreError(self._explain(error)) from error

    def _async_client(self) -> AsyncQdrantClient:
        if self._given_async is not None:
            return self._given_async
        loop = asyncio.get_running_loop()
        if loop not in self._of_loop:
            self._of_loop[loop] = AsyncQdrantClient(**self._options)
        return self._of_loop[loop]

    def _explain(self, error: Exception) -> str:
        if isinstance(error, ResponseHandlingException | grpc.RpcError) and _passes(error):
            return f"Cannot reach the Qdrant server at {self._url}: {error}. Is it running, and is the URL right?"
        reason = " ".join(str(error).split())
        if isinstance(error, UnexpectedResponse) and error.status_code in (401, 403):
            return f"The Qdrant server at {self._url} refused us: {reason}. Set QDRANT_API_KEY to a key that may write."
        return f"The Qdrant server at {self._url} failed or refused the operation: {reason}."


async def _made(request: Callable[[Any], Any], client: AsyncQdrantClient, rules: Mapping[str, Any]) -> Any:
    async def made() -> Any:
        return await request(client)

    return await tenacity.AsyncRetrying(**rules)(made)


def _passes(error: BaseException) -> bool:
    """Tell whether an error may be over when the request is made again: no answer, or one that blames the server."""
    if isinstance(error, grpc.RpcError):
        return getattr(error, "code", lambda: None)() in _PASSING
    return isinstance(error, ResponseHandlingException) or (
        isinstance(error, UnexpectedResponse) and (error.status_code or 0) >= 500
    )


_SCHEMAS: dict[str, Any] = {
    TENANT: models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    KEYWORD: models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    INTEGER: models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=False, range=True),
    DATETIME: models.DatetimeIndexParams(type=models.DatetimeIndexType.DATETIME),
}


def _point(point: Point) -> models.PointStruct:
    vectors: Any = {MEANING: point.meaning, WORDS: _sparse(point.words)}
    return models.PointStruct(id=point.id, vector=vectors, payload=dict(point.payload))


def _sparse(weights: Mapping[int, float]) -> models.SparseVector:
    return models.SparseVector(indices=list(weights), values=list(weights.values()))


def _filter(condition: Condition) -> models.Filter:
    return models.Filter(
        must=[_part(part) for part in condition.must],
        must_not=[_part(part) for part in condition.must_not] or None,
    )


def _part(part: Part) -> Any:
    if isinstance(part, HasId):
        return models.HasIdCondition(has_id=[id_text(one) for one in part.ids])
    if isinstance(part, Equals):
        return models.FieldCondition(key=part.key, match=models.MatchValue(value=part.value))
    if isinstance(part, Either):
        return models.Filter(should=[_part(one) for one in part.conditions])
    bounds: Any = {"gt": part.gt, "gte": part.gte, "lt": part.lt, "lte": part.lte}
    if isinstance(part, NumberBetween):
        return models.FieldCondition(key=part.path, range=models.Range(**bounds))
    return models.FieldCondition(key=part.key, range=models.DatetimeRange(**bounds))
