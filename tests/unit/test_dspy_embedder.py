"""`dspy.Embedder` and litellm's models: over a real socket, with what goes wrong there."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from contracts import EmbedderContract
from fakes_openai import DROP, KEY, MODEL, EmbeddingServer

from agemem_dspy import AgeMemAgent, RetrieveOnlyAgent, load
from agemem_dspy.errors import ConfigurationError, MemoryStoreError
from agemem_dspy.memory import CachedEmbedder, DSPyEmbedder, HashEmbedder, LongTermMemory, as_embedder, embedder_names

NAME = f"openai/{MODEL}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingServer]:
    with EmbeddingServer() as listening:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", listening.url)
        yield listening


@pytest.fixture
def hosted(server: EmbeddingServer) -> DSPyEmbedder:
    """A hosted model that was not asked yet."""
    return DSPyEmbedder(NAME, dimension=server.dimension)


def tripled(texts: Sequence[str]) -> list[list[float]]:
    """A user's function: vectors of length 3 as lists."""
    rows: list[list[float]] = (3 * HashEmbedder(64).embed(texts)).tolist()
    return rows


class TestHosted(EmbedderContract):
    @pytest.fixture
    def embedder(self, server: EmbeddingServer) -> DSPyEmbedder:
        return DSPyEmbedder(NAME, batch_size=5)


class TestFunction(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> DSPyEmbedder:
        return DSPyEmbedder(dspy.Embedder(tripled), name="tripled", batch_size=5)


def test_the_dimension_is_found_by_one_call_or_given(server: EmbeddingServer) -> None:
    assert DSPyEmbedder(NAME).dimension == 256
    assert len(server.requests) == 1
    assert DSPyEmbedder(NAME, dimension=256).dimension == 256
    assert len(server.requests) == 1
    small = DSPyEmbedder(dspy.Embedder(NAME, dimensions=64))
    assert (small.name, small.dimension) == (NAME, 64)


def test_texts_are_sent_once_in_batches(server: EmbeddingServer) -> None:
    embedder = DSPyEmbedder(NAME, dimension=256, batch_size=3)
    texts = ["a", "bb", "a", "ccc", "dddd", "bb"]
    rows = embedder.embed(texts)
    assert server.requests == [["a", "bb", "ccc"], ["dddd"]]
    np.testing.assert_allclose(rows, HashEmbedder().embed(texts), atol=1e-6)
    assert embedder.embed([]).shape == (0, 256)
    assert len(server.requests) == 2


def test_dspys_cache_on_disk_is_passed_by(server: EmbeddingServer, hosted: DSPyEmbedder) -> None:
    for _ in range(2):
        hosted.embed(["what was forgotten must not be there"])
    assert len(server.requests) == 2


@pytest.mark.parametrize("failures", [[500], [503, 500], [DROP], [DROP, 502, 500]])
def test_a_lost_connection_and_a_failing_server_are_tried_again(
    server: EmbeddingServer, hosted: DSPyEmbedder, failures: list[int]
) -> None:
    server.failures = list(failures)
    np.testing.assert_allclose(hosted.embed(["tea"]), HashEmbedder().embed(["tea"]), atol=1e-6)
    assert len(server.requests) == len(failures) + 1


def test_a_server_that_stays_down_is_an_error(server: EmbeddingServer, hosted: DSPyEmbedder) -> None:
    server.failures = [500] * 50
    with pytest.raises(MemoryStoreError, match=f"'{NAME}' failed on 2 texts.*failing with 500"):
        hosted.embed(["tea", "coffee"])
    assert len(server.requests) == 6  # three times, and within each OpenAI's client once more


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_cannot_succeed_is_asked_once(server: EmbeddingServer, hosted: DSPyEmbedder, status: int) -> None:
    server.failures = [status] * 50
    with pytest.raises(MemoryStoreError, match=f"failing with {status} as told"):
        hosted.embed(["tea"])
    assert len(server.requests) == 1


def test_a_functions_connection_is_tried_again_and_its_mistakes_are_not() -> None:
    def flaky(texts: list[str]) -> Any:
        asked.append(texts)
        if len(asked) < 3:
            raise problem
        return tripled(texts)

    embedder = DSPyEmbedder(dspy.Embedder(flaky), name="flaky", dimension=64)
    asked: list[list[str]] = []
    problem: Exception = ConnectionResetError("gone")
    assert embedder.embed(["tea"]).shape == (1, 64)
    asked, problem = [], ZeroDivisionError("ours")
    with pytest.raises(MemoryStoreError, match="'flaky' failed on 1 texts: ZeroDivisionError"):
        embedder.embed(["tea"])
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, 0.0]], "vectors of 2 dimensions instead of 256: the model behind this name is not the one it was"),
        ([[float("nan")] * 256], "NaN or infinity for 'tea'"),
        ([[0.0] * 256], "nothing but zeros for 'tea'"),
        ([[1.0] * 256] * 2, r"the shape \(2, 256\) instead of \(1, 256\)"),
        ([], "shape"),
    ],
)
def test_an_answer_that_is_no_embedding_is_named(
    server: EmbeddingServer, hosted: DSPyEmbedder, rows: list[list[float]], message: str
) -> None:
    server.rows = rows
    with pytest.raises(MemoryStoreError, match=f"'{NAME}' returned .*{message}"):
        hosted.embed(["tea"])


