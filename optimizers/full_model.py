"""The model in training without an adapter, a copy of the engine's base model."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.training import TrainerConfig
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.full import FullWeights
from agemem_dspy.policy.versions import Weights


class FullModel:
    """A model all of whose weights, or those of its top layers, are trained in float32; see `TrainedModel`.

    Args:
        engine: whose base model is copied; its own weights are not touched.
        config: layers.
        start: weights to continue from, an adapter's or not.

    Raises:
        ConfigurationError: a start that changes layers which are not to be trained.
    """

    def __init__(self, engine: PolicyEngine, config: TrainerConfig, *, start: Weights | None = None) -> None:
        self.model: Any = engine.base_model().float().train()
        first = first_layer(engine, config)
        for name, parameter in self.model.named_parameters():
            layer = layer_of(name)
            parameter.requires_grad_(config.top_layers is None or (layer is not None and layer >= first))
        if start is not None:
            self._load(start, config)
        self._reference: list[torch.Tensor] = []

    @property
    def causal(self) -> Any:
        """The model itself."""
        return self.model

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return what is trained."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def weights(self) -> FullWeights:
        """Return a copy of the weights as they are now."""
        trained = ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
        return FullWeights(parameters={name: parameter.detach().cpu().clone() for name, parameter in trained})

    def set_reference(self) -> None:
        """Make the weights as they are now the reference policy of the KL term."""
        self._reference = [parameter.detach().clone() for parameter in self.parameters()]

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Let the model be the reference policy inside the block, without gradients.

        Raises:
            ConfigurationError: no reference was set.
        """
        if not self._reference:
            raise ConfigurationError("call set_reference before an update with beta > 0")
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _load(self, weights: Weights, config: TrainerConfig) -> None:
        for name in weights.shapes():
            parameter = self.model.get_parameter(name)
            if not parameter.requires_grad:
                raise ConfigurationError(
                    f"the weights to continue from change {name!r}, which top_layers={config.top_layers} leaves as it "
                    "is; train with the top_layers they were made with"
                )
            parameter.copy_(weights.value(name, parameter))

    def _swap(self) -> None:
        for i, parameter in enumerate(self.parameters()):
            parameter.data, self._reference[i] = self._reference[i], parameter.data


def first_layer(engine: PolicyEngine, config: TrainerConfig) -> int:
    """Return the first transformer block that is trained.

    Raises:
        ConfigurationError: more layers than the model has.
    """
    layers = int(engine.model.config.num_hidden_layers)
    if config.top_layers is not None and not 1 <= config.top_layers <= layers:
        raise ConfigurationError(f"top_layers must be between 1 and {layers}")
    return layers - (config.top_layers or layers)


def layer_of(name: str) -> int | None:
    """Return the transformer block that a module or parameter is in, None for one outside."""
    block = re.search(r"\.layers\.(\d+)\.", name)
    return int(block.group(1)) if block else None
