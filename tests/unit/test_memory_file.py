"""An export is a stream, and an import that was killed goes on where it stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_memory import InMemoryStore

from agemem_dspy.cli.memory_file import Lacking, read_export, take_over, write_export
from agemem_dspy.errors import DataError
from agemem_dspy.memory import HashEmbedder, LongTermMemory, NewMemory
from agemem_dspy.types import Entry, Version

EMBEDDER = HashEmbedder(64)
COUNT = 2_000
AT = "2026-01-31T12:00:00.000000+00:00"


def filled(folder: Path) -> list[Entry]:
    """Fill a store and return what is in it: some entries changed, some forgotten, some over, two equal."""
    with LongTermMemory.open(folder, user_id="ana", embedder=EMBEDDER) as store:
        fact = NewMemory(content="the same", metadata={"k": 1})
        store.add_many([NewMemory(content=f"fact {number}", metadata={"n": number}) for number in range(COUNT)])
        added = store.add_many([fact, fact, NewMemory(content="over", expires_at=AT)])
        store.update(added[0].id, "the same, corrected", by={"who": "Ana"})
        store.delete(added[1].id)
        with store.scoped("ana", agent_id="planner", session_id="monday") as planner:
            planner.add("the same", {"k": 1})
        return list(store.entries())


def importing(file: Path, where: Path) -> subprocess.Popen[bytes]:
    start = "import sys; from agemem_dspy.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "memory", "import", file, "--user", "ana"]
    return subprocess.Popen(
        [*map(str, command), "--where", str(where), "--embedder", EMBEDDER.name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_an_import_that_was_killed_ends_with_the_same_store(tmp_path: Path) -> None:
    entries, file, there = filled(tmp_path / "here"), tmp_path / "ana.jsonl", tmp_path / "there"
    with LongTermMemory.open(tmp_path / "here", user_id="ana", embedder=EMBEDDER) as store:
        assert write_export(store, file) == len(entries) == COUNT + 4
    process = importing(file, there)
    log = there / "points" / "wal"
    before = time.monotonic()
    while time.monotonic() - before < 60 and process.poll() is None:
        if sum(path.read_bytes().count(b"fact ") for path in log.rglob("*") if path.is_file()) > 200:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    with LongTermMemory.open(there, user_id="ana", embedder=EMBEDDER) as store:
        first = list(store.entries())
        assert 0 < len(first) < len(entries)
        assert first == entries[: len(first)]
    assert importing(file, there).wait() == 0
    with LongTermMemory.open(there, user_id="ana", embedder=EMBEDDER) as store:
        assert list(store.entries()) == entries


def test_what_is_equal_but_of_another_agent_is_not_there(tmp_path: Path) -> None:
    file, store = tmp_path / "ana.jsonl", InMemoryStore(EMBEDDER, "ana", agent_id="planner")
    store.add("the same")
    write_export(store, file)
    assert '"agent_id": "planner", "session_id": null' in file.read_text("utf-8")
    for agent, count in (("planner", 0), (None, 1), ("critic", 1)):
        other = InMemoryStore(EMBEDDER, "ana", agent_id=agent)
        other.add("the same")
        assert len(list(Lacking(other, read_export(file)).among(read_export(file)))) == count


def test_an_export_from_before_there_were_agents_is_the_users(tmp_path: Path) -> None:
    file, store = tmp_path / "ana.jsonl", InMemoryStore(EMBEDDER, "ana")
    file.write_text('{"content": "a fact"}\n{"content": "another", "agent_id": 7}\n', "utf-8")
    rows = read_export(file)
    take_over(store, next(rows))
    assert [(one.content, one.agent_id, one.session_id) for one in store.all()] == [("a fact", None, None)]
    with pytest.raises(DataError, match=":2: The agent_id must be a string, not int"):
        next(rows)


class Endless(InMemoryStore):
    """As many entries as are asked for, made one by one."""

    count_of_them = 2_000

    def entries(self) -> Iterator[Entry]:
        for number in range(self.count_of_them):
            version = Version(change="add", content=f"{number} " + "x" * 16_000, at=AT)
            yield Entry(id=str(uuid.UUID(int=number, version=4)), versions=(version,))


def test_neither_an_export_nor_an_import_is_ever_in_memory_as_a_whole(tmp_path: Path) -> None:
    file, store = tmp_path / "large.jsonl", Endless(EMBEDDER)
    tracemalloc.start()
    try:
        assert write_export(store, file) == store.count_of_them
        lacking = Lacking(store, read_export(file))
        assert list(lacking.among(read_export(file))) == []
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.stat().st_size > 30_000_000
    assert most < 5_000_000
    assert lacking.count == store.count_of_them
