"""What happens to a memory folder: killed writers, full disks, damaged files, failing parts, and many threads at once.

`python benchmarks/memory_faults.py` makes the long runs: a hundred kills, and a hundred thousand entries under threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agemem_dspy.errors import MemoryNotFound, MemoryStoreError, StoreLocked
from agemem_dspy.memory import CachedEmbedder, HashEmbedder, LongTermMemory, NewMemory
from agemem_dspy.memory.checks import SEARCH_MODES
from agemem_dspy.memory.edge_points import FLUSH_AFTER_POINTS, EdgePoints
from agemem_dspy.memory.point_store import CHUNK, Point
from agemem_dspy.memory.points import payload_of
from agemem_dspy.memory.qdrant import QdrantMemory
from agemem_dspy.memory.scope import Scope
from agemem_dspy.types import Version

EMBEDDER = HashEmbedder(32)
ANA = Scope(user_id="ana")


def opened(folder: Path) -> LongTermMemory:
    return LongTermMemory.open(folder, user_id="ana", embedder=EMBEDDER)


def in_other_process(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


WRITER = """
import sys
from agemem_dspy.memory.checks import SEARCH_MODES
from agemem_dspy.memory import CachedEmbedder, HashEmbedder, LongTermMemory, NewMemory
store = LongTermMemory.open(sys.argv[1], user_id="ana", embedder=HashEmbedder(32))
first = int(sys.argv[2])
print("open", flush=True)
for number in range(first, first + 10**6):
    memory = store.add(f"fact {number}", {"number": number})
    print("added", memory.id, memory.content, flush=True)
    if number % 3 == 0:
        store.update(memory.id, f"fact {number}, corrected")
        print("updated", memory.id, f"fact {number}, corrected", flush=True)
    if number % 5 == 0:
        store.delete(memory.id)
        print("deleted", memory.id, flush=True)
    if number % 7 == 0:
        for one in store.add_many([NewMemory(content=f"fact {number} part {part}") for part in "abcdefghijklmnopqrst"]):
            print("added", one.id, one.content, flush=True)
"""


def test_what_was_acknowledged_outlives_a_killed_writer(tmp_path: Path) -> None:
    """After each kill every acknowledged change is there, and of the one that was being made all or nothing."""
    folder, wanted, timing = tmp_path / "memories", dict[str, str | None](), random.Random(0)
    for kill in range(5):
        process = in_other_process(WRITER, folder, 1000 * kill)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        time.sleep(timing.uniform(0.0, 0.4))
        process.kill()
        for line in process.communicate()[0].splitlines(keepends=True):
            if line.endswith("\n"):  # else the line itself was cut
                change, id, *content = line.rstrip("\n").split(" ", 2)
                wanted[id] = None if change == "deleted" else content[0]
        with opened(folder) as store:
            found = {memory.id: memory.content for memory in store.all()}
            assert store.count() == len(found)
            unsaid = [id for id, content in wanted.items() if found.get(id) != content]
            new = [content for id, content in found.items() if id not in wanted]
            assert len(unsaid) + bool(new) <= 1  # the one change that was made and not said any more
            assert all(store.history(id)[-1].change in ("update", "delete") for id in unsaid)
            assert len({content.partition(" part ")[0] for content in new}) <= 1
            for id, content in found.items():  # whole: with its history, by meaning and by words
                assert store.history(id)[-1].content == content
            for id in timing.sample(sorted(found), min(10, len(found))):
                for mode in SEARCH_MODES:
                    assert store.search(found[id], top_k=1, mode=mode)[0].score == pytest.approx(1.0, abs=1e-4)
            wanted = {id: found.get(id) for id in wanted} | found


def test_eight_threads_lose_nothing(tmp_path: Path) -> None:
    """Each thread adds, changes, deletes, reads and searches; at the end there is what each of them wrote last."""
    share = 40
    with opened(tmp_path) as store:
        start = threading.Barrier(8)

        def work(worker: int) -> dict[str, str]:
            mine: dict[str, str] = {}
            choice = random.Random(worker)
            start.wait()
            with store.scoped(f"user {worker % 4}") as view:
                while len(mine) < share:
                    batch = [NewMemory(content=f"{worker} says {len(mine) + number}") for number in range(4)]
                    mine |= {memory.id: memory.content for memory in view.add_many(batch)}
                    id = choice.choice(list(mine))
                    mine[id] = view.update(id, f"{mine[id]} again").content
                    if choice.random() < 0.2:
                        gone = next(reversed(mine))
                        view.delete(gone)
                        del mine[gone]
                    assert view.get(next(iter(mine))).content == mine[next(iter(mine))]
                    assert view.search(f"{worker} says", top_k=3)
                    assert view.count() >= len(mine)
            return mine

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(work, range(8)))
    with opened(tmp_path) as store:
        for user in range(4):
            wanted = results[user] | results[user + 4]
            with store.scoped(f"user {user}") as view:
                assert {memory.id: memory.content for memory in view.all()} == wanted


def test_a_second_process_gets_one_error_that_names_the_way_out(tmp_path: Path) -> None:
    code = """
