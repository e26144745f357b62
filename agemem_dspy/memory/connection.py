"""One way to one Qdrant: the client, the lock around it, and what its failures mean.

The embedded client breaks when two threads enter it, and its folder can be opened only once:
so every store on a folder shares one connection, process-wide, and every call takes its lock.
A server needs no lock; there a lost connection is tried again, up to three times.
"""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import ClassVar, TypeVar

import tenacity
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from agemem_dspy.errors import EmbedderMismatch, MemoryStoreError, StoreLocked
from agemem_dspy.types import Embedder

SCHEMA_VERSION = 2  # 2: words beside meaning, and every version of an entry
MANIFEST = "agemem.json"
SERVER_TIMEOUT_S = 10
_Result = TypeVar("_Result")
_FAILURES = (OSError, sqlite3.Error, ApiException, ValueError, RuntimeError, KeyError)


class QdrantConnection:
    """A client that may be shared: opened by the first `acquire`, closed by the last `release`."""

    _shared: ClassVar[dict[tuple[int, str], QdrantConnection]] = {}
    _shared_lock: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, client: QdrantClient, where: str, *, is_server: bool) -> None:
        self.where = where
        self.is_server = is_server
        self._client = client
        self._users = 1
        self._last_tick = 0
        self._tick_lock = threading.Lock()
        self._lock: AbstractContextManager[object] = nullcontext() if is_server else threading.RLock()

    @classmethod
    def in_memory(cls) -> QdrantConnection:
        """Open a private store that is gone when it is closed."""
        return cls(QdrantClient(":memory:"), ":memory:", is_server=False)

    @classmethod
    def at_url(cls, url: str) -> QdrantConnection:
        """Open a server; nothing is sent yet.

        Raises:
            MemoryStoreError: the URL is malformed.
        """
        try:
            client = QdrantClient(
                url=url,
                api_key=os.environ.get("QDRANT_API_KEY") or None,
                timeout=SERVER_TIMEOUT_S,
                check_compatibility=False,
            )
        except ValueError as error:
            raise MemoryStoreError(f"{url!r} is no server address ({error}). Write http://host:6333.") from error
        return cls(client, url, is_server=True)

    @classmethod
    def in_folder(cls, folder: Path, embedder: Embedder) -> QdrantConnection:
        """Open a folder, or join the connection that this process has to it.

        Raises:
            StoreLocked: another process has it open.
            EmbedderMismatch: it was built with another embedding model.
            MemoryStoreError: it cannot be made, read or written.
        """
        key = (os.getpid(), os.path.realpath(folder))
        with cls._shared_lock:
            connection = cls._shared.get(key)
            if connection is None:
                connection = cls(_open_folder(folder), str(folder), is_server=False)
                cls._shared[key] = connection
            else:
                connection._users += 1
            try:
                _check_manifest(folder, embedder)
            except BaseException:
                connection.release()
                raise
            return connection

    def acquire(self) -> QdrantConnection:
        """Count one more user of this connection and return it."""
        with self._shared_lock:
            self._users += 1
        return self

    def release(self) -> None:
        """Count one user less; the last one closes the client."""
        with self._shared_lock:
            self._users -= 1
            if self._users:
                return
            for key, connection in list(self._shared.items()):
                if connection is self:
                    del self._shared[key]
            with self._lock:
                self._client.close()

    def tick(self) -> int:
        """Return a number greater than every earlier one: nanoseconds since 1970, never twice the same."""
        with self._tick_lock:
            self._last_tick = max(self._last_tick + 1, time.time_ns())
            return self._last_tick

    def not_before(self, tick: int) -> None:
        """Make every later `tick` greater than this one, even if the clock was set back."""
        with self._tick_lock:
            self._last_tick = max(self._last_tick, tick)

    def exclusive(self) -> AbstractContextManager[object]:
        """Return a lock that makes several calls one (embedded; a server has no such thing)."""
        return self._lock

    def call(self, operation: Callable[[QdrantClient], _Result]) -> _Result:
        """Run one operation on the client and return its result.

        Raises:
            MemoryStoreError: it failed; the message names the store and says what to look at.
        """
        try:
            with self._lock:
                return _retrying(operation, self._client) if self.is_server else operation(self._client)
        except _FAILURES as error:
            raise MemoryStoreError(self._explain(error)) from error

    def _explain(self, error: Exception) -> str:
        if not self.is_server:
            return (
                f"The memory store {self.where} refused the operation: {error}. Entries written before are intact; "
                "look at free disk space and at the rights on the folder."
            )
        if isinstance(error, ResponseHandlingException):
            return f"Cannot reach the Qdrant server at {self.where}: {error}. Is it running, and is the URL right?"
        reason = " ".join(str(error).split())
        if isinstance(error, UnexpectedResponse) and error.status_code in (401, 403):
            return (
                f"The Qdrant server at {self.where} refused us: {reason}. Set QDRANT_API_KEY to a key that may write."
            )
        return f"The Qdrant server at {self.where} failed or refused the operation: {reason}."


