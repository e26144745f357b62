"""What a run of GRPO may be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.grpo import CREDITS, SCALES, Credit, Scale


@dataclass(frozen=True, kw_only=True)
class GRPOConfig:
    """How groups are sampled and turned into updates; the paper's values where it states them.

    Args:
        num_generations: K, trajectories of one task (8).
        tasks_per_step: groups in one update.
        max_steps: updates; the learning rate falls over so many.
        max_metric_calls: play no step that would bring the scored trajectories, resampled ones and validations
            included, above this.
        max_minutes: stop after the step in which so many minutes were over, all runs that were taken up together. Which
            one that is, is not known before, so the learning rate does not fall (see `training.rate_at`).
        temperature: of the sampler, and of the log-probabilities trained on.
        beta: weight of the KL to the policy that training started from (0.1).
        clip: half-width of the ratio's interval (0.2); None is Eq. 6 as printed.
        eps: added to the standard deviation of a group's rewards, in units of reward. With almost none, a group whose
            rewards differ by a few context tokens would count as much as one that differs by an answer.
        credit: "broadcast" gives every LM call its trajectory's advantage (the paper); "stage" compares, for the calls
            of a stage, what that stage can change of the reward (`TrajectoryReward.stage_reward`), so that a filter
            is not praised for an answer, nor storing blamed for a wrong one; "call" compares each call with the
            group's calls that saw the same prompt, by what the call itself gained (`TrajectoryReward.step_gains`) and,
            discounted by `lam`, what came after; "released" normalises over steps, as the authors' code does, to
            compare.
        lam: with credit "call" alone, in [0, 1]; see `grpo.gains_to_go`.
        scale: what weighs equally in the mean: a "token", a "call" or a "trajectory"; see `grpo.step_weights`.
        curriculum: "joint" plays all three stages from the start (the paper); "progressive" plays stage 1, then 1 and
            2, then all.
        stage_steps: how many steps a progressive curriculum takes with one, two and all stages; together max_steps. A
            third each when left out.
        resample: how often, in a step, tasks whose trajectories all tie are replaced by the next ones: a group without
            spread teaches nothing.
        dead_steps: the run stops with an error when that many steps from its start, resampled, taught nothing.
        validate_every: after how many steps the policy plays the validation set, as it does before the first; the best
            is what `compile` returns. 0 does not validate.
        patience: stop after so many validations without a new best.
        overlap: play a step's tasks while the step before is trained on, with the weights from before that; the ratio
            to the sampler's own log-probabilities corrects for it. Both then need memory at once. A run that was
            stopped goes on, but plays its next step with the weights that it has by then.
        num_threads: episodes played at once; also the largest batch the engine sees.
        seed: of task order and sampling.
    """

    num_generations: int = 8
    tasks_per_step: int = 2
    max_steps: int = 20
    max_metric_calls: int | None = None
    max_minutes: float | None = None
    temperature: float = 1.0
    beta: float = 0.1
    clip: float | None = 0.2
    eps: float = 0.05
    credit: Credit = "broadcast"
    lam: float = 0.5
    scale: Scale = "token"
    curriculum: Literal["joint", "progressive"] = "joint"
    stage_steps: tuple[int, int, int] | None = None
    resample: int = 1
    dead_steps: int = 5
    validate_every: int = 0
    patience: int | None = None
    overlap: bool = False
    num_threads: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_generations < 2:
            raise ConfigurationError(
                f"num_generations is {self.num_generations}: with fewer than 2 trajectories a task every advantage is 0"
            )
        if min(self.tasks_per_step, self.max_steps, self.num_threads) < 1:
            raise ConfigurationError("tasks_per_step, max_steps and num_threads must be at least 1")
        if self.max_metric_calls is not None and self.max_metric_calls < self.num_generations * self.tasks_per_step:
            raise ConfigurationError(
                f"max_metric_calls is {self.max_metric_calls}, and one step plays "
                f"{self.num_generations * self.tasks_per_step} trajectories; raise it or lower tasks_per_step"
            )
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ConfigurationError(f"max_minutes must be above 0, not {self.max_minutes}")
        if self.temperature <= 0:
            raise ConfigurationError("temperature must be above 0: greedy rollouts are all alike")
        if self.eps <= 0:
            raise ConfigurationError(f"eps must be positive, not {self.eps}")
        if self.beta < 0 or (self.clip is not None and self.clip <= 0):
            raise ConfigurationError("beta must not be negative, clip must be positive or None")
        if self.scale not in SCALES:
            raise ConfigurationError(f"scale must be one of {', '.join(SCALES)}, not {self.scale!r}")
        if self.credit not in CREDITS:
            raise ConfigurationError(f"credit must be one of {', '.join(CREDITS)}, not {self.credit!r}")
        if not 0.0 <= self.lam <= 1.0:
            raise ConfigurationError(f"lam must be between 0 and 1, not {self.lam}")
        if self.seed < 0:
            raise ConfigurationError(f"seed must be 0 or more, not {self.seed}")
        if self.curriculum not in ("joint", "progressive"):
            raise ConfigurationError(f"curriculum must be 'joint' or 'progressive', not {self.curriculum!r}")
        if self.curriculum == "progressive" and self.max_steps < 3:
            raise ConfigurationError("a progressive curriculum needs max_steps of at least 3")
        if self.stage_steps is not None:
            if self.curriculum != "progressive":
                raise ConfigurationError("stage_steps needs curriculum='progressive'")
            if len(self.stage_steps) != 3 or min(self.stage_steps) < 0 or sum(self.stage_steps) != self.max_steps:
                raise ConfigurationError(
                    f"stage_steps must be three numbers that sum to max_steps={self.max_steps}, not {self.stage_steps}"
                )
        if min(self.resample, self.validate_every) < 0 or self.dead_steps < 1:
            raise ConfigurationError("resample and validate_every must not be negative, dead_steps at least 1")
        if self.patience is not None and (self.patience < 1 or not self.validate_every):
            raise ConfigurationError("patience counts validations: it must be at least 1 and needs validate_every")

    def stages_at(self, step: int) -> int:
        """Return how many stages a step, from 0, plays."""
        if self.curriculum == "joint":
            return 3
        if self.stage_steps is None:
            return min(3, 1 + 3 * step // self.max_steps)
        first, second, _ = self.stage_steps
        return 1 + (step >= first) + (step >= first + second)
