"""The LoRA in training, on a copy of the engine's base model; the only user of peft."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.full_model import first_layer, layer_of
from agemem_dspy.optimizers.training import TrainerConfig
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lora import LoraWeights
from agemem_dspy.policy.versions import Weights


class Adapter:
    """A peft model whose one trainable adapter can be read out as `LoraWeights`; see `TrainedModel`.

    Args:
        engine: whose base model is copied; its own weights are not touched.
        config: rank, alpha, layers and seed.
        start: adapter to continue from; its rank and alpha win.

    Raises:
        ConfigurationError: a start without an adapter or with one of other target layers.
    """

    def __init__(self, engine: PolicyEngine, config: TrainerConfig, *, start: Weights | None = None) -> None:
        if start is not None and not isinstance(start, LoraWeights):
            raise ConfigurationError(
                "the weights to continue from were trained without an adapter: go on with lora_r=None, or make a model "
                "of them with `agemem models merge` and train that"
            )
        rank: Any = start.rank if start else config.lora_r  # a number, or there would be no adapter
        alpha: Any = start.alpha if start else config.lora_alpha  # peft's annotation says int; a fraction works
        lora = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=0.0,
            target_modules=_targets(engine.model, first_layer(engine, config)),
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

    @property
    def causal(self) -> Any:
        """The causal LM of transformers inside the model."""
        return self.model.base_model.model

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


def _targets(model: torch.nn.Module, first: int) -> list[str]:
    """Return the names of all linear layers in the transformer blocks from the `first` on."""
    found = []
    for name, module in model.named_modules():
        layer = layer_of(name)
        if layer is not None and layer >= first and isinstance(module, torch.nn.Linear):
            found.append(name)
    return found
