"""Any model of sentence-transformers: torch, on a GPU where there is one."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence
from typing import Any

from agemem_dspy.errors import MissingDependency, ModelError
from agemem_dspy.memory.embedder import BatchedEmbedder

INSTALL = "pip install 'agemem-dspy[sentence-transformers]'"


class SentenceTransformerEmbedder(BatchedEmbedder):
    """A sentence-transformers model, by default all-MiniLM-L6-v2 (384 dimensions, English, 91 MB)."""

    def __init__(
        self,
        model: str | os.PathLike[str] = "all-MiniLM-L6-v2",
        *,
        name: str | None = None,
        device: str | None = None,
        batch_size: int = 32,
    ) -> None:
        """Load the model.

        Args:
            model: its name on the Hugging Face hub, or a folder.
            name: by which a store knows the model; "sentence-transformers/" and `model` when left out.
            device: such as "cpu" or "cuda:0"; the library's choice when left out.
            batch_size: texts in one run of the model.

        Raises:
            MissingDependency: sentence-transformers is not installed.
            ModelError: the model cannot be found, fetched or read.
            ConfigurationError: `batch_size` is not positive.
        """
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingDependency(
                f"SentenceTransformerEmbedder needs the package sentence-transformers: {INSTALL}"
            ) from error
        self.model, self.device = os.fspath(model), device
        try:
            self._model = SentenceTransformer(self.model, device=device)
            dimension = self._model.get_embedding_dimension()
        except Exception as error:  # whatever the hub, the disk, torch or sentence-transformers find wrong
            raise ModelError(
                f"sentence-transformers cannot load {self.model!r}: {str(error).rstrip('.')}. Give the name of a model "
                "on the Hugging Face hub, or without a network a folder that SentenceTransformer.save wrote."
            ) from error
        super().__init__(name or f"sentence-transformers/{self.model}", dimension, batch_size)
        self._lock = threading.Lock()  # its tokenizer cannot be used by two threads at once

    def _embed_batch(self, texts: Sequence[str]) -> Any:
        with self._lock:
            return self._model.encode(texts, batch_size=len(texts), show_progress_bar=False, convert_to_numpy=True)

    def __reduce__(self) -> tuple[Any, ...]:
        remade = functools.partial(
            SentenceTransformerEmbedder, self.model, name=self.name, device=self.device, batch_size=self.batch_size
        )
        return remade, ()