import sys
from agemem_dspy.errors import StoreLocked
from agemem_dspy.memory.checks import SEARCH_MODES
from agemem_dspy.memory import CachedEmbedder, HashEmbedder, LongTermMemory
try:
    LongTermMemory.open(sys.argv[1], embedder=HashEmbedder(32))
except StoreLocked as error:
    print(error)
"""
    with opened(tmp_path) as store:
        memory = store.add("a fact")
        assert "LongTermMemory.open('http://localhost:6333')" in in_other_process(code, tmp_path).communicate()[0]
        assert store.get(memory.id) == memory


def test_a_fork_of_the_process_is_told_to_open_its_own(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.add("a fact")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover (another process)
            try:
                store.count()
            except MemoryStoreError as error:
                os.write(writing, str(error).encode())
            with contextlib.suppress(StoreLocked):
                opened(tmp_path)
                os.write(writing, b"opened twice")
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            message = pipe.read()
        assert "before this process was forked" in message
        assert "opened twice" not in message
        assert store.count() == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 120 MB, where this process may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", disk], check=False).returncode
    ):
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_is_an_error_and_keeps_what_was_written(small_disk: Path) -> None:
    with opened(small_disk / "memories") as store:
        kept = store.add("kept")
        (small_disk / "filler").write_bytes(b"x" * 50 * 2**20)
        for change in (lambda: store.add("more"), lambda: store.update(kept.id, "more"), lambda: store.delete(kept.id)):
            with pytest.raises(MemoryStoreError, match=r"No room|no room.*free disk space\. Nothing was changed"):
                change()
        assert store.all() == [kept]
        (small_disk / "filler").unlink()
        second = store.add("there is room again")
        (small_disk / "filler").write_bytes(b"x" * 50 * 2**20)
    (small_disk / "filler").unlink()
    with opened(small_disk / "memories") as store:
        assert store.all() == [kept, second]


NO_LARGE_FILES = """
import resource, signal, sys
from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory.checks import SEARCH_MODES
from agemem_dspy.memory import CachedEmbedder, HashEmbedder, LongTermMemory
store = LongTermMemory.open(sys.argv[1], user_id="ana", embedder=HashEmbedder(32))
kept = store.add("kept")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
added = [kept.id]
for attempt in range(2):
    try:
        for number in range(100):
            added.append(store.add(f"fact {number}", {"note": "x" * 10**6}).id)
    except MemoryStoreError as error:
        print(error)
assert store.get(kept.id) == kept and store.count() == len(added)
print(*added, flush=True)
"""


def test_a_file_that_cannot_grow_is_an_error_and_keeps_what_was_written(tmp_path: Path) -> None:
    """The engine itself fails here, in the midst of a change: what it had acknowledged is there, and no more."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    process = in_other_process(NO_LARGE_FILES, tmp_path)
    first, second, ids = process.communicate()[0].splitlines()
    assert "free disk space" in first
    assert "takes no more changes" in second
    with opened(tmp_path) as store:
        assert [memory.id for memory in store.all()] == ids.split()
        store.add("and it can be written again")


def test_a_folder_that_cannot_be_written_is_an_error(small_disk: Path) -> None:
    with opened(small_disk / "memories") as store:
        kept = store.add("kept")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(MemoryStoreError, match=r"Read-only file system.*Choose a folder that can be written"):
        opened(small_disk / "memories")
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    with opened(small_disk / "memories") as store:
        assert store.all() == [kept]


