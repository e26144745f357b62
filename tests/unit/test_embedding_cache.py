"""Caches of vectors: what they save, what they forget, and what damage on disk costs."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import sqlite3
import stat
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts import EmbedderContract
from fakes import CountingEmbedder
from numpy.typing import NDArray

from agemem_dspy.errors import ConfigurationError, MemoryStoreError
from agemem_dspy.memory import CachedEmbedder, EmbeddingCache, HashEmbedder, LongTermMemory
from agemem_dspy.memory.cached_embedder import forget_texts
from agemem_dspy.memory.embedding_cache import FILE

TEXTS = [f"Ana's fact number {number}" for number in range(40)]
HASHED = HashEmbedder(64)


class SlowEmbedder(CountingEmbedder):
    """Waits until it is let go; fails once if told to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()
        self.fail = False

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        failing, self.fail = self.fail, False  # the first to enter
        self.entered.set()
        self.go.wait(30)
        if failing:
            raise RuntimeError("out of memory")
        return super().embed(texts)


class TestCached(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> CachedEmbedder:
        return CachedEmbedder(HashEmbedder(), max_entries=5)


class TestCachedOnDisk(EmbedderContract):
    @pytest.fixture
    def embedder(self, tmp_path: Path) -> CachedEmbedder:
        return CachedEmbedder(HashEmbedder(), max_entries=2, disk=EmbeddingCache(tmp_path))


def rows_of(texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    return dict(zip(texts, HASHED.embed(texts), strict=True))


def filled(folder: Path) -> EmbeddingCache:
    """A cache with the vectors of `TEXTS`."""
    cache = EmbeddingCache(folder)
    cache.put("hash", 64, rows_of(TEXTS))
    return cache


def bytes_under(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_it_asks_once_for_each_text_in_one_call() -> None:
    inner = CountingEmbedder()
    cached = CachedEmbedder(inner)
    cached.embed(["a", "b", "a"])
    rows = cached.embed(["b", "c", "a", "d", "c"])
    assert inner.batches == [["a", "b"], ["c", "d"]]
    assert (cached.hits, cached.misses) == (4, 4)
    np.testing.assert_array_equal(rows, HashEmbedder().embed(["b", "c", "a", "d", "c"]))


def test_it_forgets_what_was_not_used_longest() -> None:
    inner = CountingEmbedder()
    cached = CachedEmbedder(inner, max_entries=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        cached.embed([text])
    assert [asked[0] for asked in inner.batches] == ["a", "b", "c", "b"]


def test_a_call_larger_than_the_cache_is_still_right() -> None:
    np.testing.assert_array_equal(CachedEmbedder(HASHED, 2).embed(TEXTS), HASHED.embed(TEXTS))


def test_what_another_thread_is_embedding_is_waited_for() -> None:
    inner = SlowEmbedder()
    cached = CachedEmbedder(inner)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(cached.embed, ["a", "b"])
        assert inner.entered.wait(30)
        others = [pool.submit(cached.embed, ["b", "a"]) for _ in range(2)]
        inner.go.set()
        for future in (first, *others):
            assert future.result(30).shape == (2, 256)
    assert inner.batches == [["a", "b"]]


def test_when_the_other_thread_fails_each_tries_for_itself() -> None:
    inner = SlowEmbedder()
    inner.fail = True
    cached = CachedEmbedder(inner)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cached.embed, ["a"])
        assert inner.entered.wait(30)
        second = pool.submit(cached.embed, ["a", "c"])
        inner.go.set()
        with pytest.raises(MemoryStoreError, match="out of memory"):
            first.result(30)
        np.testing.assert_array_equal(second.result(30), HashEmbedder().embed(["a", "c"]))
    assert sorted(text for batch in inner.batches for text in batch) == ["a", "c"]


def test_what_is_forgotten_while_it_is_embedded_is_not_kept(tmp_path: Path) -> None:
    inner = SlowEmbedder()
    cached = CachedEmbedder(inner, disk=EmbeddingCache(tmp_path))
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(cached.embed, ["secret", "plain"])
        assert inner.entered.wait(30)
        cached.forget(["secret"])
        inner.go.set()
        assert future.result(30).shape == (2, 256)
    cached.embed(["secret", "plain"])
    assert inner.batches == [["secret", "plain"], ["secret"]]


def test_forgetting_needs_no_cache() -> None:
    forget_texts(HashEmbedder(), ["a"])
    inner = CountingEmbedder()
    cached = CachedEmbedder(inner)
    cached.embed(["a", "b"])
    forget_texts(cached, ["a", "never seen"])
    cached.embed(["a", "b"])
    assert inner.batches == [["a", "b"], ["a"]]


def test_another_process_finds_the_vectors(tmp_path: Path) -> None:
    first = CountingEmbedder()
    expected = CachedEmbedder(first, disk=EmbeddingCache(tmp_path)).embed(TEXTS)
    again = CountingEmbedder()
    cached = CachedEmbedder(again, disk=EmbeddingCache(tmp_path))
    np.testing.assert_array_equal(cached.embed([*TEXTS, "new"])[:-1], expected)
    assert again.batches == [["new"]]
    assert (cached.hits, cached.misses) == (len(TEXTS), 1)


def test_vectors_of_other_models_and_dimensions_are_kept_apart(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    for name, dimension in (("one", 64), ("two", 64), ("one", 32)):
        cache.put(name, dimension, dict(zip(["a"], HashEmbedder(dimension).embed([f"{name}"]), strict=True)))
    for name, dimension in (("one", 64), ("two", 64), ("one", 32)):
        found = cache.get(name, dimension, ["a", "b"])
        assert list(found) == ["a"]
        np.testing.assert_array_equal(found["a"], HashEmbedder(dimension).embed([name])[0])
    cache.forget(["a"])
    assert cache.count() == 0


def test_what_is_forgotten_leaves_no_byte(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    before = bytes_under(tmp_path)
    for text, row in rows_of(TEXTS).items():
        assert row.tobytes() in before
        assert text.encode() not in before
    cache.forget(TEXTS[:30])
    after = bytes_under(tmp_path)
    for text, row in rows_of(TEXTS).items():
        assert (row.tobytes() in after) == (text in TEXTS[30:])
    assert set(cache.get("hash", 64, TEXTS)) == set(TEXTS[30:])
    cache.clear()
    assert cache.count() == 0
    assert rows_of(TEXTS)[TEXTS[35]].tobytes() not in bytes_under(tmp_path)


def test_what_a_store_purges_is_gone_from_every_cache(tmp_path: Path) -> None:
    disk = EmbeddingCache(tmp_path / "cache")
    embedder = CachedEmbedder(HashEmbedder(), disk=disk)
    with LongTermMemory.open(tmp_path / "memories", user_id="ana", embedder=embedder) as store:
        changed, hidden, kept = store.add("Ana's secret"), store.add("hidden"), store.add("kept")
        store.update(changed.id, "Ana's new secret")
        store.delete(hidden.id)
        store.add("over", expires_at="2001-01-01T00:00:00Z")
        assert disk.count() == 5
        store.purge(changed.id)
        assert not disk.get(embedder.name, 256, ["Ana's secret", "Ana's new secret"])
        store.purge_expired()
        assert set(disk.get(embedder.name, 256, ["over", "hidden", "kept"])) == {"hidden", "kept"}
        with store.scoped("bob") as bobs:
            bobs.add("Bob's fact")
            store.forget_user()
            misses = embedder.misses
            embedder.embed(["Ana's secret", "Ana's new secret", "hidden", kept.content, "over", "Bob's fact"])
            assert embedder.misses == misses + 5
            disk.forget(["Ana's secret", "Ana's new secret", "hidden", kept.content, "over"])
            assert disk.count() == bobs.count() == 1


def test_a_purge_whose_cache_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    disk = EmbeddingCache(tmp_path / "cache")
    embedder = CachedEmbedder(HashEmbedder(), disk=disk)
    with LongTermMemory.open(":memory:", embedder=embedder) as store:
        kept = store.add("a fact")
        (tmp_path / "cache" / FILE).unlink()
        (tmp_path / "cache" / FILE).mkdir()
        with pytest.raises(MemoryStoreError, match="embedding cache"):
            store.forget_user()
        assert store.all() == [kept]


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_file_is_begun_anew(tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path)
    chance = random.Random(seed)
    path = tmp_path / FILE
    healthy = path.read_bytes()
    damaged = bytearray(healthy)
    if seed < 4:
        damaged = bytearray([healthy[:100], healthy[: len(healthy) // 2], b"not a database " * 99, bytes(4096)][seed])
    else:
        for _ in range(40 * (seed - 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    path.write_bytes(bytes(damaged))
    cache = EmbeddingCache(tmp_path)
    expected = rows_of(TEXTS)
    for text, row in cache.get("hash", 64, TEXTS).items():
        assert float(row @ expected[text]) > 0.9  # a flipped bit of a vector may go unseen, another vector not
    cache.put("hash", 64, expected)
    found = cache.get("hash", 64, TEXTS)
    assert set(found) == set(TEXTS)
    for text in TEXTS:
        np.testing.assert_array_equal(found[text], expected[text])
    if seed < 4:
        [line] = [record.getMessage() for record in caplog.records]
        assert f"The embedding cache {path} was damaged" in line
        assert line.endswith("it begins anew.")


def test_a_file_of_another_layout_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("CREATE TABLE vectors (text TEXT)")
    connection.close()
    assert filled(tmp_path).count() == len(TEXTS)
    assert "another layout" in caplog.text


def test_a_process_sees_that_another_one_has_begun_anew(tmp_path: Path) -> None:
    one, other = filled(tmp_path), EmbeddingCache(tmp_path)
    assert other.count() == len(TEXTS)
    one.clear()
    assert other.count() == 0
    other.put("hash", 64, rows_of(["a"]))
    assert list(one.get("hash", 64, ["a"])) == ["a"]


def test_the_file_stays_below_its_size_and_the_oldest_go(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, max_bytes=2**20)
    embedder = HashEmbedder(256)
    for start in range(0, 3000, 100):
        texts = [f"text {number}" for number in range(start, start + 100)]
        cache.put("hash", 256, dict(zip(texts, embedder.embed(texts), strict=True)))
        assert (tmp_path / FILE).stat().st_size < 1.3 * 2**20
    assert 500 < cache.count() < 1000
    assert list(cache.get("hash", 256, ["text 0", "text 2999"])) == ["text 2999"]


def _fill_share(folder: Path, share: int) -> int:
    cache = EmbeddingCache(folder)
    for text in TEXTS[share::4]:
        cache.put("hash", 64, rows_of([text]))
    cache.get("hash", 64, TEXTS)
    return os.getpid()


def test_processes_share_a_folder(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(_fill_share, [(tmp_path, share) for share in range(4)])
    found = EmbeddingCache(tmp_path).get("hash", 64, TEXTS)
    for text, row in rows_of(TEXTS).items():
        np.testing.assert_array_equal(found[text], row)


def test_threads_share_a_cache(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)

    def work(text: str) -> None:
        cache.put("hash", 64, rows_of([text]))
        np.testing.assert_array_equal(cache.get("hash", 64, [text])[text], rows_of([text])[text])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, TEXTS))
    assert cache.count() == len(TEXTS)


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    filled(tmp_path)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_it_lies_in_the_cache_folder_and_nothing_is_there_unless_asked_for(agemem_home: Path) -> None:
    CachedEmbedder(HashEmbedder()).embed(["a"])
    EmbeddingCache()
    assert not agemem_home.exists()
    CachedEmbedder(HashEmbedder(), disk=EmbeddingCache()).embed(["a"])
    assert (agemem_home / "embeddings" / FILE).exists()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    cache = EmbeddingCache(tmp_path / "file" / "cache")
    for call in (lambda: cache.put("hash", 64, rows_of(["a"])), lambda: cache.get("hash", 64, ["a"]), cache.clear):
        with pytest.raises(MemoryStoreError, match="cannot be used.*AGEMEM_HOME"):
            call()


def test_a_locked_file_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = filled(tmp_path)
    monkeypatch.setattr("agemem_dspy.memory.embedding_cache._WAIT_S", 0.05)
    holder = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    other = EmbeddingCache(tmp_path)
    with pytest.raises(MemoryStoreError, match="locked"):
        other.put("hash", 64, rows_of(["a"]))
    holder.execute("ROLLBACK")
    holder.close()
    other.put("hash", 64, rows_of(["a"]))
    assert cache.count() == len(TEXTS) + 1


def test_it_travels_to_other_processes(tmp_path: Path) -> None:
    cached = CachedEmbedder(HashEmbedder(32), max_entries=7, disk=EmbeddingCache(tmp_path, max_bytes=2**21))
    twin = pickle.loads(pickle.dumps(cached))
    assert (twin.name, twin.max_entries, twin.disk.folder, twin.disk.max_bytes) == (
        "hash-ngram-32", 7, tmp_path, 2**21,
    )  # fmt: skip


@pytest.mark.parametrize("size", [0, -1, 2.5, True, None, 2**19])
def test_sizes_must_make_sense(size: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_bytes"):
        EmbeddingCache(max_bytes=size)
    if size != 2**19:
        with pytest.raises(ConfigurationError, match="max_entries"):
            CachedEmbedder(HashEmbedder(), size)
