"""What the library's programs share: they are saved into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy

from agemem_dspy.errors import ConfigurationError


class Program(dspy.Module):
    """A `dspy.Module` that `agemem_dspy.load` can build again."""

    def save(
        self, path: str | Path, *, metric: Any = None, metrics: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Save into a folder that `agemem_dspy.load` reads.

        Args:
            path: the folder; with a `.json` path or DSPy's own `options`, DSPy saves the state alone.
            metric: a `TrajectoryReward` to keep beside the program.
            metrics: results to record in the manifest.

        Raises:
            ConfigurationError: something in the program cannot be saved; the message names it.
            RunError: the folder holds other files, or cannot be written.
        """
        from agemem_dspy.programs.saved import save_program

        if not options and Path(path).suffix not in (".json", ".pkl"):
            save_program(self, path, metric=metric, metrics=metrics)
        elif metric is not None or metrics is not None:
            raise ConfigurationError("DSPy's own format holds no metric: save into a folder, or leave the metric out")
        else:
            super().save(path, **options)
