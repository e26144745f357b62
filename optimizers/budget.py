"""What a compilation may cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.grpo_config import GRPOConfig

Auto = Literal["light", "medium", "heavy"]
AUTO: dict[str, tuple[int, int]] = {"light": (32, 20), "medium": (64, 60), "heavy": (256, 200)}  # examples, steps


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a compilation may cost; one of the four at most, `auto="light"` when none is given.

    Args:
        auto: "light" demonstrates 32 examples and takes 20 GRPO steps, "medium" 64 and 60, "heavy" 256 and 200.
        max_metric_calls: trajectories that are scored, in all phases together. An eighth of them, at most 32, goes into
            each of the first two phases.
        max_steps: of GRPO; else as "light".
        max_minutes: of all phases together. The first two take what they need, GRPO what is left: one step at least, at
            most as many as "heavy". Its learning rate does not fall.

    Raises:
        ConfigurationError: several of them, one that is not positive, or an unknown `auto`.
    """

    auto: Auto | None = None
    max_metric_calls: int | None = None
    max_steps: int | None = None
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) > 1:
            raise ConfigurationError(f"give one budget, not {' and '.join(given)}")
        if self.auto is not None and self.auto not in AUTO:
            raise ConfigurationError(f"auto must be one of {', '.join(AUTO)}, not {self.auto!r}")
        for name, value in given.items():
            if name != "auto" and value <= 0:
                raise ConfigurationError(f"{name} must be above 0, not {value}")

    @property
    def examples(self) -> int:
        """How many examples the teacher plays in each of the first two phases."""
        if self.max_metric_calls is not None:
            return max(1, min(32, self.max_metric_calls // 8))
        return AUTO[self.auto or "light"][0]

    def check(self, phases: Sequence[str], *, spent: int) -> None:
        """Raise where a budget would have no effect, or the phases before GRPO score more than it allows.

        Args:
            phases: all that are to run.
            spent: trajectories that the first two score.

        Raises:
            ConfigurationError: says which and why.
        """
        for name in ("max_steps", "max_minutes"):
            if getattr(self, name) is not None and "grpo" not in phases:
                raise ConfigurationError(f"{name} bounds GRPO, which is not among the phases; leave it out")
        if self.max_metric_calls is not None and spent > self.max_metric_calls:
            scoring = ", ".join(phase for phase in phases if phase != "grpo")
            raise ConfigurationError(
                f"max_metric_calls={self.max_metric_calls} is less than the {spent} trajectories that the phases "
                f"{scoring} score; raise it, or shorten the validation set"
            )

    def grpo(self, *, spent: int) -> GRPOConfig:
        """Return what is left for GRPO after `spent` scored trajectories.

        Raises:
            ConfigurationError: not enough is left for one step.
        """
        if self.max_minutes is not None:
            return GRPOConfig(max_steps=AUTO["heavy"][1], max_minutes=self.max_minutes)
        if self.max_metric_calls is None:
            return GRPOConfig(max_steps=self.max_steps or AUTO[self.auto or "light"][1])
        config = GRPOConfig()
        left, step = self.max_metric_calls - spent, config.tasks_per_step * config.num_generations
        if left < step:
            raise ConfigurationError(
                f"max_metric_calls={self.max_metric_calls} leaves {left} for GRPO, of which one step plays {step}; "
                f"give at least {spent + step}"
            )
        return GRPOConfig(max_steps=left // step, max_metric_calls=left)
