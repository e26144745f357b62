"""Agentic memory for DSPy: agents that decide what to store, change, forget, look up and clear away.

    import dspy, agemem_dspy as am
    agent = am.AgeMemAgent("question -> answer", memory=am.LongTermMemory.open("memories/"))
    episode = am.ThreeStageEpisode(agent)

`agemem_dspy.optimizers` compiles such programs into prompts and weights. Importing this package loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agemem_dspy.paths import require_links

require_links()  # before the first import from a room, so that a broken checkout gets one clear error

from agemem_dspy.data import load_dataset  # noqa: E402
from agemem_dspy.errors import AgeMemError  # noqa: E402
from agemem_dspy.evaluation import EvaluationResult, evaluate  # noqa: E402
from agemem_dspy.memory import GuardedMemory, LongTermMemory  # noqa: E402
from agemem_dspy.policy.compact import CompactAdapter  # noqa: E402
from agemem_dspy.programs import (  # noqa: E402
    AgeMemAgent,
    NoMemoryAgent,
    RetrieveOnlyAgent,
    ThreeStageEpisode,
)
from agemem_dspy.programs import load_program as load  # noqa: E402
from agemem_dspy.rewards import RewardWeights, TrajectoryReward  # noqa: E402
from agemem_dspy.types import (  # noqa: E402
    Completion,
    Embedder,
    Group,
    Memory,
    Provenance,
    Stage,
    Step,
    StopReason,
    ToolEvent,
    Trajectory,
)

if TYPE_CHECKING:
    from agemem_dspy.policy.lm import local_lm

__version__ = "0.1.0"

__all__ = [
    "AgeMemAgent",
    "AgeMemError",
    "CompactAdapter",
    "Completion",
    "Embedder",
    "EvaluationResult",
    "Group",
    "GuardedMemory",
    "LongTermMemory",
    "Memory",
    "NoMemoryAgent",
    "Provenance",
    "RetrieveOnlyAgent",
    "RewardWeights",
    "Stage",
    "Step",
    "StopReason",
    "ThreeStageEpisode",
    "ToolEvent",
    "Trajectory",
    "TrajectoryReward",
    "evaluate",
    "load",
    "load_dataset",
    "local_lm",
]


def __getattr__(name: str) -> Any:
    """Import on first use what needs torch, so that importing the package stays light."""
    if name == "local_lm":
        from agemem_dspy.policy.lm import local_lm

        return local_lm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
