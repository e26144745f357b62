"""One way to one place: the points there, who shares them, and what makes several calls one.

A folder can be opened only once, so every store on it shares one connection, process-wide.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory.additions import duplicate
from agemem_dspy.memory.folder import POINTS, RETRIEVED, check_manifest, lock_folder, write_manifest
from agemem_dspy.memory.point_store import PointStore
from agemem_dspy.memory.points import PREFIX, collection_name
from agemem_dspy.memory.retrieved import Retrieved
from agemem_dspy.memory.scope import Scope
from agemem_dspy.types import Embedder

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, QdrantClient


@dataclass(frozen=True, slots=True)
class Clients:
    """What reaches a server, where the caller brings it."""

    client: QdrantClient | None = None
    async_client: AsyncQdrantClient | None = None


class Connection:
    """Points that may be shared: opened by the first `acquire`, closed by the last `release`."""

    _shared: ClassVar[dict[str, Connection]] = {}
    _shared_lock: ClassVar[threading.RLock] = threading.RLock()

    def __init__(
        self,
        points: PointStore,
        where: str,
        close: Callable[[], None] | None = None,
        retrieved: Retrieved | None = None,
    ) -> None:
        """Share `points`; `close` is called by the last user, `points.close` when left out."""
        self.where = where
        self.retrieved = retrieved  # None on a server, which keeps no such note
        self.is_server = points.is_server
        self._points = points
        self._close = close or points.close
        self._process = os.getpid()
        self._users = 1
        self._last_tick = 0
        self._tick_lock = threading.Lock()
        self._adding: set[tuple[Scope, str]] = set()  # what only one call may add at a time
        self._adding_lock = threading.Lock()
        self._write_lock: AbstractContextManager[object] = nullcontext() if self.is_server else threading.RLock()

    @classmethod
    def in_memory(cls) -> Connection:
        """Open a private store that is gone when it is closed."""
        from agemem_dspy.memory.dictionary_points import DictionaryPoints

        return cls(DictionaryPoints(), ":memory:", retrieved=Retrieved())

    @classmethod
    def at_url(cls, url: str, embedder: Embedder, clients: Clients) -> Connection:
        """Open a server.

        Raises:
            MemoryStoreError: the URL is malformed, or the server does not answer.
        """
        from agemem_dspy.memory.server_points import ServerPoints

        points = ServerPoints(
            url,
            collection_name(embedder),
            embedder.dimension,
            prefix=PREFIX,
            client=clients.client,
            async_client=clients.async_client,
        )
        return cls(points, url)

    @classmethod
    def in_folder(cls, folder: Path, embedder: Embedder) -> Connection:
        """Open a folder, or join the connection that this process has to it.

        Raises:
            StoreLocked: another process has it open.
            EmbedderMismatch: it was built with another embedding model.
            MemoryStoreError: it cannot be made, read or written.
        """
        key = os.path.realpath(folder)
        with cls._shared_lock:
            connection = cls._shared.get(key)
            if connection is not None and connection._process == os.getpid():
                check_manifest(folder, embedder)
                return connection.acquire()
            connection = cls._shared[key] = cls._opened(folder, embedder)
            return connection

    @classmethod
    def _opened(cls, folder: Path, embedder: Embedder) -> Connection:
        from agemem_dspy.memory.edge_points import EdgePoints

        lock = lock_folder(folder)
        try:
            check_manifest(folder, embedder)
            points = EdgePoints(folder / POINTS, embedder.dimension)
        except BaseException:
            lock.release()
            raise

        retrieved: Retrieved | None = None

        def close() -> None:
            try:
                if retrieved is not None:
                    retrieved.close()
                points.close()
            finally:
                lock.release()

        try:
            write_manifest(folder, embedder)
            retrieved = Retrieved(folder / RETRIEVED)
            connection = cls(points, str(folder), close, retrieved)
            connection.not_before(points.greatest("seq"))
        except BaseException:
            close()
            raise
        return connection

    @property
    def points(self) -> PointStore:
        """Return the points.

        Raises:
            MemoryStoreError: this process is a fork of the one that opened them.
        """
        if self._process != os.getpid():
            raise MemoryStoreError(
                f"The memory store {self.where} was opened before this process was forked: open it here, "
                "or share it through a Qdrant server."
            )
        return self._points

    def acquire(self) -> Connection:
        """Count one more user of this connection and return it."""
        with self._shared_lock:
            self._users += 1
        return self

    def release(self) -> None:
        """Count one user less; the last one closes the points."""
        if self._process != os.getpid():  # a fork has its copies of the objects, not the engine
            return
        with self._shared_lock:
            self._users -= 1
            if self._users:
                return
            for key, connection in list(self._shared.items()):
                if connection is self:
                    del self._shared[key]
            self._close()

    def tick(self) -> int:
        """Return a number greater than every earlier one: nanoseconds since 1970, never twice the same."""
        with self._tick_lock:
            self._last_tick = max(self._last_tick + 1, time.time_ns())
            return self._last_tick

    def not_before(self, tick: int) -> None:
        """Make every later `tick` greater than this one, even if the clock was set back."""
        with self._tick_lock:
            self._last_tick = max(self._last_tick, tick)

    @contextmanager
    def adding(self, scope: Scope, contents: Sequence[str]) -> Iterator[None]:
        """Keep these contents from being added to a scope by another call meanwhile; there is nothing to wait for.

        Another scope needs no such thing: of two that see each other's entries in part, one may as well be the first.

        Raises:
            MemoryDuplicate: another call is adding one of them.
        """
        wanted = {(scope, content) for content in contents}
        with self._adding_lock:
            for _, content in wanted & self._adding:
                raise duplicate(content, "is being added by another call")
            self._adding |= wanted
        try:
            yield
        finally:
            with self._adding_lock:
                self._adding -= wanted

    def exclusive(self) -> AbstractContextManager[object]:
        """Return a lock that makes the calls of a change one, while others read (a server has no such thing)."""
        return self._write_lock


def connect(where: str | os.PathLike[str], embedder: Embedder, clients: Clients) -> Connection:
    """Open ":memory:", a folder or a server URL, as `LongTermMemory.open` says.

    Raises:
        MemoryStoreError: `where` is none of these, or it cannot be opened.
    """
    if not isinstance(where, str | os.PathLike) or not str(where).strip() or "\x00" in str(where):
        raise MemoryStoreError(f"Cannot open {where!r}: give ':memory:', a folder, or the URL of a Qdrant server.")
    if isinstance(where, str) and where.startswith(("http://", "https://")):
        return Connection.at_url(where, embedder, clients)
    if clients != Clients():
        raise MemoryStoreError(f"A client reaches a server, but {where!r} is none: give the server's URL as well.")
    if where == ":memory:":
        return Connection.in_memory()
    if isinstance(where, str) and "://" in where:
        raise MemoryStoreError(f"Cannot open {where!r}: a server is named by an http:// or https:// URL.")
    return Connection.in_folder(Path(where).expanduser(), embedder)
