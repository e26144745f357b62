"""An append-only JSONL file that survives being cut off in the middle of a line."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agemem_dspy.errors import RunError


class Journal:
    """Rows on disk, one JSON object a line; writes are whole lines and safe between threads."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        """Open the file, making its folder; keep its rows if `resume`, else start it anew.

        Raises:
            RunError: the folder cannot be written, or a row other than the last is damaged.
        """
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = self._read(path.read_bytes()) if resume and path.exists() else b""
            path.write_bytes(kept)
        except OSError as error:
            raise _unwritable(path, error) from error

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row to disk.

        Raises:
            RunError: the file cannot be written, for instance because the disk is full.
        """
        line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        try:
            with self._lock, self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _read(self, content: bytes) -> bytes:
        """Parse the rows and return the bytes that hold whole ones; a cut last line is dropped."""
        lines = content.splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not a JSON object")
            except ValueError as error:
                if number == len(lines):
                    return b"".join(lines[:-1])
                raise RunError(
                    f"{self.path}, line {number} is damaged ({error}); remove it or start anew with resume=False"
                ) from error
            self.rows.append(row)
        return content if not content or content.endswith(b"\n") else content + b"\n"


def _unwritable(path: Path, error: OSError) -> RunError:
    reason = error.strerror or error
    return RunError(f"cannot write {path}: {reason}; free some space or choose another log_dir")
