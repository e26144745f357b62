"""Adapter weights as immutable values, in PEFT's tensor names and file layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from agemem_dspy.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraWeights:
    """One version of the trained weights: W' = W + (alpha / rank) * B A for each target.

    `pairs` maps a module's name in the base model to A (rank, in) and B (out, rank).
    """

    rank: int
    alpha: float
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    @property
    def kind(self) -> Literal["lora"]:
        """What it is called in manifests."""
        return "lora"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape that each target's weight must have.

        Raises:
            ModelError: an A and a B of different ranks.
        """
        for name, (a, b) in self.pairs.items():
            if a.shape[0] != b.shape[1]:
                raise ModelError(f"A and B of {name!r} have the ranks {a.shape[0]} and {b.shape[1]}, which must agree")
        return {f"{name}.weight": (b.shape[0], a.shape[1]) for name, (a, b) in self.pairs.items()}

    def value(self, parameter: str, base: torch.Tensor) -> torch.Tensor:
        """Return what a target's weight becomes."""
        return base + self.delta(parameter.removesuffix(".weight")).to(base)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return A and B of each target."""
        return {f"{name}.{part}": t for name, pair in self.pairs.items() for part, t in zip("ab", pair, strict=True)}

    def with_tensors(self, tensors: Mapping[str, torch.Tensor]) -> LoraWeights:
        """Return an adapter of the same rank and alpha with other tensors."""
        names = [name.removesuffix(".a") for name in tensors if name.endswith(".a")]
        return replace(self, pairs={name: (tensors[f"{name}.a"], tensors[f"{name}.b"]) for name in names})

    def delta(self, module: str) -> torch.Tensor:
        """Return what to add to `module`'s weight, (out, in)."""
        a, b = self.pairs[module]
        return (self.alpha / self.rank) * (b @ a)

    def copy(self) -> LoraWeights:
        """Return the same weights in tensors of their own."""
        pairs = {name: (a.detach().clone(), b.detach().clone()) for name, (a, b) in self.pairs.items()}
        return replace(self, pairs=pairs)

    def sha256(self) -> str:
        """Return a digest of names, values and scale."""
        digest = hashlib.sha256(f"{self.rank} {self.alpha}".encode())
        for name in sorted(self.pairs):
            digest.update(name.encode())
            for tensor in self.pairs[name]:
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path, *, base_model: str) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json`, loadable by PEFT."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, (a, b) in self.pairs.items():
            tensors[f"base_model.model.{name}.lora_A.weight"] = a.contiguous()
            tensors[f"base_model.model.{name}.lora_B.weight"] = b.contiguous()
        save_file(tensors, folder / "adapter_model.safetensors")
        config: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": sorted(self.pairs),
        }
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LoraWeights:
        """Read what `save` (or PEFT) wrote.

        Raises:
            ModelError: a file is missing, unreadable or not a LoRA adapter.
        """
        try:
            config = dict(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))
            tensors = load_file(folder / "adapter_model.safetensors")
            pairs = {}
            for key, a in tensors.items():
                if key.endswith(".lora_A.weight"):
                    name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                    pairs[name] = (a, tensors[key.replace(".lora_A.", ".lora_B.")])
            if not pairs:
                raise ValueError("no lora_A and lora_B tensors")
            unread = [key for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern") if config.get(key)]
            if unread:
                raise ValueError(f"{unread[0]} is not supported")
            return cls(rank=int(config["r"]), alpha=float(config["lora_alpha"]), pairs=pairs)
        except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
            raise ModelError(
                f"{folder} does not hold a LoRA adapter ({error}); it needs adapter_config.json and "
                "adapter_model.safetensors, as `program.save(folder)` writes them"
            ) from error
