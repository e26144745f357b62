"""Memories as a JSONL file: written and read line by line, with their histories and checksums.

A line has an entry and `sum`, the beginning of the SHA-256 of the rest of it, which names a damaged line; the last line
has the number of entries and the SHA-256 of all lines before it, which tells a file that was cut. Of a store or a file
of any size no more than a batch of entries is in memory, and an id with a digest of each.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agemem_dspy.errors import DataError, MemoryExists, MemoryNotFound, MemoryStoreError, RunError

if TYPE_CHECKING:
    from agemem_dspy.memory.long_term import LongTermMemory
    from agemem_dspy.types import Entry, Version

_END = {"count", "sha256"}  # the keys of the last line
_BATCH = 128
_SUM = 16  # hex digits


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedMemory:
    """One line of an export that was checked; `id` and `versions` are those of its former store, if it names them."""

    content: str
    id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    memory_type: str = "general"
    versions: tuple[Version, ...] = ()
    agent_id: str | None = None
    session_id: str | None = None


def write_export(store: LongTermMemory, file: Path) -> int:
    """Write every entry of a user in insertion order, forgotten ones too, and a last line; return how many entries.

    Raises:
        RunError: the file cannot be written; one that was there stays.
    """
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.part")
    digest, count = hashlib.sha256(), 0
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w", encoding="utf-8", newline="\n") as lines:
            for entry in store.entries():
                line = _line(_row(entry))
                digest.update(line.encode())
                lines.write(line)
                count += 1
            lines.write(json.dumps({"count": count, "sha256": digest.hexdigest()}) + "\n")
        unfinished.replace(file)
    except OSError as error:
        raise RunError(f"cannot write {file}: {error.strerror or error}; choose another file") from error
    finally:
        with contextlib.suppress(OSError):  # the first failure is the one to tell
            unfinished.unlink(missing_ok=True)
    return count


def take_over(store: LongTermMemory, row: ExportedMemory) -> str:
    """Store one line of an export and return its id: the one it had, unless it names none or somebody else has it.

    Raises:
        MemoryRejected: a guard of the store refused it, or set it aside.
    """
    from agemem_dspy.memory.checks import now
    from agemem_dspy.types import Provenance, Version

    versions = row.versions
    if not versions:
        by = {"tool": "agemem memory import", "id": row.id, **Provenance(channel="import").by()}
        versions = (Version(change="add", content=row.content, metadata=row.metadata, at=now(), by=by),)
    elif row.id:
        with contextlib.suppress(MemoryExists, MemoryNotFound):  # taken by another user, or no UUID
            store.insert(row.id, versions, row.memory_type, agent_id=row.agent_id, session_id=row.session_id)
            return row.id
    new = str(uuid.uuid4())
    store.insert(new, versions, row.memory_type, agent_id=row.agent_id, session_id=row.session_id)
    return new


def read_export(file: Path) -> Iterator[ExportedMemory]:
    """Yield the lines of an export, each checked; a missing end or a wrong checksum is found with the last one.

    Raises:
        DataError: the file is missing, or a line is malformed or damaged; names the line.
    """
    digest, count, exported, complete, number = hashlib.sha256(), 0, False, False, 0
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            if complete:
                raise DataError(f"{file}:{number}: there is more after the end of the export; import each file alone")
            try:
                raw = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}:{number}: not JSON ({error}); expected one JSON object a line") from error
            if isinstance(raw, dict) and set(raw) == _END:
                if digest.hexdigest() != raw["sha256"] or count != raw["count"]:
                    raise DataError(
                        f"{file}:{number}: the lines before are not those that were exported, {raw['count']} of them; "
                        "export again or, if they were changed on purpose, remove this line, and `versions` and `sum` "
                        "from the others"
                    )
                complete = True
            elif not isinstance(raw, dict) or "content" not in raw:
                raise DataError(
                    f"{file}:{number}: expected an object with `content`, as 'agemem memory export' writes it"
                )
            else:
                try:
                    damaged = "sum" in raw and _line(raw) != line.removesuffix("\n") + "\n"
                    memory = exported_memory(raw)
                except (MemoryStoreError, TypeError, RecursionError) as error:
                    raise DataError(f"{file}:{number}: {error}") from error
                if damaged:
                    raise DataError(
                        f"{file}:{number}: the line is damaged, it is not what was exported; export again or, if it "
                        "was changed on purpose, remove `versions` and `sum` from it, and the last line"
                    )
                yield memory
                count += 1
                exported = exported or bool(raw.get("versions"))
        digest.update(line.encode())
    if exported and not complete:
        raise DataError(
            f"{file}:{number}: the last line of the export, with its checksum, is missing: the file was cut here; "
            "export again"
        )


def exported_memory(raw: Mapping[str, Any]) -> ExportedMemory:
    """Return one line of an export, checked.

    Raises:
        MemoryStoreError: something in it cannot be stored.
        TypeError: a version with unknown fields.
    """
    from agemem_dspy.memory.checks import checked_metadata, checked_name, checked_text, checked_versions
    from agemem_dspy.types import Version

    versions = [Version(**version) for version in raw.get("versions") or ()]
    return ExportedMemory(
        content=checked_text(raw["content"], "content"),
        id=str(raw.get("id", "")),
        metadata=checked_metadata(raw.get("metadata")),
        memory_type=checked_text(raw.get("memory_type", "general"), "memory_type"),
        versions=tuple(checked_versions(versions)) if versions else (),
        agent_id=checked_name(raw.get("agent_id"), "agent_id"),
        session_id=checked_name(raw.get("session_id"), "session_id"),
    )


class Lacking:
    """Tells which lines of an export a store lacks; two equal lines need two equal entries.

    A line is there when its id is, or else when an equal entry is there that no other line names.
    """

    def __init__(self, store: LongTermMemory, rows: Iterable[ExportedMemory]) -> None:
        """Look through a store, and through all lines once."""
        self._known: dict[str, bytes] = {
            entry.id: _fingerprint(entry, entry.versions[-1].content, entry.versions[-1].metadata)
            for entry in store.entries()
        }
        self._unclaimed = Counter(self._known.values())
        self.count = 0
        for row in rows:
            self.count += 1
            if row.id in self._known:
                self._unclaimed[self._known[row.id]] -= 1

    def among(self, rows: Iterable[ExportedMemory]) -> Iterator[ExportedMemory]:
        """Yield the lines that are not there, once through all of them."""
        for row in rows:
            if row.id in self._known:
                continue
            one = _fingerprint(row, row.content, row.metadata)
            if self._unclaimed[one] > 0:
                self._unclaimed[one] -= 1
            else:
                yield row


def in_batches(rows: Iterable[ExportedMemory]) -> Iterator[list[ExportedMemory]]:
    """Yield lines in lists that are embedded in one call."""
    remaining = iter(rows)
    while batch := list(itertools.islice(remaining, _BATCH)):
        yield batch


def _lines(file: Path) -> Iterator[str]:
    """Yield the lines of a file with their ends, by newlines alone.

    Raises:
        DataError: it is missing, unreadable or not UTF-8; names the line.
    """
    number = 0
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; check the path") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); give the path of a readable file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}:{number}: not UTF-8 text (byte {error.start} of the line)") from error


def _row(entry: Entry) -> dict[str, Any]:
    first, last = entry.versions[0], entry.versions[-1]
    return {
        "id": entry.id,
        "content": last.content,
        "metadata": last.metadata,
        "memory_type": entry.memory_type,
        "agent_id": entry.agent_id,
        "session_id": entry.session_id,
        "created_at": first.at,
        "updated_at": last.at,
        "expires_at": last.expires_at,
        "versions": [asdict(version) for version in entry.versions],
    }


def _line(row: Mapping[str, Any]) -> str:
    """Return a row as a line, with its checksum."""
    text = json.dumps({key: value for key, value in row.items() if key != "sum"}, ensure_ascii=False)
    return f'{text[:-1]}, "sum": "{hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_SUM]}"}}\n'


def _fingerprint(one: Entry | ExportedMemory, content: str, metadata: Mapping[str, Any]) -> bytes:
    text = json.dumps([content, one.memory_type, one.agent_id, one.session_id, dict(metadata)], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
