"""A memory folder: one process has it open, and its manifest holds it to one embedding model and one layout.

agemem.json   the manifest
.lock         held while it is open
points/       the engine's own files
retrieved     the ids that a search has returned
"""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path

import filelock

from agemem_dspy.errors import EmbedderMismatch, MemoryStoreError, StoreLocked
from agemem_dspy.types import Embedder

SCHEMA_VERSION = 3  # 3: written by the embedded engine; `state` in place of `removed`
MANIFEST = "agemem.json"
CLOSED = "closed.json"
POINTS = "points"
RETRIEVED = "retrieved"


def lock_folder(folder: Path) -> filelock.BaseFileLock:
    """Make a folder if it is missing, and hold it until the lock is released or this process ends.

    Raises:
        StoreLocked: another process holds it.
        MemoryStoreError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", thread_local=False)
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise StoreLocked(
            f"The memory folder {folder} is open in another process. Close it, use another folder, or "
            "share the memories through a Qdrant server: LongTermMemory.open('http://localhost:6333')."
        ) from error
    except OSError as error:
        raise MemoryStoreError(
            f"Cannot open the memory folder {folder}: {error}. Choose a folder that can be written, "
            "or look at free disk space."
        ) from error
    return lock


def check_manifest(folder: Path, embedder: Embedder) -> None:
    """Hold a folder to its embedding model and layout; one without a manifest is held to nothing yet.

    Raises:
        EmbedderMismatch: it was built with another model.
        MemoryStoreError: it has another layout, or the manifest is damaged or cannot be read.
    """
    path = folder / MANIFEST
    try:
        if not path.exists():
            if (folder / "meta.json").exists():  # of the layouts before
                raise _other_layout(folder, 2)
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        version, theirs = found["schema_version"], dict(found["embedder"])
        name, dimension = theirs["name"], theirs["dimension"]
    except OSError as error:
        raise _unusable(path, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise MemoryStoreError(
            f"{path} is damaged ({error!r}). If the memories in this folder were made with {embedder.name!r}, delete "
            "the file and open the folder again; it will be written anew."
        ) from error
    if version != SCHEMA_VERSION:
        raise _other_layout(folder, version)
    if (name, dimension) != (embedder.name, embedder.dimension):
        raise EmbedderMismatch(
            f"The memories in {folder} were made with the embedding model {name!r} ({dimension} dimensions), but this "
            f"embedder is {embedder.name!r} ({embedder.dimension} dimensions). Open them with embedder={name!r} "
            "(--embedder on the command line), or re-embed them: agemem memory reembed "
            f"{shlex.quote(str(folder))} --embedder {shlex.quote(embedder.name)}",
            name,
            dimension,
        )


def write_manifest(folder: Path, embedder: Embedder) -> None:
    """Write down the model and the layout of a folder that has no manifest.

    Raises:
        MemoryStoreError: it cannot be written.
    """
    path = folder / MANIFEST
    content = {
        "schema_version": SCHEMA_VERSION,
        "embedder": {"name": embedder.name, "dimension": embedder.dimension},
    }
    try:
        if not path.exists():
            temporary = folder / f"{MANIFEST}.tmp"
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            temporary.replace(path)
    except OSError as error:
        raise _unusable(path, error) from error


def note_closed(folder: Path, entries: int) -> None:
    """Write down how many entries a folder has as it is closed; a note that is there is of a folder left unchanged."""
    if (folder / CLOSED).exists():
        return
    with contextlib.suppress(OSError):  # without the note, nothing is missing but a check
        temporary = folder / f"{CLOSED}.tmp"
        temporary.write_text(json.dumps({"entries": entries}) + "\n", encoding="utf-8")
        temporary.replace(folder / CLOSED)


def note_changing(folder: Path) -> None:
    """Take the note back, before the first change.

    Raises:
        MemoryStoreError: it cannot be.
    """
    try:
        (folder / CLOSED).unlink(missing_ok=True)
    except OSError as error:
        raise _unusable(folder / CLOSED, error) from error


def check_complete(folder: Path, entries: int) -> None:
    """Compare what a folder has with the note of how many entries it was closed with.

    Raises:
        MemoryStoreError: some are missing.
    """
    path = folder / CLOSED
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))["entries"] if path.exists() else entries
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MemoryStoreError(f"{path} is damaged ({error!r}): delete it to open the folder unchecked.") from error
    if noted != entries:
        raise MemoryStoreError(
            f"The memory folder {folder} had {noted} entries when it was closed, but {entries} can be read: its files "
            f"are damaged. Put back a copy of the folder, or delete {path} to open it with what is left."
        )


def _other_layout(folder: Path, version: object) -> MemoryStoreError:
    return MemoryStoreError(
        f"The memory folder {folder} has the layout {version}, this version reads {SCHEMA_VERSION}: "
        "install the version of agemem-dspy that wrote it, export the memories, import them here."
    )


def _unusable(path: Path, error: OSError) -> MemoryStoreError:
    return MemoryStoreError(f"Cannot read or write {path}: {error}. Look at rights and free disk space.")
