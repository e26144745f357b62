"""`dspy.LM` over a `PolicyEngine`: how a program gets the model that this process samples from and trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy
from dspy import lm15

from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lora import LoraWeights
from agemem_dspy.policy.models import load


class AsyncPolicyEngine:
    """The awaited face of a `PolicyEngine`, for `dspy.LM(async_engine=…)`."""

    def __init__(self, engine: PolicyEngine) -> None:
        self.engine = engine

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Sample one completion."""
        return await self.engine.acomplete(request)

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncPolicyEngine:
        return self

    def dump_state(self) -> dict[str, Any]:
        """Return the engine's state."""
        return self.engine.dump_state()

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> AsyncPolicyEngine:
        """Build the engine that `dump_state` described."""
        return cls(PolicyEngine.load_state(state))


def local_lm(
    model: str | Path | PolicyEngine,
    *,
    adapter: str | Path | None = None,
    temperature: float = 0.0,
    max_tokens: int = 96,
) -> dspy.LM:
    """Return a `dspy.LM` served by this process.

    Args:
        model: a known name ("smollm2-135m"), a folder of transformers weights, or an engine to share.
        adapter: folder of a LoRA adapter to serve.
        temperature: 0 is greedy.
        max_tokens: longest completion.

    Raises:
        ModelError: no such model or adapter.
    """
    engine = model if isinstance(model, PolicyEngine) else PolicyEngine(load(model))
    name = engine.name
    if adapter is not None:
        weights = LoraWeights.load(Path(adapter))
        name = engine.register(weights.sha256()[:12], weights)
    return dspy.LM(
        name,
        engine=engine,
        async_engine=AsyncPolicyEngine(engine),
        temperature=temperature,
        max_tokens=max_tokens,
        cache=False,
        num_retries=0,
    )


def parameters_of(lm: object) -> int | None:
    """Return how many parameters the model behind a `dspy.LM` has, None where it is not in this process."""
    engine = policy_engine(lm)
    return None if engine is None else sum(parameter.numel() for parameter in engine.model.parameters())


def policy_engine(lm: object) -> PolicyEngine | None:
    """Return the local engine behind a `dspy.LM`, None for any other LM."""
    engine = getattr(lm, "engine", None)
    return engine if isinstance(engine, PolicyEngine) else None
