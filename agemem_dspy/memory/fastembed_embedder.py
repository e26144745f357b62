"""Any model of fastembed, Qdrant's own embedding library: ONNX, without torch."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agemem_dspy.errors import MissingDependency, ModelError
from agemem_dspy.memory.embedder import BatchedEmbedder, positive
from agemem_dspy.paths import cache_folder

INSTALL = "pip install 'agemem-dspy[fastembed]'"


class FastEmbedEmbedder(BatchedEmbedder):
    """A model that fastembed knows, by default BAAI/bge-small-en-v1.5 (384 dimensions, English, 67 MB)."""

    def __init__(
        self,
        model: str = "BAAI/bge-small-en-v1.5",
        *,
        folder: str | os.PathLike[str] | None = None,
        name: str | None = None,
        threads: int = 1,
        batch_size: int = 16,
    ) -> None:
        """Load the model.

        Args:
            model: a name that `fastembed.TextEmbedding.list_supported_models()` lists.
            folder: with the files of that model; fetched once into the library's cache folder when left out.
            name: by which a store knows the model; "fastembed/" and the model's name when left out.
            threads: used inside one call.
            batch_size: texts in one run of the model.

        Raises:
            MissingDependency: fastembed is not installed.
            ModelError: fastembed does not know the model, or its files cannot be fetched or read.
            ConfigurationError: a size is not positive.
        """
        try:
            from fastembed import TextEmbedding
        except ImportError as error:
            raise MissingDependency(f"FastEmbedEmbedder needs the package fastembed: {INSTALL}") from error
        self.model, self.folder = model, None if folder is None else Path(folder).expanduser()
        self.threads = positive("threads", threads)
        place: dict[str, Any] = {"specific_model_path": str(self.folder)} if self.folder else {}
        try:
            self._model = TextEmbedding(model, cache_dir=str(cache_folder() / "fastembed"), threads=threads, **place)
            dimension = self._model.embedding_size
        except Exception as error:  # whatever the hub, the disk, onnxruntime or fastembed find wrong
            raise ModelError(
                f"fastembed cannot load {model!r}: {str(error).rstrip('.')}. Give a model that fastembed.TextEmbedding."
                "list_supported_models() names, and without a network folder= with its files."
            ) from error
        super().__init__(name or f"fastembed/{model}", dimension, batch_size)

    def _embed_batch(self, texts: Sequence[str]) -> Any:
        return list(self._model.embed(texts, batch_size=len(texts)))

    def __reduce__(self) -> tuple[Any, ...]:
        remade = functools.partial(
            FastEmbedEmbedder,
            self.model,
            folder=self.folder,
            name=self.name,
            threads=self.threads,
            batch_size=self.batch_size,
        )
        return remade, ()
