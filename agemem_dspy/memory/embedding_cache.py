"""Vectors on disk, under hashes of their texts: an SQLite file that many processes share.

A cache of vectors is no place for secrets: whoever reads the file can tell from a vector roughly what its text says,
and can check a guess by its hash. So nothing is written here unless it is asked for, and what is forgotten is
overwritten with zeros. (Hence a rollback journal: a write-ahead log would keep what was deleted.)
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from agemem_dspy.errors import ConfigurationError, MemoryStoreError
from agemem_dspy.memory.embedder import NORM_TOLERANCE
from agemem_dspy.paths import HOME_VARIABLE, cache_folder

FILE = "vectors.sqlite3"
_WAIT_S = 30.0  # for another process's write
_LOOKED_UP = 500  # texts a query
_LAYOUT = (
    "CREATE TABLE vectors (id INTEGER PRIMARY KEY, text BLOB NOT NULL, model TEXT NOT NULL, vector BLOB NOT NULL)",
    "CREATE UNIQUE INDEX by_text ON vectors (text, model)",
)
# What the surroundings do to a sound file, by the low byte of the error code.
_NO_DAMAGE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class _DamagedError(sqlite3.DatabaseError):
    """What was read is not what was written."""


class EmbeddingCache:
    """Vectors by embedder and text. Threads and processes may share a folder.

    A file that is damaged is begun anew, which a line in the log says. At `max_bytes` the oldest vectors go.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, max_bytes: int = 2**29) -> None:
        """Name the folder; it is made at first use.

        Args:
            folder: `embeddings` in the library's cache folder (`$AGEMEM_HOME`) when left out.
            max_bytes: size of the file, half a gibibyte by default: 300,000 vectors of 384 dimensions.

        Raises:
            ConfigurationError: `max_bytes` is less than a mebibyte.
        """
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 2**20:
            raise ConfigurationError(f"max_bytes must be an integer of at least {2**20}, not {max_bytes!r}.")
        self.folder = cache_folder() / "embeddings" if folder is None else Path(folder).expanduser()
        self.max_bytes = max_bytes
        self._path = self.folder / FILE
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] = (0, 0)  # process and inode

    def get(self, name: str, dimension: int, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the unit rows (dimension,) of those texts that are known for an embedder.

        Raises:
            MemoryStoreError: the folder cannot be read or written.
        """
        texts_by_hash = {_hash(text): text for text in texts}

        def look_up(connection: sqlite3.Connection) -> dict[str, NDArray[np.float32]]:
            found: dict[str, NDArray[np.float32]] = {}
            for some in _chunks(list(texts_by_hash)):
                marks = ", ".join("?" * len(some))
                query = f"SELECT text, vector FROM vectors WHERE model = ? AND text IN ({marks})"
                for key, vector in connection.execute(query, [_model(name, dimension), *some]):
                    found[texts_by_hash[key]] = _row(vector, dimension)
            return found

        return self._run(look_up) if texts else {}

    def put(self, name: str, dimension: int, rows: Mapping[str, NDArray[np.float32]]) -> None:
        """Keep the unit row (dimension,) of each text; the oldest rows go where there is no room.

        Raises:
            MemoryStoreError: the folder cannot be written.
        """
        model = _model(name, dimension)
        new = [(_hash(text), model, np.asarray(row, dtype="<f4").tobytes()) for text, row in rows.items()]

        def write(connection: sqlite3.Connection) -> None:
            with _transaction(connection):
                connection.executemany("INSERT OR REPLACE INTO vectors (text, model, vector) VALUES (?, ?, ?)", new)
                self._make_room(connection)

        if new:
            self._run(write)

    def forget(self, texts: Iterable[str]) -> None:
        """Remove the vectors of some texts, of every embedder; when this returns, no byte of them is in the file.

        Raises:
            MemoryStoreError: the folder cannot be written.
        """
        keys = [(_hash(text),) for text in texts]

        def remove(connection: sqlite3.Connection) -> None:
            connection.execute("PRAGMA synchronous = FULL")  # it must also hold after a power cut
            with _transaction(connection):
                connection.executemany("DELETE FROM vectors WHERE text = ?", keys)
            connection.execute("PRAGMA synchronous = OFF")

        with self._explained():
            there = self._inode() != 0
        if keys and there:
            self._run(remove)

    def clear(self) -> None:
        """Remove every vector.

        Raises:
            MemoryStoreError: the folder cannot be written.
        """
        with self._lock, self._explained():
            self._begin_anew(self._inode())

    def count(self) -> int:
        """Return how many vectors are kept.

        Raises:
            MemoryStoreError: the folder cannot be read or written.
        """
        return int(self._run(lambda connection: connection.execute("SELECT COUNT(*) FROM vectors").fetchone()[0]))

    def _run(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Do it on an open file; one that is damaged is begun anew first."""
        with self._lock, self._explained():
            try:
                return work(self._open())
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_DAMAGE:
                    raise
                _log.warning("The embedding cache %s was damaged (%s); it begins anew.", self._path, error)
                self._begin_anew(self._opened[1])
                return work(self._open())

    def _open(self) -> sqlite3.Connection:
        """Return a connection of this process to the file that is there now."""
        opened = (os.getpid(), self._inode())
        if self._connection is not None and opened == self._opened and opened[1]:
            return self._connection
        self._close()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        self._opened = (os.getpid(), self._inode())
        connection = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._opened[0] == os.getpid():  # a parent's is not ours to close
            connection.close()

    def _begin_anew(self, inode: int) -> None:
        """Remove the file unless another process was quicker; whoever has it open sees that it is another one."""
        import filelock  # here, since its audit hooks make every deepcopy of the process twice as slow

        self._close()
        self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.folder / ".lock"):
            if self._inode() == inode:
                self._path.unlink(missing_ok=True)
                self._path.with_name(f"{FILE}-journal").unlink(missing_ok=True)

    def _inode(self) -> int:
        try:
            return self._path.stat().st_ino
        except FileNotFoundError:
            return 0

    def _make_room(self, connection: sqlite3.Connection) -> None:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        excess = (pages - free) * size - self.max_bytes
        if excess > 0:
            count = connection.execute("SELECT COUNT(*) FROM vectors").fetchone()[0]
            share = excess / self.max_bytes + 0.05  # some room, so that not every call has to make some
            last = "SELECT id FROM vectors ORDER BY id LIMIT 1 OFFSET ?"
            connection.execute(f"DELETE FROM vectors WHERE id <= ({last})", [min(count - 1, int(share * count))])

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise MemoryStoreError(
                f"The embedding cache in {self.folder} cannot be used: {error}. Look at rights and free disk space, "
                f"choose another folder ({HOME_VARIABLE}), or do without it (disk=None)."
            ) from error

    def __reduce__(self) -> tuple[type[EmbeddingCache], tuple[Path, int]]:
        return EmbeddingCache, (self.folder, self.max_bytes)


