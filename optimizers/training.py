"""What trainers have in common: their configurations, the learning rate's course and how they are driven."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import torch

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.policy.versions import Weights

Sampling = Callable[[int], Sequence[Sequence[Sample]]]  # plays a step's rollouts with the weights reported last
Updated = Callable[[int, Weights, Mapping[str, float]], bool]  # takes a step's weights; says whether to go on
Loss = Literal["dapo", "grpo", "dr_grpo", "bnpo", "cispo"]
_OURS = frozenset(
    ("learning_rate", "loss_type", "importance_sampling_level", "beta", "epsilon", "temperature", "max_steps")
) | frozenset(("max_grad_norm", "seed", "gradient_accumulation_steps", "steps_per_generation", "num_generations"))


class TrainedModel(Protocol):
    """What trainers train: an `Adapter` on the base model, or the `FullModel`."""

    model: Any  # that is called

    @property
    def causal(self) -> Any:
        """The causal LM of transformers inside the model."""
        ...

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return what is trained."""
        ...

    def weights(self) -> Weights:
        """Return a copy of the weights as they are now."""
        ...

    def set_reference(self) -> None:
        """Make the weights as they are now the reference policy of the KL term."""
        ...

    def reference(self) -> AbstractContextManager[None]:
        """Let the model be the reference policy inside the block, without gradients.

        Raises:
            ConfigurationError: no reference was set.
        """
        ...


class GRPOBackend(Protocol):
    """Turns rollouts into weights: `PolicyTrainer` over token trees, or `TRLTrainer`."""

    def set_reference(self) -> None:
        """Make the weights as they are now the reference policy of the KL term."""
        ...

    def fit(
        self,
        steps: int,
        *,
        sample: Sampling,
        updated: Updated,
        decay: bool = True,
        beta: float = 0.0,
        clip: float | None = 0.2,
        temperature: float = 1.0,
    ) -> None:
        """Take optimizer steps until `updated` says that it is enough.

        Args:
            steps: most of them.
            decay: the learning rate falls over so many steps; else it stays up. See `rate_at`.
            sample: called with a step, from 0; plays it with the weights last reported and returns its calls.
            updated: called after a step with the weights and numbers such as `loss`, `grad_norm` and `kl`; no numbers
                mean that nothing was trained.
            beta, clip: see `grpo.stepwise_grpo_loss`; `set_reference` comes before a beta above 0.
            temperature: the sampler's.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How weights are trained. Names are those of TRL and PEFT.

    `lora_r=None` trains the weights themselves, which take four times the model's memory, and a much smaller
    `learning_rate`. `max_tokens` bounds the tokens of a micro-batch and with it the memory of an update. `top_layers`
    trains the last so many layers only (None: all, and without an adapter the embeddings too).
    """

    learning_rate: float = 3e-4
    lora_r: int | None = 16
    lora_alpha: int = 32
    max_grad_norm: float = 1.0
    top_layers: int | None = None
    max_tokens: int = 512
    seed: int = 0

    @property
    def max_trunk(self) -> int:
        """Most tokens of a token tree's trunk, whose graph is kept in memory."""
        return 2 * self.max_tokens

    def __post_init__(self) -> None:
        rank = 1 if self.lora_r is None else self.lora_r
        if not min(self.learning_rate, rank, self.lora_alpha, self.max_tokens, self.max_grad_norm) > 0:
            raise ConfigurationError("learning_rate, lora_r, lora_alpha, max_tokens and max_grad_norm must be positive")
        if self.lora_r is None and self.lora_alpha != TrainerConfig.lora_alpha:
            raise ConfigurationError("lora_alpha has no effect without an adapter; leave it out, or set lora_r")


@dataclass(frozen=True, kw_only=True)
class TRLConfig(TrainerConfig):
    """How TRL trains.

    Args:
        loss_type: TRL's loss, which decides what weighs equally: tokens ("dapo", "bnpo", "cispo"), calls ("grpo") or
            calls of the longest length ("dr_grpo").
        importance_sampling_level: "token", or "sequence" for one ratio a call (GSPO; with the loss "grpo").
        micro_batches: in how many parts the calls of an update are computed, in place of `max_tokens`.
        options: further fields of `trl.GRPOConfig`, such as `report_to`, `save_steps` or `output_dir`.

    Raises:
        ConfigurationError: an unknown loss or level, or an option that is set elsewhere.
    """

    loss_type: Loss = "dapo"
    importance_sampling_level: Literal["token", "sequence"] = "token"
    micro_batches: int = 8
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss_type not in get_args(Loss):
            raise ConfigurationError(f"loss_type must be one of {', '.join(get_args(Loss))}, not {self.loss_type!r}")
        if self.importance_sampling_level not in ("token", "sequence"):
            raise ConfigurationError(
                f"importance_sampling_level must be 'token' or 'sequence', not {self.importance_sampling_level!r}"
            )
        if self.max_tokens != TrainerConfig.max_tokens:
            raise ConfigurationError("max_tokens has no effect in TRL; micro_batches bounds the memory of an update")
        if self.micro_batches < 1:
            raise ConfigurationError(f"micro_batches must be at least 1, not {self.micro_batches}")
        twice = sorted(_OURS & set(self.options))
        if twice:
            raise ConfigurationError(f"options must not hold {twice[0]!r}: it is set by TRLConfig or GRPOConfig")


def rate_at(step: int, steps: int | None) -> float:
    """Return what the learning rate is multiplied by in a step, from 0.

    Three steps up, since Adam's first ones are its wildest, then linearly down to a tenth at the last of `steps`. Where
    the last one is not known before (None) it stays up: a course by the clock would let the weights depend on what
    else the machine does, and a run that is taken up again would end elsewhere.
    """
    return min((step + 1) / 3, 1.0 if steps is None else 1 - 0.9 * step / steps)