def copied(folder: Path, copy: Path) -> Path:
    """Copy a folder without its files' holes, which are most of them."""
    for path in sorted(folder.rglob("*")):
        there = copy / path.relative_to(folder)
        if path.is_dir():
            there.mkdir(parents=True)
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as old, there.open("wb") as new, contextlib.suppress(OSError):  # there is no more data
            new.truncate(path.stat().st_size)
            end = 0
            while True:
                start = os.lseek(old.fileno(), end, os.SEEK_DATA)
                end = os.lseek(old.fileno(), start, os.SEEK_HOLE)
                os.pwrite(new.fileno(), os.pread(old.fileno(), end - start, start), start)
    return copy


READER = """
import sys
from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory import CachedEmbedder, HashEmbedder, LongTermMemory
for folder in sys.argv[1:]:
    try:
        with LongTermMemory.open(folder, user_id="ana", embedder=HashEmbedder(32)) as store:
            found = store.all()
            assert store.count() == len(found) and store.search("fact 3")
            print(*(memory.content for memory in found), sep=", ", flush=True)
    except MemoryStoreError as error:
        print("refused:", " ".join(str(error).split()), flush=True)
"""


def damage(path: Path, how: str) -> None:
    head = min(path.stat().st_size, 4096)
    if how == "removed":
        path.unlink()
    elif how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        with path.open("r+b") as file:
            file.write(bytes(head) if how == "zeroed" else random.Random(0).randbytes(head))


def test_damaged_files_are_an_error_or_harm_nothing(tmp_path: Path) -> None:
    """No crash and no silent loss: all entries are read, or an error says what to do."""
    with opened(tmp_path / "whole") as store:
        for number in range(12):
            store.add(f"fact {number}")
    names = ("agemem.json", "edge_config.json", "mutable_id_tracker.mappings", "page_0.dat")
    assert all(any(path.stat().st_size for path in (tmp_path / "whole").rglob(name)) for name in names)
    cases = [(name, how) for name in names for how in ("cut", "zeroed", "garbled", "removed")]
    for number, (name, how) in enumerate(cases):
        copy = copied(tmp_path / "whole", tmp_path / str(number))
        for path in [path for path in copy.rglob(name) if path.stat().st_size]:
            damage(path, how)
    process = in_other_process(READER, *(tmp_path / str(number) for number in range(len(cases))))
    lines = process.communicate()[0].splitlines()
    assert process.returncode == 0, cases[len(lines)]
    everything = ", ".join(f"fact {number}" for number in range(12))
    ways = ("ut back a copy", "delete the file", "Look at")
    for case, line in zip(cases, lines, strict=True):
        assert line == everything or (line.startswith("refused:") and any(way in line for way in ways)), case
    assert sum(line != everything for line in lines) > len(lines) // 4


class Failing(HashEmbedder):
    """Fails on its call number `at`, and on no other."""

    def __init__(self) -> None:
        super().__init__(32)
        self.calls, self.at = 0, 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls += 1
        if self.calls == self.at:
            raise RuntimeError("out of memory")
        return super().embed(texts)


CHANGES: dict[str, Callable[[LongTermMemory, str], Any]] = {
    "add": lambda store, id: store.add("new"),
    "add_many": lambda store, id: store.add_many([NewMemory(content=f"new {number}") for number in range(1200)]),
    "insert": lambda store, id: store.insert("1b671a64-40d5-491e-99b0-da01ff1f3341", store.history(id)),
    "update": lambda store, id: store.update(id, "changed"),
    "delete": lambda store, id: store.delete(id),
    "undo": lambda store, id: store.undo(id),
    "purge": lambda store, id: store.purge(id),
    "purge_expired": lambda store, id: store.purge_expired(),
    "forget_user": lambda store, id: store.forget_user(),
}
OPERATIONS = ("scroll", "fetch", "count", "has", "rank", "insert", "replace", "overwrite", "delete")