def _prepare(connection: sqlite3.Connection) -> None:
    """Set a connection up; make the table where there is none.

    Raises:
        sqlite3.DatabaseError: the file is damaged, or of another layout.
    """
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA synchronous = OFF")  # what a power cut spoils is begun anew
    with _transaction(connection):
        if not connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0]:
            for statement in _LAYOUT:
                connection.execute(statement)
        found = [row[0] for row in connection.execute("SELECT sql FROM sqlite_schema ORDER BY rowid")]
        if found != list(_LAYOUT):
            raise _DamagedError("it has another layout")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # the first failure is the one to tell
                connection.execute("ROLLBACK")
        raise


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _model(name: str, dimension: int) -> str:
    return f"{name}\n{dimension}"


def _row(vector: Any, dimension: int) -> NDArray[np.float32]:
    """Return a vector as it was written.

    Raises:
        _DamagedError: it is not.
    """
    if isinstance(vector, bytes) and len(vector) == 4 * dimension:
        row = np.frombuffer(vector, dtype="<f4").astype(np.float32)
        with np.errstate(all="ignore"):  # whatever the bytes are
            sound = abs(float(np.linalg.norm(row)) - 1.0) <= NORM_TOLERANCE
        if sound:
            return row
    raise _DamagedError("a vector is not what was written")


def _chunks(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), _LOOKED_UP):
        yield keys[start : start + _LOOKED_UP]
