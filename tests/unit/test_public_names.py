"""The package's public names are exactly these, and each of them is there."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import agemem_dspy

ROOT = Path(__file__).resolve().parents[2]
NAMES = """
    AgeMemAgent AgeMemError CompactAdapter Completion Embedder EvaluationResult Group GuardedMemory
    LongTermMemory Memory NoMemoryAgent Provenance RetrieveOnlyAgent RewardWeights Stage Step StopReason
    ThreeStageEpisode ToolEvent Trajectory TrajectoryReward evaluate load load_dataset local_lm
""".split()


def test_the_public_names_are_exactly_these() -> None:
    assert sorted(agemem_dspy.__all__) == sorted(NAMES)
    assert sorted(dir(agemem_dspy)) == sorted([*NAMES, "__version__"])


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(agemem_dspy, name)
    assert found.__doc__
    assert found.__module__.startswith("agemem_dspy.")


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="agemem_dspy.*'no_such_name'"):
        _ = agemem_dspy.no_such_name


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert agemem_dspy.__version__ == project["version"]


def test_a_program_is_made_without_torch() -> None:
    script = (
        "import sys, agemem_dspy as am; am.ThreeStageEpisode(am.AgeMemAgent('question -> answer'));"
        "print('local_lm' in dir(am), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["True", "False"], done.stderr
