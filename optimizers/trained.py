"""What a trainer trains, as its configuration has it."""

from __future__ import annotations

from agemem_dspy.optimizers.adapter import Adapter
from agemem_dspy.optimizers.full_model import FullModel
from agemem_dspy.optimizers.training import TrainedModel, TrainerConfig
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.versions import Weights


def trained_model(engine: PolicyEngine, config: TrainerConfig, *, start: Weights | None = None) -> TrainedModel:
    """Return the model to train: an adapter on the base model, or without `lora_r` the model itself.

    Raises:
        ConfigurationError: more layers than the model has, or a start that cannot be continued so.
    """
    made: type[Adapter | FullModel] = FullModel if config.lora_r is None else Adapter
    return made(engine, config, start=start)
