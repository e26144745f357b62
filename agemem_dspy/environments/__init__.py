"""Worlds behind `reset` and `step`, made by name. Importing this package loads no backend; making a world does."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from agemem_dspy.environments.world import Environment, Observation, StepResult
from agemem_dspy.errors import ConfigurationError

__all__ = ["WORLDS", "Environment", "Observation", "StepResult", "make_environment"]

# Kind -> module and class, which is called as `World(task, max_steps=…, …)` with the name's part after the colon.
WORLDS: Mapping[str, tuple[str, str]] = {
    "alfworld": ("agemem_dspy.environments.alfworld", "ALFWorld"),
    "babyai": ("agemem_dspy.environments.babyai", "BabyAI"),
    "pddl": ("agemem_dspy.environments.pddl", "PDDL"),
    "scienceworld": ("agemem_dspy.environments.scienceworld", "ScienceWorld"),
}


def make_environment(name: str, **options: Any) -> Environment:
    """Make the world that `name` says, "kind:task", such as "babyai:GoToLocal"; close it after use.

    Args:
        name: the kind, a colon, and what that kind needs to know: see docs/environments.md.
        options: `max_steps`, and what the world takes beside it.

    Raises:
        ConfigurationError: no such kind or task.
        MissingDependency: the world's extra is not installed; names the command.
    """
    kind, _, task = name.partition(":")
    if kind not in WORLDS or not task:
        raise ConfigurationError(f"unknown world {name!r}: give kind:task, with one of {', '.join(WORLDS)} as kind")
    module, world = WORLDS[kind]
    made: Environment = getattr(importlib.import_module(module), world)(task, **options)
    return made
