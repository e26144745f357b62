"""Trained weights as immutable values: all that a version of the policy has to be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol, Self

import torch

from agemem_dspy.policy.full import FILE, FullWeights
from agemem_dspy.policy.lora import LoraWeights


class Weights(Protocol):
    """What a version changes of a base model: `LoraWeights`, or `FullWeights` of all that was trained."""

    @property
    def kind(self) -> Literal["lora", "full"]:
        """What it is called in manifests."""
        ...

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return the shape that each parameter of the base model must have which it changes."""
        ...

    def value(self, parameter: str, base: torch.Tensor) -> torch.Tensor:
        """Return what a parameter becomes."""
        ...

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Return all tensors by names of their own."""
        ...

    def with_tensors(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Return weights of the same make with other `tensors`."""
        ...

    def copy(self) -> Self:
        """Return the same weights in tensors of their own."""
        ...

    def sha256(self) -> str:
        """Return a digest of names and values."""
        ...

    def save(self, folder: Path, *, base_model: str) -> None:
        """Write them into a folder, from which `read_weights` reads them."""
        ...


def read_weights(folder: Path) -> Weights:
    """Read the weights that a folder holds.

    Raises:
        ModelError: a file is missing or unreadable.
    """
    return FullWeights.load(folder) if (folder / FILE).is_file() else LoraWeights.load(folder)
