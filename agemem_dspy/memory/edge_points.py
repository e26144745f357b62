"""Points in a folder, in Qdrant's embedded engine.

Durability: the engine writes every change to its log before it makes it, so a change that returned outlives the death
of the process at any moment. What a power failure may take is what came after the last flush: that runs beside the
writers, five seconds after the first change it has to carry, or after ten thousand points, so that the log which
is replayed when the folder is opened stays short.
Rankings are exact: the engine builds no approximate graph here, it compares with every entry under the condition.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import qdrant_edge as edge

from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory.conditions import Condition, Either, Equals, HasId, NumberBetween, Part, PointId
from agemem_dspy.memory.folder import check_complete, note_changing, note_closed
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

FLUSH_AFTER_S = 5.0
FLUSH_AFTER_POINTS = 10_000
LEAST_FREE_BYTES = 64 * 2**20  # files are mapped: a page that finds no room on the disk would end the process
_ALL = 2**31
_EXACT = edge.SearchParams(exact=True)
_Result = TypeVar("_Result")


class EdgePoints(PointStore):
    """The points of one folder, which nobody else may have open."""

    is_server = False

    def __init__(self, folder: Path, dimension: int) -> None:
        """Open a folder of points inside a memory folder, or make it.

        Raises:
            MemoryStoreError: it cannot be made or read, or entries are missing.
        """
        self._folder = folder
        self._shard = _guarded(
            lambda: _open(folder, dimension),
            lambda error: MemoryStoreError(
                f"Cannot open the memories in {folder}: {error}. Look at free disk space and at the rights on the "
                "folder; if its files are damaged, put back a copy of the folder or import an export into a new one."
            ),
        )
        try:
            check_complete(folder.parent, self._shard.info().points_count)
        except BaseException:
            self._shard.close()
            raise
        self._failure: BaseException | None = None
        self._unflushed = 0
        self._writing = 0
        self._closing = False
        self._changed = threading.Condition()
        self._flusher: threading.Thread | None = None

    def scroll(self, condition: Condition, keys: Sequence[str] | None = None) -> list[Record]:
        payload: Any = True if keys is None else list(keys)
        request = edge.ScrollRequest(limit=_ALL, filter=_filter(condition), with_payload=payload)
        page, _ = self._read(lambda: self._shard.scroll(request))
        return [(str(record.id), record.payload or {}) for record in page]

    def fetch(self, ids: Sequence[PointId], condition: Condition) -> list[Record]:
        wanted: list[Any] = [_uuid(one) for one in ids]
        records = self._read(lambda: self._shard.retrieve(wanted, True, False))
        found = [(record.id.int, record.payload or {}) for record in records]  # type: ignore[union-attr]
        return [(one, payload) for one, payload in found if condition.holds(one, payload)]

    def count(self, condition: Condition) -> int:
        request = edge.CountRequest(exact=True, filter=_filter(condition))
        return self._read(lambda: self._shard.count(request))

    def has(self, point_id: str) -> bool:
        return bool(self._read(lambda: self._shard.retrieve([point_id], False, False)))

    def rank(self, rankings: Sequence[Ranking]) -> list[list[Hit]]:
        requests = [
            edge.QueryRequest(
                limit=ranking.limit,
                query=edge.Query.Nearest(_sparse(ranking.words or {}), WORDS)
                if ranking.meaning is None
                else edge.Query.Nearest(ranking.meaning, MEANING),
                filter=_filter(ranking.condition),
                with_payload=ranking.payloads,
                params=_EXACT,
            )
            for ranking in rankings
        ]
        answers = self._read(lambda: self._shard.query_batch(edge.QueryBatchRequest(requests)))
        return [
            [(str(one.id), one.score, one.payload) for one in answer]
            if ranking.payloads
            # UUIDs are slow to make, to print and to look up: ids that may not be among the best stay numbers.
            else [(one.id.int, one.score, None) for one in answer]  # type: ignore[union-attr]
            for ranking, answer in zip(rankings, answers, strict=True)
        ]

    def greatest(self, key: str) -> int:
        """Return the greatest number in an indexed field, 0 without any."""
        order = edge.OrderBy(key, edge.Direction.Desc)
        request = edge.ScrollRequest(limit=1, order_by=order, with_payload=[key])
        page, _ = self._read(lambda: self._shard.scroll(request))
        return int((page[0].payload or {})[key]) if page else 0

    def insert(self, points: Iterable[Point]) -> None:
        begun: list[str] = []
        try:
            for chunk in in_chunks(points, CHUNK):
                made = [_point(point) for point in chunk]
                self._refuse_changes()
                begun.extend(point.id for point in chunk)
                operation = edge.UpdateOperation.upsert_points(made, update_mode=edge.UpdateMode.InsertOnly)
                self._update(operation, len(made))
        except BaseException:
            self._take_back(begun)
            raise

    def replace(self, point: Point, condition: Condition) -> None:
        mode = edge.UpdateMode.UpdateOnly
        self._write(edge.UpdateOperation.upsert_points([_point(point)], _filter(condition), mode))

    def overwrite(self, payload: Mapping[str, Any], condition: Condition) -> None:
        self._write(edge.UpdateOperation.overwrite_payload_by_filter(_filter(condition), dict(payload)))

    def delete(self, condition: Condition) -> None:
        self._write(edge.UpdateOperation.delete_points_by_filter(_filter(condition)))

    def elsewhere(self, condition: Condition) -> str | None:
        return None

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._writing)
        if self._flusher not in (None, threading.current_thread()):  # where garbage is collected is anybody's guess
            self._flusher.join()
        try:
            if self._failure is None and self._unflushed:
                _guarded(self._shard.flush, self._failed)
            if self._failure is None:
                note_closed(self._folder.parent, self._shard.info().points_count)
        finally:
            self._shard.close()

    def _read(self, operation: Callable[[], _Result]) -> _Result:
        return _guarded(
            operation,
            lambda error: MemoryStoreError(
                f"The memory folder {self._folder} cannot be read: {error}. If its files are damaged, put back a copy "
                "of the folder or import an export into a new one."
            ),
        )

    def _write(self, operation: edge.UpdateOperation) -> None:
        self._refuse_changes()
        self._update(operation)

    def _update(self, operation: edge.UpdateOperation, points: int = 1) -> None:
        with self._changed:
            if self._closing:
                raise MemoryStoreError(f"The memory folder {self._folder} is being closed: nothing was changed.")
            if self._flusher is None:
                note_changing(self._folder.parent)
                self._flusher = threading.Thread(target=self._flush_now_and_then, name="agemem-flush", daemon=True)
                self._flusher.start()
            self._writing += 1
        try:
            _guarded(lambda: self._shard.update(operation), self._failed)
        finally:
            with self._changed:
                self._writing -= 1
                self._unflushed += points
                if self._closing or self._unflushed == points or self._unflushed >= FLUSH_AFTER_POINTS:
                    self._changed.notify_all()

    def _refuse_changes(self) -> None:
        """Raise where a change cannot be made: after a failure, and where the disk is all but full."""
        if self._failure is not None:
            raise MemoryStoreError(
                f"The memory folder {self._folder} takes no more changes since one failed ({self._failure}). "
                "Close it, look at free disk space and at the rights on the folder, and open it again."
            )
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise MemoryStoreError(f"The memory folder {self._folder} is gone: {error}.") from error
        if free < LEAST_FREE_BYTES:
            raise MemoryStoreError(
                f"There is no room for a change in the memory folder {self._folder}: the disk has {free >> 20} MiB "
                f"left, and {LEAST_FREE_BYTES >> 20} are kept in reserve. Make free disk space. Nothing was changed."
            )

    def _failed(self, error: BaseException) -> MemoryStoreError:
        """Take no more changes: after a failure the engine refuses most, and may have made a part of this one."""
        self._failure = error
        return MemoryStoreError(
            f"A change in the memory folder {self._folder} failed: {error}. Entries written before are intact and can "
            "be read; look at free disk space and at the rights on the folder, and open it again."
        )

    def _take_back(self, ids: list[str]) -> None:
        """Remove what an insertion that failed has written, or has left in the log, from where it would come back."""
        if ids:
            operation = edge.UpdateOperation.delete_points(list(ids))
            with contextlib.suppress(MemoryStoreError):  # the failure of the insertion is the one to tell
                self._update(operation)

    def _flush_now_and_then(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._unflushed)
                self._changed.wait_for(
                    lambda: self._closing or self._unflushed >= FLUSH_AFTER_POINTS, timeout=FLUSH_AFTER_S
                )
                if self._closing:  # `close` flushes
                    return
                self._unflushed = 0
            try:
                _guarded(self._shard.flush, self._failed)
            except MemoryStoreError:  # the next change raises it
                return


def _guarded(operation: Callable[[], _Result], explain: Callable[[BaseException], MemoryStoreError]) -> _Result:
    """Run an operation of the engine; it raises nothing more specific than `Exception`, and panics on some damage."""
    try:
        return operation()
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise explain(error) from error
        raise


def _open(folder: Path, dimension: int) -> edge.EdgeShard:
    """Load a folder; a new one appears whole, with its indexes, or not at all."""
    config = edge.EdgeConfig(
        vectors={MEANING: edge.EdgeVectorParams(size=dimension, distance=edge.Distance.Cosine)},
        sparse_vectors={WORDS: edge.EdgeSparseVectorParams()},
    )
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        shard = edge.EdgeShard.create(str(partial), config)
        for key, kind in INDEXES.items():
            shard.update(edge.UpdateOperation.create_field_index(key, _SCHEMAS[kind]))
        shard.close()
        partial.rename(folder)
    return edge.EdgeShard.load(str(folder), config)


_SCHEMAS: dict[str, Any] = {
    TENANT: edge.KeywordIndexParams(is_tenant=True),
    KEYWORD: edge.KeywordIndexParams(),
    INTEGER: edge.IntegerIndexParams(lookup=False, range=True),
    DATETIME: edge.DatetimeIndexParams(),
}


def _point(point: Point) -> edge.Point:
    return edge.Point(point.id, {MEANING: point.meaning, WORDS: _sparse(point.words)}, dict(point.payload))


def _uuid(point_id: PointId) -> uuid.UUID:
    return uuid.UUID(point_id) if isinstance(point_id, str) else uuid.UUID(int=point_id)


def _sparse(weights: Mapping[int, float]) -> edge.SparseVector:
    return edge.SparseVector(list(weights), list(weights.values()))


def _filter(condition: Condition) -> edge.Filter:
    return edge.Filter(
        must=[_part(part) for part in condition.must], must_not=[_part(part) for part in condition.must_not]
    )


@lru_cache(maxsize=256)
def _equals(key: str, value: str) -> edge.FieldCondition:
    return edge.FieldCondition(key=key, match=edge.MatchValue(value))


def _part(part: Part) -> Any:
    if isinstance(part, HasId):
        return edge.HasIdCondition({_uuid(one) for one in part.ids})
    if isinstance(part, Equals):
        return _equals(part.key, part.value)
    if isinstance(part, Either):
        return edge.Filter(should=[_part(one) for one in part.conditions])
    bounds: Any = {"gt": part.gt, "gte": part.gte, "lt": part.lt, "lte": part.lte}
    if isinstance(part, NumberBetween):
        return edge.FieldCondition(key=part.path, range=edge.RangeFloat(**bounds))
    return edge.FieldCondition(key=part.key, range=edge.RangeDateTime(**bounds))
