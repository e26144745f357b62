"""Memories as a JSONL file: written with their histories and a checksum, read back checked."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agemem_dspy.errors import DataError, MemoryExists, MemoryNotFound, MemoryStoreError, RunError

if TYPE_CHECKING:
    from agemem_dspy.memory.long_term import LongTermMemory
    from agemem_dspy.types import Memory, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedMemory:
    """One line of an export that was checked; `id` and `versions` are those of its former store, if it names them."""

    content: str
    id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    memory_type: str = "general"
    versions: tuple[Version, ...] = ()


def write_export(store: LongTermMemory, file: Path) -> int:
    """Write every entry of a user, forgotten ones last, and a line with the checksum; return how many entries.

    Raises:
        RunError: the file cannot be written; one that was there stays.
    """
    memories = [*store.all(), *store.removed()]
    rows = [
        {**asdict(memory), "versions": [asdict(version) for version in store.history(memory.id)]} for memory in memories
    ]
    for row in rows:
        del row["score"], row["provenance"]  # of a search, and in the last version
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    text += json.dumps({"count": len(rows), "sha256": hashlib.sha256(text.encode()).hexdigest()}) + "\n"
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first failure is the one to tell
            unfinished.unlink(missing_ok=True)
        raise RunError(f"cannot write {file}: {error.strerror or error}; choose another file") from error
    return len(memories)


def take_over(store: LongTermMemory, row: ExportedMemory) -> str:
    """Store one line of an export and return its id: the one it had, unless it names none or somebody else has it.

    Raises:
        MemoryRejected: a guard of the store refused it, or set it aside.
    """
    from agemem_dspy.types import Provenance, Version

    versions = row.versions
    if not versions:
        by = {"tool": "agemem memory import", "id": row.id, **Provenance(channel="import").by()}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        versions = (Version(change="add", content=row.content, metadata=row.metadata, at=now, by=by),)
    elif row.id:
        with contextlib.suppress(MemoryExists, MemoryNotFound):  # taken by another user, or no UUID
            store.insert(row.id, versions, row.memory_type)
            return row.id
    store.insert(new := str(uuid.uuid4()), versions, row.memory_type)
    return new


def read_export(file: Path) -> list[ExportedMemory]:
    """Read and check a whole export, so that a bad line stops the import before anything is added.

    Raises:
        DataError: the file is missing, or a line is malformed; names the line.
    """
    from agemem_dspy.data.files import read_text

    rows: list[ExportedMemory] = []
    if file.is_file() and not file.stat().st_size:
        return rows
    before, complete = "", False
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            try:
                raw = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}:{number}: not JSON ({error}); expected one JSON object a line") from error
            if isinstance(raw, dict) and set(raw) == {"count", "sha256"}:
                if hashlib.sha256(before.encode()).hexdigest() != raw["sha256"] or len(rows) != raw["count"]:
                    raise DataError(
                        f"{file}:{number}: the lines before are not those that were exported; export again or, if they "
                        "were changed on purpose, remove this line and `versions` from the others"
                    )
                complete = True
            elif not isinstance(raw, dict) or "content" not in raw:
                raise DataError(
                    f"{file}:{number}: expected an object with `content`, as 'agemem memory export' writes it"
                )
            else:
                try:
                    rows.append(exported_memory(raw))
                except (MemoryStoreError, TypeError) as error:
                    raise DataError(f"{file}:{number}: {error}") from error
        before += line + "\n"
    if not complete and any(row.versions for row in rows):
        raise DataError(f"{file}: the last line of the export, with its checksum, is missing; export again")
    return rows


def exported_memory(raw: Mapping[str, Any]) -> ExportedMemory:
    """Return one line of an export, checked.

    Raises:
        MemoryStoreError: something in it cannot be stored.
        TypeError: a version with unknown fields.
    """
    from agemem_dspy.memory.checks import checked_metadata, checked_text, checked_versions
    from agemem_dspy.types import Version

    versions = [Version(**version) for version in raw.get("versions") or ()]
    return ExportedMemory(
        content=checked_text(raw["content"], "content"),
        id=str(raw.get("id", "")),
        metadata=checked_metadata(raw.get("metadata")),
        memory_type=checked_text(raw.get("memory_type", "general"), "memory_type"),
        versions=tuple(checked_versions(versions)) if versions else (),
    )


def missing_rows(rows: Sequence[ExportedMemory], there: Sequence[Memory]) -> list[ExportedMemory]:
    """Return the rows that a store lacks; two equal rows need two equal entries."""
    known = {memory.id: memory for memory in there}
    unclaimed = Counter(_fingerprint(memory) for memory in there)
    for row in rows:
        if row.id in known:
            unclaimed[_fingerprint(known[row.id])] -= 1
    missing = []
    for row in rows:
        if row.id in known:
            continue
        if unclaimed[_fingerprint(row)] > 0:
            unclaimed[_fingerprint(row)] -= 1
        else:
            missing.append(row)
    return missing


def _fingerprint(memory: Memory | ExportedMemory) -> str:
    return json.dumps([memory.content, memory.memory_type, dict(memory.metadata)], sort_keys=True)
