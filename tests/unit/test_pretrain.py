"""A tiny base model trained on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agemem_dspy.data.assistant import generate
from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.pretrain import pretrain_tiny
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.policy.models import load
from agemem_dspy.programs import AgeMemAgent, ThreeStageEpisode


@pytest.fixture
def student() -> ThreeStageEpisode:
    return ThreeStageEpisode(AgeMemAgent("question -> answer", adapter=CompactAdapter(), max_rounds=2))


def test_it_learns_the_format_and_stays_under_a_million_parameters(student: ThreeStageEpisode, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    folder = pretrain_tiny(tmp_path / "tiny", student, generate("train", 8), steps=40, on_step=lines.append)
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    model = load(folder).model
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000


@pytest.mark.parametrize("options", [{"steps": 0}, {"mistakes": 1.0}, {"learning_rate": 0.0}])
def test_bad_options_are_refused(student: ThreeStageEpisode, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        pretrain_tiny(tmp_path, student, generate("train", 1), **options)