def connect(where: str | os.PathLike[str], embedder: Embedder) -> QdrantConnection:
    """Open ":memory:", a folder or a server URL, as `LongTermMemory.open` says.

    Raises:
        MemoryStoreError: `where` is none of these, or it cannot be opened.
    """
    if not isinstance(where, str | os.PathLike) or not str(where).strip() or "\x00" in str(where):
        raise MemoryStoreError(f"Cannot open {where!r}: give ':memory:', a folder, or the URL of a Qdrant server.")
    if where == ":memory:":
        return QdrantConnection.in_memory()
    if isinstance(where, str) and where.startswith(("http://", "https://")):
        return QdrantConnection.at_url(where)
    if isinstance(where, str) and "://" in where:
        raise MemoryStoreError(f"Cannot open {where!r}: a server is named by an http:// or https:// URL.")
    return QdrantConnection.in_folder(Path(where).expanduser(), embedder)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder that nobody has open, so that nobody opens it meanwhile.

    Raises:
        StoreLocked: somebody has it open.
    """
    import portalocker

    with (folder / ".lock").open("a+") as file:
        try:
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.exceptions.LockException as error:
            raise _locked(folder) from error
        try:
            yield
        finally:
            portalocker.unlock(file)


def _retrying(operation: Callable[[QdrantClient], _Result], client: QdrantClient) -> _Result:
    """Run it up to three times; only a lost connection is worth another try, and every call is idempotent."""
    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ResponseHandlingException),
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_exponential(multiplier=0.2, max=2.0),
        reraise=True,
    )
    return retry(operation, client)


def _open_folder(folder: Path) -> QdrantClient:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / ".lock").exists():
            with folder_lock(folder):
                pass  # else the client would leave a half-open object behind
        return QdrantClient(path=str(folder))
    except StoreLocked:
        raise
    except _FAILURES as error:
        if "already accessed" in str(error):
            raise _locked(folder) from error
        raise MemoryStoreError(
            f"Cannot open the memory folder {folder}: {error}. Choose a folder that can be written, "
            "or look at free disk space."
        ) from error


def _locked(folder: Path) -> StoreLocked:
    return StoreLocked(
        f"The memory folder {folder} is open in another process. Close it, use another folder, or "
        "share the memories through a Qdrant server: LongTermMemory.open('http://localhost:6333')."
    )


def _check_manifest(folder: Path, embedder: Embedder) -> None:
    """Hold the folder to one embedding model; the first one to open it writes its name down."""
    path = folder / MANIFEST
    mine = {"name": embedder.name, "dimension": embedder.dimension}
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if found is None:
            temporary = folder / f"{MANIFEST}.tmp"
            temporary.write_text(
                json.dumps({"schema_version": SCHEMA_VERSION, "embedder": mine}, indent=2) + "\n", encoding="utf-8"
            )
            temporary.replace(path)
            return
        version, theirs = found["schema_version"], dict(found["embedder"])
        name, dimension = theirs["name"], theirs["dimension"]
    except OSError as error:
        raise MemoryStoreError(f"Cannot read or write {path}: {error}. Look at rights and free disk space.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MemoryStoreError(
            f"{path} is damaged ({error!r}). If the memories in this folder were made with {embedder.name!r}, delete "
            "the file and open the folder again; it will be written anew."
        ) from error
    if version != SCHEMA_VERSION:
        raise MemoryStoreError(
            f"The memory folder {folder} has the layout {version}, this version reads {SCHEMA_VERSION}: "
            "install the version of agemem-dspy that wrote it, export the memories, import them here."
        )
    if (name, dimension) != (mine["name"], mine["dimension"]):
        raise EmbedderMismatch(
            f"The memories in {folder} were made with the embedding model {name!r} ({dimension} dimensions), but this "
            f"embedder is {embedder.name!r} ({embedder.dimension} dimensions). Open them with embedder={name!r} "
            "(--embedder on the command line), or re-embed them: agemem memory reembed "
            f"{shlex.quote(str(folder))} --embedder {shlex.quote(embedder.name)}",
            name,
            dimension,
        )
