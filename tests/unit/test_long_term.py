"""Long-term memory: the contract on every backend, and what is peculiar to folders and servers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
import pytest
from contracts import LongTermMemoryContract
from fakes_memory import InMemoryStore

from agemem_dspy.errors import EmbedderMismatch, MemoryStoreError, StoreLocked
from agemem_dspy.memory import HashEmbedder, default_embedder
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.points import collection_name
from agemem_dspy.memory.qdrant import QdrantMemory
from agemem_dspy.memory.scope import Scope

EMBEDDER = HashEmbedder()


class TestMemoryBackend(LongTermMemoryContract):
    @pytest.fixture
    def store(self) -> Iterator[LongTermMemory]:
        with LongTermMemory.open(":memory:", user_id="ana", embedder=EMBEDDER) as store:
            yield store


class TestFolderBackend(LongTermMemoryContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[LongTermMemory]:
        with LongTermMemory.open(tmp_path / "memories", user_id="ana", embedder=EMBEDDER) as store:
            yield store


class TestDictionaryBackend(LongTermMemoryContract):
    @pytest.fixture
    def store(self) -> Iterator[LongTermMemory]:
        with InMemoryStore(EMBEDDER, "ana") as store:
            yield store


def in_other_process(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start Python on `code`, talking through pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


HOLD = """
import sys
from agemem_dspy.memory import HashEmbedder, LongTermMemory
store = LongTermMemory.open(sys.argv[1], user_id="ana", embedder=HashEmbedder())
store.add("written by the other process")
print("held", flush=True)
sys.stdin.read()
"""


def test_memory_stores_are_private() -> None:
    with (
        LongTermMemory.open(":memory:", embedder=EMBEDDER) as first,
        LongTermMemory.open(":memory:", embedder=EMBEDDER) as second,
    ):
        first.add("a fact")
        assert second.count() == 0
        assert first.user_id == "default"


def test_opening_and_adding_in_memory_is_cheap() -> None:
    LongTermMemory.open(":memory:", embedder=EMBEDDER).close()
    opened, added = [], []
    for _ in range(5):
        start = time.perf_counter()
        with LongTermMemory.open(":memory:", embedder=EMBEDDER) as store:
            opened.append(time.perf_counter() - start)
            start = time.perf_counter()
            for number in range(20):
                store.add(f"fact {number}")
            added.append((time.perf_counter() - start) / 20)
    assert min(opened) < 0.03  # 0.2 ms when quiet
    assert min(added) < 0.005  # 0.3 ms when quiet


def test_a_folder_outlives_the_store(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "memories"
    with LongTermMemory.open(folder, user_id="ana", embedder=EMBEDDER) as store:
        first = store.add("Ana likes tea", {"topic": "drinks"})
        second = store.add("Ana likes Rome")
        store.delete(store.add("gone").id)
        second = store.update(second.id, "Ana likes Paris")
    with LongTermMemory.open(str(folder), user_id="ana", embedder=EMBEDDER) as store:
        assert store.all() == [first, second]
        third = store.add("Ana likes jazz")
        assert store.all() == [first, second, third]
    with LongTermMemory.open(folder, user_id="bob", embedder=EMBEDDER) as store:
        assert store.all() == []


def test_order_survives_a_clock_that_was_set_back(tmp_path: Path) -> None:
    """The sequence of a reopened folder continues after its greatest number, whatever the clock says."""
    ahead = time.time_ns() + 10**15  # eleven days
    with QdrantMemory(tmp_path, scope=Scope(user_id="ana"), embedder=EMBEDDER) as store:
        store._connection.not_before(ahead)
        store.add("first")
    with QdrantMemory(tmp_path, scope=Scope(user_id="bob"), embedder=EMBEDDER) as store:
        assert store._connection.tick() > ahead + 1
        store.add("second")
        with store.scoped("ana") as anas:
            anas.add("third")
            assert [memory.content for memory in anas.all()] == ["first", "third"]


def test_one_process_may_open_a_folder_twice(tmp_path: Path) -> None:
    first = LongTermMemory.open(tmp_path, user_id="ana", embedder=EMBEDDER)
    second = LongTermMemory.open(f"{tmp_path}/../{tmp_path.name}", user_id="ana", embedder=EMBEDDER)
    memory = first.add("seen by both")
    assert second.all() == [memory]
    first.close()
    assert second.get(memory.id) == memory
    second.close()


def is_held(folder: Path) -> bool:
    """Tell whether anyone, this process included, has the folder open."""
    try:
        with filelock.FileLock(folder / ".lock", blocking=False):
            return False
    except filelock.Timeout:
        return True


def test_a_folder_is_let_go_when_its_last_store_is_closed_or_forgotten(tmp_path: Path) -> None:
    first = LongTermMemory.open(tmp_path, embedder=EMBEDDER)
    second = first.scoped("bob")
    first.close()
    assert is_held(tmp_path)
    assert second.count() == 0
    del second
    assert not is_held(tmp_path)


def test_a_folder_held_by_another_process_is_locked_until_that_dies(tmp_path: Path) -> None:
    process = in_other_process(HOLD, str(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(StoreLocked, match=r"Close it.*http://localhost:6333"):
        LongTermMemory.open(tmp_path, user_id="ana", embedder=EMBEDDER)
    process.kill()
    process.communicate()
    with LongTermMemory.open(tmp_path, user_id="ana", embedder=EMBEDDER) as store:
        assert [memory.content for memory in store.all()] == ["written by the other process"]


@pytest.mark.parametrize("still_open", [True, False])
def test_another_embedding_model_is_refused(tmp_path: Path, still_open: bool) -> None:
    store = LongTermMemory.open(tmp_path, embedder=EMBEDDER)
    memory = store.add("made with 256 buckets")
    if not still_open:
        store.close()
    with pytest.raises(EmbedderMismatch, match=r"'hash-ngram-256' \(256 .*'hash-ngram-64' \(64 "):
        LongTermMemory.open(tmp_path, embedder=HashEmbedder(64))
    assert is_held(tmp_path) == still_open
    with LongTermMemory.open(tmp_path, embedder=EMBEDDER) as again:
        assert again.all() == [memory]
    store.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "damaged"),
        ("[]", "damaged"),
        ('{"schema_version": 1}', "damaged"),
        ('{"schema_version": 99, "embedder": {"name": "hash-ngram-256", "dimension": 256}}', "layout 99"),
    ],
)
def test_a_damaged_or_newer_manifest_is_named(tmp_path: Path, text: str, message: str) -> None:
    with LongTermMemory.open(tmp_path, embedder=EMBEDDER) as store:
        store.add("a fact")
    manifest = tmp_path / "agemem.json"
    assert json.loads(manifest.read_text())["embedder"] == {"name": "hash-ngram-256", "dimension": 256}
    manifest.write_text(text)
    with pytest.raises(MemoryStoreError, match=message):
        LongTermMemory.open(tmp_path, embedder=EMBEDDER)
    manifest.unlink()
    with LongTermMemory.open(tmp_path, embedder=EMBEDDER) as store:
        assert store.count() == 1


def test_a_place_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for where in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(MemoryStoreError, match="folder that can be written"):
            LongTermMemory.open(where, embedder=EMBEDDER)


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(MemoryStoreError, match=f"Cannot reach the Qdrant server at {url}.*Is it running"):
        LongTermMemory.open(url, embedder=EMBEDDER)


def test_one_collection_an_embedding_model() -> None:
    names = {collection_name(HashEmbedder(64)), collection_name(HashEmbedder(128)), collection_name(HashEmbedder(64))}
    assert len(names) == 2
    assert collection_name(HashEmbedder(64)).startswith("agemem-hash-ngram-64-64-")


def test_importing_the_protocol_loads_no_client_and_no_model() -> None:
    code = "import sys, agemem_dspy.memory, agemem_dspy.memory.long_term; print(*sys.modules)"
    loaded = set((in_other_process(code).communicate("")[0]).split())
    assert "agemem_dspy.memory.embedder" in loaded
    assert loaded.isdisjoint({"qdrant_client", "onnxruntime", "tokenizers", "torch", "agemem_dspy.memory.qdrant"})


def test_meaning_is_found_with_the_default_embedder() -> None:
    with LongTermMemory.open(":memory:") as store:
        assert store.embedder is default_embedder()
        store.add("Ana can spend at most 120 euros a night on a hotel.")
        store.add("Ana's sister is called Mara.")
        store.add("On planes Ana sits by the window.")
        assert store.search("What is the budget for accommodation?", top_k=1)[0].content.startswith("Ana can spend")
        assert store.search("Which seat should I book for the flight?", top_k=1)[0].content.startswith("On planes")
