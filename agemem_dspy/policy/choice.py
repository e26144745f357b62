"""The LM that a name means: a local model with its adapter, or anything that litellm speaks to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agemem_dspy.errors import ModelError

if TYPE_CHECKING:
    import dspy


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenModel:
    """What `--model` named: an LM, and the adapter that renders for it (None: DSPy's configured one)."""

    lm: dspy.LM
    adapter: Any = None

    @property
    def is_local(self) -> bool:
        """Whether its weights are in this process, so that they can be trained."""
        return self.adapter is not None


def choose_model(name: str, *, temperature: float | None = None, max_tokens: int | None = None) -> ChosenModel:
    """Return the LM that a `--model` names; the local ones are loaded.

    Args:
        name: a known name, a folder, or a litellm name.
        temperature: of the sampler; greedy for a local model, the provider's default for others when left out.
        max_tokens: longest completion; 96 for a local model, the provider's default for others when left out.

    Raises:
        ModelError: it is none of these, or cannot be loaded.
    """
    from agemem_dspy.policy.sources import KNOWN_MODELS

    if name in KNOWN_MODELS or Path(name).expanduser().is_dir():
        from agemem_dspy.policy.compact import CompactAdapter
        from agemem_dspy.policy.lm import local_lm

        options: dict[str, Any] = {} if max_tokens is None else {"max_tokens": max_tokens}
        return ChosenModel(lm=local_lm(name, temperature=temperature or 0.0, **options), adapter=CompactAdapter())
    if name.startswith((".", "/", "~")) or not _is_remote(name):
        raise ModelError(
            f"unknown model {name!r}; give a local name ({', '.join(KNOWN_MODELS)}), a folder that holds config.json, "
            "or a litellm name with its provider, such as openai/gpt-4o-mini or ollama_chat/llama3.2 "
            "('agemem models fetch OWNER/NAME' makes a folder of a hub model)"
        )
    import dspy

    return ChosenModel(lm=dspy.LM(name, temperature=temperature, max_tokens=max_tokens))


def _is_remote(name: str) -> bool:
    """Tell whether a provider serves names like this one, without asking it."""
    if "/" not in name:
        return False
    import dspy
    from dspy.clients.backend_selection import select_backend

    if select_backend(dspy.LM(name)).native:
        return True
    # It takes two seconds to import, so only for the providers that DSPy does not speak to itself.
    from litellm.types.utils import LlmProviders

    return name.split("/", 1)[0] in {str(provider.value) for provider in LlmProviders}
