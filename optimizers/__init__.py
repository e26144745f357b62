"""Optimizers that compile a program first into prompts, then into weights. Needs torch and peft."""

from agemem_dspy.optimizers.agemem import AgeMemOptimizer
from agemem_dspy.optimizers.bootstrap import BootstrapToolDemos
from agemem_dspy.optimizers.demonstrator import Demonstrator
from agemem_dspy.optimizers.grpo_config import GRPOConfig
from agemem_dspy.optimizers.provider import trainable
from agemem_dspy.optimizers.stepwise_grpo import StepwiseGRPO
from agemem_dspy.optimizers.training import TrainerConfig, TRLConfig
from agemem_dspy.optimizers.tuning import RewardTuner
from agemem_dspy.optimizers.warm_start import WarmStart

__all__ = [
    "AgeMemOptimizer",
    "BootstrapToolDemos",
    "Demonstrator",
    "GRPOConfig",
    "RewardTuner",
    "StepwiseGRPO",
    "TRLConfig",
    "TrainerConfig",
    "WarmStart",
    "trainable",
]
