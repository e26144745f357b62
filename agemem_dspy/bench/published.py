"""The paper's numbers, to be printed beside ours."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

SOURCE = "AgeMem, arXiv 2601.01885"


@cache
def _tables() -> Mapping[str, Any]:
    return tomllib.loads(Path(__file__).with_name("published.toml").read_text(encoding="utf-8"))


def published_world(table: str | None, name: str) -> str | None:
    """Return the world of a table that a name means, whatever its case; None where the paper has none."""
    known = {world.lower(): world for worlds in _tables().get(table or "", {}).values() for world in worlds}
    return known.get(name.lower())


def published(table: str | None, world: str | None) -> dict[tuple[str, str], dict[str, float]]:
    """Return a table's numbers of one world: (model, measure) -> method -> value; {} where the paper has none."""
    if table is None or world is None:
        return {}
    return {
        (model, measure): dict(values)
        for model, worlds in _tables().get(table, {}).items()
        for measure, values in worlds.get(world, {}).items()
    }
