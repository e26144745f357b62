"""DSPy programs: the agent, the three-stage episode, baselines, judges, saving."""

from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.baselines import NoMemoryAgent, RetrieveOnlyAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.programs.judges import LMJudge
from agemem_dspy.programs.saved import load_program, load_reward, save_program

__all__ = [
    "AgeMemAgent",
    "LMJudge",
    "NoMemoryAgent",
    "RetrieveOnlyAgent",
    "ThreeStageEpisode",
    "load_program",
    "load_reward",
    "save_program",
]
