"""Fine-tuned weights as immutable values, in transformers' tensor names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agemem_dspy.errors import ModelError

FILE = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class FullWeights:
    """One version of weights that were trained themselves: each of `parameters` takes the place of the base's."""

    parameters: Mapping[str, torch.Tensor]

    @property
    def kind(self) -> Literal["full"]:
        """What it is called in manifests."""
        return "full"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter."""
        return {name: tuple(tensor.shape) for name, tensor in self.parameters.items()}

    def value(self, parameter: str, base: torch.Tensor) -> torch.Tensor:
        """Return a parameter's value; the base's plays no part."""
        return self.parameters[parameter]

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Return the parameters."""
        return self.parameters

    def with_tensors(self, tensors: Mapping[str, torch.Tensor]) -> FullWeights:
        """Return weights with other parameters."""
        return FullWeights(parameters=dict(tensors))

    def copy(self) -> FullWeights:
        """Return the same weights in tensors of their own."""
        return FullWeights(parameters={name: tensor.detach().clone() for name, tensor in self.parameters.items()})

    def sha256(self) -> str:
        """Return a digest of names and values."""
        digest = hashlib.sha256(b"full")
        for name in sorted(self.parameters):
            digest.update(name.encode())
            digest.update(self.parameters[name].detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def save(self, folder: Path, *, base_model: str) -> None:
        """Write `model.safetensors`, which names its base model."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in self.parameters.items()}
        save_file(tensors, folder / FILE, metadata={"format": "pt", "base_model": base_model})

    @classmethod
    def load(cls, folder: Path) -> FullWeights:
        """Read what `save` wrote.

        Raises:
            ModelError: the file is missing or unreadable.
        """
        try:
            return cls(parameters=load_file(folder / FILE))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{folder / FILE} cannot be read ({error}); save the program again") from error
