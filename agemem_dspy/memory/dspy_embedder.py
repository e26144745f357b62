"""Any `dspy.Embedder`: a hosted model that litellm knows by name, or a function of yours."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import dspy
import tenacity

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.embedder import BatchedEmbedder

TIMEOUT_S = 60
ATTEMPTS = 3


class DSPyEmbedder(BatchedEmbedder):
    """A hosted model by litellm's name for it, such as "openai/text-embedding-3-small", or any `dspy.Embedder`.

    After a lost connection or an error of the server (5xx) a batch is tried again, up to three times in all; what
    cannot succeed, such as a wrong key or a text that is too long, is an error at once. (OpenAI's client, which litellm
    uses, asks once more within each try, then also after 429; litellm cannot be told otherwise.) DSPy's own cache is
    passed by: it would keep on disk what `forget` cannot remove.
    """

    def __init__(
        self,
        model: str | dspy.Embedder,
        *,
        name: str | None = None,
        dimension: int | None = None,
        batch_size: int = 100,
    ) -> None:
        """Wrap it; one call is made to find the dimension, unless it is given.

        Args:
            model: a name, or a `dspy.Embedder`, which may have options of its own (`api_base`, `dimensions`…).
            name: by which a store knows the model; that of a hosted model when left out.
            dimension: of a vector.
            batch_size: texts in one request.

        Raises:
            ConfigurationError: a function without a name, or a size that is not positive.
            MemoryStoreError: the call failed.
        """
        self._inner = dspy.Embedder(model, timeout=TIMEOUT_S) if isinstance(model, str) else model
        hosted = isinstance(self._inner.model, str)
        if name is None and not hosted:
            raise ConfigurationError(
                "A dspy.Embedder on a function has no name by which a store could tell its vectors from others: "
                'DSPyEmbedder(embedder, name="my-model-v1").'
            )
        self._options = {"max_retries": 1} if hosted else {}  # litellm reads 0 as its default, 2
        super().__init__(self._inner.model if name is None else name, dimension, batch_size)

    def _embed_batch(self, texts: Sequence[str]) -> Any:
        retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_transient),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential(multiplier=0.2, max=5.0),
            reraise=True,
        )
        return retry(self._inner, list(texts), batch_size=len(texts), caching=False, **self._options)

    def __reduce__(self) -> tuple[Any, ...]:
        remade = functools.partial(
            DSPyEmbedder, self._inner, name=self.name, dimension=self.dimension, batch_size=self.batch_size
        )
        return remade, ()


def _is_transient(error: BaseException) -> bool:
    """Tell a lost connection, a timeout (408) or a server's own error from a request that will never succeed."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return status == 408 or status >= 500
    return isinstance(error, ConnectionError | TimeoutError)
