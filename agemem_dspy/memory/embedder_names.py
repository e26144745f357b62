"""What `embedder=` and `--embedder` may be: an embedder, a `dspy.Embedder`, or a name that makes one."""

from __future__ import annotations

import re
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory.cached_embedder import CachedEmbedder
from agemem_dspy.memory.embedder import HashEmbedder
from agemem_dspy.types import Embedder

if TYPE_CHECKING:
    import dspy

DEFAULT = "all-MiniLM-L6-v2-int8"
NAMES = (
    f'"{DEFAULT}" (the default), "fastembed/MODEL", "sentence-transformers/MODEL or folder", "hash-ngram-256", '
    'or a name of litellm such as "openai/text-embedding-3-small"'
)
_HASH = re.compile(r"hash-ngram-(\d{1,6})")
_KEPT = 4  # models that are loaded at a time
_lock = threading.Lock()


def default_embedder() -> CachedEmbedder:
    """Return MiniLM behind a cache, the same object for the whole process; the first call loads it (0.3 s).

    Raises:
        MissingDependency: onnxruntime, tokenizers or the model's package is not installed.
    """
    return _shared(DEFAULT)


def as_embedder(given: Embedder | dspy.Embedder | str | None) -> Embedder:
    """Return the embedder that is meant.

    Args:
        given: an embedder, which is returned as it is; a `dspy.Embedder` on a hosted model; None for the default one;
            or the name of one, as in `NAMES`. A named one is loaded once a process and has a cache.

    Raises:
        MemoryStoreError: it is none of these, or a hosted model was asked for its dimension and failed.
        MissingDependency: a package is not installed; the message names the command.
        ModelError: the model cannot be loaded.
    """
    if given is None:
        return default_embedder()
    if isinstance(given, str):
        return _shared(given)
    if isinstance(given, Embedder):
        return given
    import dspy

    if isinstance(given, dspy.Embedder):
        from agemem_dspy.memory.dspy_embedder import DSPyEmbedder

        return CachedEmbedder(DSPyEmbedder(given))
    raise MemoryStoreError(
        f"{given!r} is no embedder: it needs `name`, `dimension` and `embed(texts)`. A name will do too: {NAMES}."
    )


def _shared(name: str) -> CachedEmbedder:
    with _lock:  # lru_cache alone would let two threads load one model
        return _loaded(name)


@lru_cache(maxsize=_KEPT)
def _loaded(name: str) -> CachedEmbedder:
    return CachedEmbedder(_made(name))


def _made(name: str) -> Any:
    if name == DEFAULT:
        from agemem_dspy.memory.minilm import MiniLMEmbedder

        return MiniLMEmbedder()
    if hashed := _HASH.fullmatch(name):
        return HashEmbedder(int(hashed[1]))
    library, _, model = name.partition("/")
    if library == "fastembed" and model:
        from agemem_dspy.memory.fastembed_embedder import FastEmbedEmbedder

        return FastEmbedEmbedder(model)
    if library == "sentence-transformers" and model:
        from agemem_dspy.memory.sentence_transformer import SentenceTransformerEmbedder

        return SentenceTransformerEmbedder(model)
    import litellm
    from litellm.exceptions import BadRequestError

    try:
        litellm.get_llm_provider(name)
    except BadRequestError as error:
        raise MemoryStoreError(f"There is no embedder {name!r}. Name one of these: {NAMES}.") from error
    from agemem_dspy.memory.dspy_embedder import DSPyEmbedder

    return DSPyEmbedder(name)
