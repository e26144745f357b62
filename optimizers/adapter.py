"""The LoRA in training, on a copy of the engine's base model; the only user of peft."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.training import TrainerConfig
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lora import LoraWeights


class Adapter:
    """A peft model whose one trainable adapter can be read out as `LoraWeights`.

    Args:
        engine: whose base model is copied; its own weights are not touched.
        config: rank, alpha, layers and seed.
        start: adapter to continue from; its rank and alpha win.

    Raises:
        ConfigurationError: more layers than the model has, or a start with other target layers.
    """

    def __init__(self, engine: PolicyEngine, config: TrainerConfig, *, start: LoraWeights | None = None) -> None:
        layers = engine.model.config.num_hidden_layers
        if config.top_layers is not None and not 1 <= config.top_layers <= layers:
            raise ConfigurationError(f"top_layers must be between 1 and {layers}")
        rank = start.rank if start else config.lora_r
        alpha: Any = start.alpha if start else config.lora_alpha  # peft's annotation says int; a fraction works
        lora = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=0.0,
            target_modules=_targets(engine.model, layers - (config.top_layers or layers)),
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(config.seed)
            # peft 0.21 asks transformers 5.23 by a deprecated name
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            self.model: Any = get_peft_model(engine.base_model(), lora)
        self.model.train()
        if start is not None:
            self._load("default", start)
        self._has_reference = False

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return what is trained."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def weights(self) -> LoraWeights:
        """Return a copy of the weights as they are now."""
        own = self._pairs("default").items()
        pairs = {name: (a.detach().cpu().clone(), b.detach().cpu().clone()) for name, (a, b) in own}
        config = self.model.peft_config["default"]
        return LoraWeights(rank=config.r, alpha=float(config.lora_alpha), pairs=pairs)

    def set_reference(self) -> None:
        """Make the weights as they are now the reference policy of the KL term."""
        current = self.weights()
        if not self._has_reference:
            with torch.random.fork_rng(devices=[]):  # its random start is overwritten below
                self.model.add_adapter("reference", self.model.peft_config["default"])
            self._has_reference = True
        self._load("reference", current)
        self.model.set_adapter("default")

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Let the model be the reference policy inside the block.

        Raises:
            ConfigurationError: no reference was set.
        """
        if not self._has_reference:
            raise ConfigurationError("call set_reference before an update with beta > 0")
        self.model.set_adapter("reference")
        try:
            yield
        finally:
            self.model.set_adapter("default")

    def _pairs(self, adapter: str) -> dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]]:
        found = {}
        for name, module in self.model.base_model.model.named_modules():
            if hasattr(module, "lora_A") and adapter in module.lora_A:
                found[name] = (module.lora_A[adapter].weight, module.lora_B[adapter].weight)
        return found

    def _load(self, adapter: str, weights: LoraWeights) -> None:
        own = self._pairs(adapter)
        if own.keys() != weights.pairs.keys():
            raise ConfigurationError(
                "the adapter to continue from has other target layers; train with the top_layers it was made with"
            )
        with torch.no_grad():
            for name, tensors in weights.pairs.items():
                for parameter, tensor in zip(own[name], tensors, strict=True):
                    parameter.copy_(tensor)


def _targets(model: torch.nn.Module, first_layer: int) -> list[str]:
    """Return the names of all linear layers in the transformer blocks from `first_layer` on."""
    found = []
    for name, module in model.named_modules():
        block = re.search(r"\.layers\.(\d+)\.", name)
        if block and int(block.group(1)) >= first_layer and isinstance(module, torch.nn.Linear):
            found.append(name)
    return found