class Flaky:
    """Points that fail at their call number `at`, and at no other."""

    def __init__(self, points: Any) -> None:
        self._points, self.calls, self.at = points, 0, 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._points, name)
        return self._counted(found) if name in OPERATIONS else found

    def _counted(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                raise MemoryStoreError("the engine failed")
            return operation(*arguments)

        return call


@pytest.mark.parametrize("change", CHANGES)
def test_a_part_that_fails_at_any_call_leaves_no_half_change(tmp_path: Path, change: str) -> None:
    """The embedder, then the engine, fail at each of their calls in turn: nothing has changed; then it is done."""
    embedder = Failing()
    with QdrantMemory(tmp_path, scope=ANA, embedder=embedder) as store:
        over = store.add("over", expires_at="2001-01-31T12:00:00+00:00")
        memory = store.add("old", {"k": 1})
        store.update(memory.id, "older")
        flaky: Any = Flaky(store._connection.points)
        store._connection._points = flaky

        def state() -> list[Any]:
            one: list[Any] = [store.all(), store.removed()]
            for id in (memory.id, over.id):
                with contextlib.suppress(MemoryNotFound):
                    one.append(store.history(id))
            return one

        before = state()
        for part in (embedder, flaky):
            at = 0
            while True:
                at += 1
                part.calls, part.at = 0, at
                try:
                    CHANGES[change](store, memory.id)
                except MemoryStoreError:
                    part.at = 0
                    assert state() == before
                else:
                    break  # it needs fewer calls
            part.at = 0
            after = state()
            assert after != before
            before = after
            if change in ("delete", "purge", "forget_user", "insert", "purge_expired"):
                break
        store._connection._points = flaky._points
    with QdrantMemory(tmp_path, scope=ANA, embedder=embedder) as store:
        assert state_of(store) == after[:2]


def state_of(store: LongTermMemory) -> list[Any]:
    return [store.all(), store.removed()]


@pytest.mark.parametrize("where", [":memory:", "folder"])
def test_a_batch_that_fails_in_its_midst_is_taken_back(tmp_path: Path, where: str) -> None:
    with QdrantMemory(tmp_path if where == "folder" else where, scope=ANA, embedder=EMBEDDER) as store:
        before = store.add("before")

        def points() -> Iterator[Point]:
            for number in range(CHUNK + 1):
                payload = payload_of(ANA, "general", number, [Version(change="add", content="x")])
                yield Point(str(uuid.uuid4()), payload, EMBEDDER.embed(["x"])[0].tolist(), {1: 1.0})
            raise MemoryStoreError("no more")

        with pytest.raises(MemoryStoreError, match="no more"):
            store._connection.points.insert(points())
        assert store.all() == [before]
        assert store.add("after") == store.all()[1]


def test_what_was_written_since_the_last_flush_is_flushed_in_time(tmp_path: Path) -> None:
    """A power failure takes no more than the last seconds: the engine flushes while nobody asks it to."""
    with QdrantMemory(tmp_path, scope=ANA, embedder=CachedEmbedder(EMBEDDER)) as store:
        points = store._connection.points
        assert isinstance(points, EdgePoints)
        store.add_many([NewMemory(content="the same fact")] * FLUSH_AFTER_POINTS)
        deadline = time.monotonic() + 30
        while points._unflushed and time.monotonic() < deadline:
            time.sleep(0.01)
        assert points._unflushed == 0


def test_a_folder_in_a_former_layout_names_the_way_out(tmp_path: Path) -> None:
    for manifest in (True, False):
        folder = tmp_path / str(manifest)
        folder.mkdir()
        (folder / "meta.json").write_text("{}")
        if manifest:
            former = {"schema_version": 2, "embedder": {"name": EMBEDDER.name, "dimension": 32}}
            (folder / "agemem.json").write_text(json.dumps(former))
        with pytest.raises(MemoryStoreError, match=r"layout 2, this version reads 3: install .* export .* import"):
            opened(folder)


def test_signals_are_not_swallowed(tmp_path: Path) -> None:
    """Ctrl-C in a writer is a KeyboardInterrupt, and the folder is let go."""
    process = in_other_process(WRITER, tmp_path, 0)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode in (-signal.SIGINT, 1)
    with opened(tmp_path) as store:
        assert store.count() > 0
