"""Which entries a search has ever returned: what an audit calls never retrieved is the rest.

In a folder the ids are lines of a file, each written when a search returns it for the first time, so that a search
that finds what was found before writes nothing. It is a note and no part of what the store promises: the end of it may
be missing after a power failure, and where it cannot be written a search does not fail.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from io import FileIO
from pathlib import Path

from agemem_dspy.errors import MemoryStoreError

_ID = 36  # characters


class Retrieved:
    """The ids of one store's entries that a search has returned. Threads may share it."""

    def __init__(self, path: Path | None = None) -> None:
        """Read the file, if there is one; without a path they are kept in the process alone.

        Raises:
            MemoryStoreError: it cannot be read.
        """
        self._path = path
        self._lock = threading.Lock()
        try:
            lines = path.read_text("ascii", "replace").splitlines() if path is not None and path.exists() else []
        except OSError as error:
            raise MemoryStoreError(f"Cannot read {path}: {error}. Look at its rights, or delete it.") from error
        self._ids = {line for line in lines if len(line) == _ID}  # a line that was cut short is none
        self._gone: set[str] = set()  # removed while a search may still be returning them
        self._file: FileIO | None = None  # open from the first note on

    def ids(self) -> frozenset[str]:
        """Return them."""
        with self._lock:
            return frozenset(self._ids)

    def note(self, ids: Iterable[str]) -> None:
        """Add what a search returns, but for what was removed since the search began."""
        new = [one for one in ids if one not in self._ids]
        if not new:
            return
        with self._lock:
            new = [one for one in new if one not in self._gone]
            try:
                if self._path is not None:
                    self._file = self._file or FileIO(self._path, "a")
                    self._file.write("".join(f"\n{one}" for one in new).encode())  # ends a line that was cut short
            except OSError:
                return  # noted when it is found again
            self._ids.update(new)

    def expect(self, ids: Iterable[str]) -> None:
        """Note ids again that were forgotten: they are there, after all or anew."""
        with self._lock:
            self._gone.difference_update(ids)

    def forget(self, ids: Iterable[str]) -> None:
        """Remove what is removed from the store.

        Raises:
            MemoryStoreError: the file cannot be written.
        """
        with self._lock:
            gone = frozenset(ids)
            kept = self._ids - gone
            try:
                if self._path is not None and len(kept) < len(self._ids):
                    temporary = self._path.with_name(f"{self._path.name}.tmp")
                    temporary.write_text("".join(f"\n{one}" for one in kept), encoding="ascii")
                    self._close()
                    temporary.replace(self._path)
            except OSError as error:
                raise MemoryStoreError(f"Cannot write {self._path}: {error}. Nothing was removed.") from error
            self._ids = kept
            self._gone |= gone

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
