"""The README of a saved program: a model card as the hub reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agemem_dspy.policy.sources import KNOWN_MODELS


def model_card(manifest: Mapping[str, Any]) -> str:
    """Return the card of what `manifest` describes: the hub's metadata, what it is, how to load it, what it scored."""
    from huggingface_hub import ModelCardData  # slow to import

    base = manifest["base_model"] or {}
    trained = {"lora": "a LoRA adapter of {name}", "full": "those of {name}, trained further"}
    weights = manifest["adapter"]
    known = KNOWN_MODELS.get(base.get("name", ""))
    data = ModelCardData(
        base_model=known.hub_repo if known is not None else None,
        library_name="peft" if weights and weights["kind"] == "lora" else None,
        tags=["dspy", "agemem", "agent-memory"],
    )
    lines = ["---", data.to_yaml(), "---", f"# {manifest['program']}", ""]
    lines += [
        "A compiled DSPy program: an agent that manages its own memory (AgeMem, arXiv 2601.01885)."
        + (f" Its weights are {trained[weights['kind']].format(**base)}." if weights else ""),
        "",
        "```python",
        "import agemem_dspy as am",
        "",
        'program = am.load("path/to/this/folder")',
        "```",
        "",
    ]
    rows = [row for name, value in manifest["metrics"].items() if (row := _row(name, value))]
    if rows:
        lines += ["| metric | mean | 95 % interval |", "|---|---|---|", *rows, ""]
    made = ", ".join(f"{name} {found}" for name, found in manifest["packages"].items())
    lines.append(f"Made on {manifest['created']} with {made}. `manifest.json` has the settings and hashes.")
    return "\n".join(lines) + "\n"


def _row(name: str, value: Any) -> str:
    """Return the table's row of a number or of {"mean", "low", "high"}, "" for anything else."""
    if isinstance(value, Mapping) and {"mean", "low", "high"} <= value.keys():
        return f"| {name} | {value['mean']:.3f} | [{value['low']:.3f}, {value['high']:.3f}] |"
    return f"| {name} | {value:.3f} | |" if isinstance(value, int | float) else ""
