"""A trained version as a plain transformers model."""

from __future__ import annotations

from pathlib import Path

from agemem_dspy.errors import RunError
from agemem_dspy.policy.engine import PolicyEngine


def save_merged(engine: PolicyEngine, model: str, folder: Path) -> Path:
    """Write what a model string addresses as a plain transformers model, the adapter merged into the weights.

    transformers and `local_lm(folder)` load it. Returns the folder.

    Raises:
        ModelError: the engine does not serve the model.
        RunError: the folder is not empty, or cannot be written.
    """
    version = engine.version_of(model)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder} holds something already; give a new folder")
        with engine._lock:
            engine.use(version)
            engine.model.save_pretrained(folder)
        engine.tokenizer.save_pretrained(folder)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error}; free some space or choose another folder") from error
    return folder
