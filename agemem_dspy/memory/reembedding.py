"""Re-embedding: the memories of a folder, with ids, histories and expiry, under another embedding model.

A second store is filled beside the folder and takes its place at the end. Until then the folder is as it was; after a
kill the same call goes on where it stopped. Entries are read as they are needed, a batch at a time.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agemem_dspy.errors import EmbedderMismatch, MemoryStoreError
from agemem_dspy.memory.cached_embedder import CachedEmbedder
from agemem_dspy.memory.embedder_names import as_embedder
from agemem_dspy.memory.folder import RETRIEVED, lock_folder
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.point_store import in_chunks
from agemem_dspy.types import Embedder

if TYPE_CHECKING:
    import dspy

_BATCH = 128  # texts that are embedded in one call
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of linux/fcntl.h and linux/fs.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Reembedding:
    """What `reembed` did: the names of the models, how many users and entries there were, deleted ones too."""

    former: str
    name: str
    users: int
    entries: int


class _FormerModel:
    """Stands for the model that filled a store, which need not be there any more: it has a name and embeds nothing."""

    def __init__(self, name: str, dimension: int) -> None:
        self.name, self.dimension = name, dimension

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Refuse: the store is open to be read.

        Raises:
            MemoryStoreError: always.
        """
        raise MemoryStoreError(f"The model {self.name!r} is not loaded: the store was opened to be read.")


def reembed(
    folder: str | os.PathLike[str],
    embedder: Embedder | dspy.Embedder | str,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Reembedding | None:
    """Make the vectors of all users' memories anew with another model; return None where it is that one already.

    Args:
        folder: of the memories.
        embedder: as for `LongTermMemory.open`.
        progress: called with how many entries are done, and how many there are.

    Raises:
        StoreLocked: somebody has the folder open.
        MemoryStoreError: there is no such folder, the embedder failed, or the folder cannot be replaced.
    """
    place = Path(os.path.realpath(Path(folder).expanduser()))
    wanted = CachedEmbedder(as_embedder(embedder), max_entries=_BATCH)
    beside = folder_beside(place, wanted)
    if _aside(place).is_dir():  # an exchange in steps was killed
        if place.exists():
            raise MemoryStoreError(
                f"{_aside(place)} was left when the folders were exchanged. Look which of it and {place} has the "
                f"memories, put that at {place}, and remove the other."
            )
        _aside(place).rename(place)
    if not place.is_dir():
        raise MemoryStoreError(f"There is no memory folder {str(place)!r} to re-embed.")
    former = _former_model(place, wanted)
    if former is None:
        shutil.rmtree(beside, ignore_errors=True)  # the former store, if a kill came after the exchange
        return None
    with (
        LongTermMemory.open(place, embedder=former) as source,
        LongTermMemory.open(beside, embedder=wanted) as target,
    ):
        users = source.users()
        for gone in set(target.users()) - set(users):
            with target.scoped(gone) as view:
                view.forget_user()
        total = _count(source, users)
        done = 0
        for user in users:
            with source.scoped(user) as old, target.scoped(user) as new:
                for count in _take_over(old, new):
                    done += count
                    if progress is not None:
                        progress(done, total)
    if (place / RETRIEVED).exists():
        shutil.copyfile(place / RETRIEVED, beside / RETRIEVED)
    _replace(place, beside)
    return Reembedding(former=former.name, name=wanted.name, users=len(users), entries=total)


def folder_beside(place: Path, wanted: Embedder) -> Path:
    """Return where the new store is filled: another attempt with the same model finds it, one with another does not."""
    identity = hashlib.sha256(f"{wanted.name}\n{wanted.dimension}".encode()).hexdigest()[:8]
    return place.with_name(f"{place.name}.reembed-{identity}")


def _former_model(place: Path, wanted: Embedder) -> _FormerModel | None:
    """Return what stands for the model of a folder, None if it is the wanted one."""
    try:
        LongTermMemory.open(place, embedder=wanted).close()
    except EmbedderMismatch as error:
        if error.name is None or error.dimension is None:
            raise
        return _FormerModel(error.name, error.dimension)
    return None


def _count(source: LongTermMemory, users: Sequence[str]) -> int:
    total = 0
    for user in users:
        with source.scoped(user) as view:
            total += sum(1 for _ in view.entries())
    return total


def _take_over(old: LongTermMemory, new: LongTermMemory) -> Iterator[int]:
    """Insert one user's entries that are missing, in order; yield how many are there more after each batch.

    Raises:
        MemoryStoreError: an entry could not be embedded or written, or did not come out as it went in.
    """
    there = _taken_over(old, new)
    yield there
    for batch in in_chunks(islice(old.entries(), there, None), _BATCH):
        new.embedder.embed([entry.versions[-1].content for entry in batch])  # one call; `insert` finds them cached
        for entry in batch:
            new.insert(
                entry.id, entry.versions, entry.memory_type, agent_id=entry.agent_id, session_id=entry.session_id
            )
        yield len(batch)
    if any(one != other for one, other in zip_longest(old.entries(), new.entries())):
        raise MemoryStoreError(
            f"The memories of {old.user_id!r} did not come out as they went in; the folder was left as it was."
        )


def _taken_over(old: LongTermMemory, new: LongTermMemory) -> int:
    """Return how many entries an earlier try has inserted; none, and they are removed, if the folder was used since."""
    count, entries = 0, old.entries()
    for there in new.entries():
        if there != next(entries, None):
            new.forget_user()
            return 0
        count += 1
    return count


def _replace(place: Path, beside: Path) -> None:
    """Put the new store in the place of the former one, and remove that.

    Raises:
        StoreLocked: somebody has opened the folder meanwhile; it was left as it is.
        MemoryStoreError: it cannot be replaced.
    """
    lock = lock_folder(place)
    try:
        _exchange(place, beside)
        if os.name == "posix":  # the names must be on disk before the former store goes
            descriptor = os.open(place.parent, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        shutil.rmtree(beside)
    except OSError as error:
        raise MemoryStoreError(
            f"The folder {place} cannot be replaced or cleared away: {error}. Look which of it and {beside} is the new "
            "one (its agemem.json names the model), and put that in its place."
        ) from error
    finally:
        lock.release()


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders: in one step where the system can (Linux), else in three."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "renameat2"):
            names = os.fsencode(one), os.fsencode(other)
            if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
                return
    one.rename(_aside(one))
    other.rename(one)
    _aside(one).rename(other)


def _aside(place: Path) -> Path:
    return place.with_name(f"{place.name}.before-reembed")
