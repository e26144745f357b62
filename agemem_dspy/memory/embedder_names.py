"""What `embedder=` and `--embedder` may be: an embedder, a `dspy.Embedder`, or a name that makes one."""

from __future__ import annotations

import re
import threading

import dspy

from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory.cached_embedder import CachedEmbedder
from agemem_dspy.memory.dspy_embedder import DSPyEmbedder
from agemem_dspy.memory.embedder import HashEmbedder
from agemem_dspy.memory.fastembed_embedder import FastEmbedEmbedder
from agemem_dspy.memory.minilm import NAME as DEFAULT
from agemem_dspy.memory.minilm import MiniLMEmbedder
from agemem_dspy.memory.sentence_transformer import SentenceTransformerEmbedder
from agemem_dspy.types import Embedder

NAMES = (
    f'"{DEFAULT}" (the default), "fastembed/MODEL", "sentence-transformers/MODEL or folder", "hash-ngram-256", '
    'or a name of litellm such as "openai/text-embedding-3-small"'
)
_HASH = re.compile(r"hash-ngram-(\d{1,6})")
_locks: dict[str, threading.Lock] = {}
_shared_ones: dict[str, CachedEmbedder] = {}


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
    if isinstance(given, dspy.Embedder):
        return CachedEmbedder(DSPyEmbedder(given))
    raise MemoryStoreError(
        f"{given!r} is no embedder: it needs `name`, `dimension` and `embed(texts)`. A name will do too: {NAMES}."
    )


def is_named(embedder: Embedder) -> bool:
    """Tell whether an embedder was made by its name, so that `as_embedder` makes it again."""
    known = _shared_ones.get(embedder.name)
    return known is not None and (embedder is known or embedder is known.inner)


def _shared(name: str) -> CachedEmbedder:
    with _locks.setdefault(name, threading.Lock()):  # two threads would load one model twice
        if name not in _shared_ones:
            _shared_ones[name] = CachedEmbedder(_made(name))
        return _shared_ones[name]


def _made(name: str) -> Embedder:
    if name == DEFAULT:
        return MiniLMEmbedder()
    if hashed := _HASH.fullmatch(name):
        return HashEmbedder(int(hashed[1]))
    library, _, model = name.partition("/")
    if library == "fastembed" and model:
        return FastEmbedEmbedder(model)
    if library == "sentence-transformers" and model:
        return SentenceTransformerEmbedder(model)
    import litellm  # here, since it takes seconds
    from litellm.exceptions import BadRequestError

    try:
        litellm.get_llm_provider(name)
    except BadRequestError as error:
        raise MemoryStoreError(f"There is no embedder {name!r}. Name one of these: {NAMES}.") from error
    return DSPyEmbedder(name)