def test_a_model_that_changes_between_two_batches_is_named(server: EmbeddingServer) -> None:
    embedder = DSPyEmbedder(NAME, batch_size=1)
    embedder.embed(["tea"])
    server.dimension = 128
    with pytest.raises(MemoryStoreError, match="128 dimensions instead of 256"):
        embedder.embed(["tea", "coffee"])


def test_a_function_needs_a_name() -> None:
    with pytest.raises(ConfigurationError, match="name="):
        DSPyEmbedder(dspy.Embedder(tripled))
    with pytest.raises(ConfigurationError, match="name="):
        as_embedder(dspy.Embedder(tripled))
    with pytest.raises(ConfigurationError, match="needs a name"):
        DSPyEmbedder(dspy.Embedder(tripled), name=" ")
    for option in ("dimension", "batch_size"):
        with pytest.raises(ConfigurationError, match=option):
            DSPyEmbedder(dspy.Embedder(tripled), name="tripled", **{option: 0})


def test_a_function_that_returns_no_rows_has_no_dimension() -> None:
    with pytest.raises(MemoryStoreError, match="'empty' returned the shape"):
        DSPyEmbedder(dspy.Embedder(lambda texts: []), name="empty")


def test_it_travels_to_other_processes() -> None:
    twin = pickle.loads(pickle.dumps(DSPyEmbedder(dspy.Embedder(tripled), name="tripled", batch_size=3)))
    assert (twin.name, twin.dimension, twin.batch_size) == ("tripled", 64, 3)


def test_a_store_takes_a_name_or_a_dspy_embedder(server: EmbeddingServer) -> None:
    for given in (NAME, dspy.Embedder(NAME)):
        with LongTermMemory.open(":memory:", embedder=given) as store:
            store.add("Ana likes tea")
            store.add("The flight leaves at nine")
            [found] = store.search("Ana likes tea", top_k=1, mode="dense")
            assert found.score == pytest.approx(1.0, abs=1e-5)
            assert isinstance(store.embedder, CachedEmbedder)
            assert store.embedder.name == NAME
    assert as_embedder(NAME) is as_embedder(NAME)


def test_a_program_with_an_embedder_by_name_comes_back_with_it(
    server: EmbeddingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder_names, "_shared_ones", {})
    AgeMemAgent("question -> answer", memory=LongTermMemory.open(":memory:", embedder=NAME)).save(tmp_path / "agent")
    RetrieveOnlyAgent("question -> answer", embedder=as_embedder(NAME)).save(tmp_path / "rag")
    monkeypatch.setattr(embedder_names, "_shared_ones", {})  # as in a new process
    loaded = load(tmp_path / "agent")
    assert loaded.memory.embedder is load(tmp_path / "rag").embedder is as_embedder(NAME)
    own = DSPyEmbedder(dspy.Embedder(NAME, dimensions=64))  # has options that its name does not tell
    AgeMemAgent("question -> answer", memory=LongTermMemory.open(":memory:", embedder=own)).save(tmp_path / "own")
    with pytest.raises(ConfigurationError, match="which only you can make"):
        load(tmp_path / "own")


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(MemoryStoreError, match="no embedder 'minlm'.*hash-ngram-256.*openai/text-embedding-3-small"):
        as_embedder("minlm")
