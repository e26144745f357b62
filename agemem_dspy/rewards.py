"""The reward: weights on the simplex over named terms, as one DSPy metric.

`R = w_task R_task + w_context mean(context terms) + w_memory mean(memory terms) + P` (spec 6.1).
The same object scores prompts (`dspy.Evaluate`, GEPA, bootstrapping) and weights (GRPO). A term,
judge or embedder that raises is a `RewardError` with its name, never another scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

import dspy

from agemem_dspy.errors import ConfigurationError, RewardError
from agemem_dspy.feedback import explain
from agemem_dspy.terms import (
    AnswerJudge,
    MemoryJudge,
    RelevanceJudge,
    Term,
    TermContext,
    UsefulnessJudge,
    answer,
    compression,
    maintenance,
    memory_quality,
    penalty,
    preservation,
    preventive,
    relevance,
    score_fields,
    storage,
    task,
)
from agemem_dspy.types import Embedder, Stage, Trajectory

__all__ = [
    "CONTEXT_TERMS",
    "MEMORY_TERMS",
    "STAGE_TERMS",
    "TERMS",
    "AnswerJudge",
    "MemoryJudge",
    "RelevanceJudge",
    "RewardWeights",
    "TermContext",
    "TrajectoryReward",
    "UsefulnessJudge",
    "answer",
    "compression",
    "maintenance",
    "memory_quality",
    "penalty",
    "preservation",
    "preventive",
    "relevance",
    "storage",
    "task",
]

CONTEXT_TERMS: Mapping[str, Term] = {
    "compression": compression,
    "preventive": preventive,
    "preservation": preservation,
}
MEMORY_TERMS: Mapping[str, Term] = {"storage": storage, "maintenance": maintenance, "relevance": relevance}
TERMS: Mapping[str, Term] = {"task": task, **CONTEXT_TERMS, **MEMORY_TERMS, "penalty": penalty}
# What the steps of a stage are there to change. Stage 1 is judged by what became of what it stored and not by the
# answer: where "I don't know" is right, clearing a message away unread earns that as well as storing it and forgetting
# it when asked to, and a policy soon clears away everything.
STAGE_TERMS: Mapping[Stage, tuple[str, ...]] = {
    Stage.CONSTRUCT: ("storage", "maintenance"),
    Stage.CONTROL: ("compression", "preventive", "maintenance"),
    Stage.REASON: ("task", "compression", "preventive", "preservation", "maintenance", "relevance", "penalty"),
}
# What stage 1 is judged by where the memory terms weigh nothing.
_STORED_FOR = ("answer", "preservation")
# What the log tells before an episode is over.
LOG_TERMS = ("preventive", "storage", "maintenance", "relevance")
_JUDGES = ("answer_judge", "usefulness_judge", "relevance_judge", "memory_judge")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardWeights:
    """Weights of the task, the context terms and the memory terms, on the simplex.

    Raises:
        ConfigurationError: a weight is negative or not finite, or they do not sum to 1.
    """

    task: float = 1 / 3
    context: float = 1 / 3
    memory: float = 1 / 3

    def __post_init__(self) -> None:
        _check_weights(asdict(self))
        total = self.task + self.context + self.memory
        if abs(total - 1.0) > 1e-6:
            raise ConfigurationError(f"reward weights sum to {total:g}, not 1; use RewardWeights.normalized(...)")

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's weights: 1/3 each."""
        return cls()

    @classmethod
    def answer_only(cls) -> Self:
        """Return the paper's ablation: R_task and P alone."""
        return cls(task=1.0, context=0.0, memory=0.0)

    @classmethod
    def normalized(cls, *, task: float, context: float, memory: float) -> Self:
        """Scale three non-negative numbers, not all 0, onto the simplex."""
        _check_weights({"task": task, "context": context, "memory": memory})
        total = task + context + memory
        if not math.isfinite(total) or total <= 0:
            raise ConfigurationError("reward weights must have a positive, finite sum; make at least one of them > 0")
        return cls(task=task / total, context=context / total, memory=memory / total)


class Reward(float):
    """A reward that is true when it reaches a threshold.

    DSPy hands a `trace` to bootstrappers, which ask whether a trajectory is good, and to GEPA, which adds scores up.
    """

    threshold: float

    def __new__(cls, value: float, threshold: float = 0.5) -> Self:
        reward = super().__new__(cls, value)
        reward.threshold = threshold
        return reward

    def __bool__(self) -> bool:
        return self >= self.threshold


class TrajectoryReward:
    """Score a `Prediction` that carries a `Trajectory`, as a DSPy metric.

    Called by an evaluator it returns a float. With `pred_name` (GEPA) it returns
    `dspy.Prediction(score, feedback)`. With a `trace` it returns a `Reward`: a float that is true
    when it reaches `bootstrap_threshold`. `memory_judge` scores the reported `memory_quality`,
    which is no part of the reward.
    """

    def __init__(
        self,
        weights: RewardWeights | Literal["paper", "answer_only"] = "paper",
        *,
        embedder: Embedder | None = None,
        answer_judge: AnswerJudge | None = None,
        usefulness_judge: UsefulnessJudge | None = None,
        relevance_judge: RelevanceJudge | None = None,
        memory_judge: MemoryJudge | None = None,
        bootstrap_threshold: float = 0.5,
    ) -> None:
        self.weights = _profile(weights)
        self.bootstrap_threshold = bootstrap_threshold
        self.context = TermContext(
            embedder=embedder,
            answer_judge=answer_judge,
            usefulness_judge=usefulness_judge,
            relevance_judge=relevance_judge,
            memory_judge=memory_judge,
        )

    def __call__(
        self,
        example: Any,
        pred: Any,
        trace: Any = None,
        pred_name: str | None = None,
        pred_trace: Any = None,
        **_: Any,
    ) -> Any:
        """Score one prediction; see the class for what is returned when.

        Raises:
            RewardError: the prediction carries no trajectory, or a term failed.
        """
        trajectory = trajectory_of(pred)
        if trajectory is None:
            raise RewardError(
                "the prediction carries no trajectory, so there is nothing to score; "
                "wrap the program in ThreeStageEpisode, which returns one"
            )
        terms = self.terms(example, trajectory)
        if pred_name is not None:
            return dspy.Prediction(score=terms["reward"], feedback=explain(example, trajectory, terms))
        if trace is not None:
            return Reward(terms["reward"], self.bootstrap_threshold)
        return terms["reward"]

    def terms(self, example: Any, trajectory: Trajectory) -> dict[str, float]:
        """Return every raw term, `answer`, `memory_quality` and the weighted `reward`.

        Raises:
            RewardError: a term or judge raised or is not finite, or a weighted term has no labels.
        """
        for weight, label in ((self.weights.memory, "facts"), (self.weights.context, "key_items")):
            if weight > 0 and label not in example:
                raise RewardError(
                    f"the example has no {label!r}, which the weighted terms need; "
                    "add it (an empty list if there is none) or use weights='answer_only'"
                )
        asked = {**TERMS, "memory_quality": memory_quality}
        values = {name: self._value(name, term, example, trajectory) for name, term in asked.items()}
        reward = sum(self._weight(name) * values[name] for name in TERMS)
        return {**values, "answer": max(0.0, values["task"]), "reward": reward}

    def stage_reward(self, terms: Mapping[str, float], stage: Stage) -> float:
        """Return the part of a reward that the steps of one stage are there to change (`STAGE_TERMS`).

        Where the memory terms weigh nothing, stage 1 is judged by the answer's score, which is 0 without an answer,
        and by preservation.

        Args:
            terms: as `terms` returns them.
        """
        unjudged = stage is Stage.CONSTRUCT and not self.weights.memory
        return sum(self._weight(name) * terms[name] for name in (_STORED_FOR if unjudged else STAGE_TERMS[stage]))

    def step_gains(self, example: Any, trajectory: Trajectory) -> tuple[float, ...]:
        """Return by how much each step of a trajectory raised its reward, (S,).

        What the event log tells counts when it happens (`LOG_TERMS`), all else with the last step. Together they are
        the reward, less what doing nothing earns.

        Raises:
            RewardError: as `terms`.
        """
        names = [name for name in LOG_TERMS if self._weight(name)]

        def standing(events: int) -> float:
            known = replace(trajectory, events=tuple(event for event in trajectory.events if event.index < events))
            return sum(self._weight(name) * self._value(name, TERMS[name], example, known) for name in names)

        gains, before, seen = [], standing(0), 0
        for step in trajectory.steps:
            seen = max([seen, *(event.index + 1 for event in step.events)])
            after = standing(seen) if step.events else before
            gains.append(after - before)
            before = after
        if gains:
            gains[-1] += self.terms(example, trajectory)["reward"] - before
        return tuple(gains)

    def _weight(self, term: str) -> float:
        if term in CONTEXT_TERMS:
            return self.weights.context / len(CONTEXT_TERMS)
        if term in MEMORY_TERMS:
            return self.weights.memory / len(MEMORY_TERMS)
        return 1.0 if term == "penalty" else self.weights.task

    def score_answer(self, example: Any, fields: Mapping[str, Any]) -> float:
        """Return the answer score in [0, 1] of output fields alone, for programs without a trajectory."""
        return score_fields(example, fields, self.context)

    def describe(self) -> dict[str, Any]:
        """Return what identifies this reward, as JSON; judges and embedder by name."""
        judges = {name: _named(getattr(self.context, name)) for name in _JUDGES if getattr(self.context, name)}
        embedder = self.context.embedder.name if self.context.embedder is not None else None
        return {
            "weights": asdict(self.weights),
            "bootstrap_threshold": self.bootstrap_threshold,
            "embedder": embedder,
            "judges": judges,
        }

    def dump(self) -> dict[str, Any]:
        """Return the state as JSON, for `load`.

        Raises:
            ConfigurationError: a judge is set, which JSON cannot hold.
        """
        state = self.describe()
        judges = state.pop("judges")
        if judges:
            raise ConfigurationError(
                f"a reward with {', '.join(sorted(judges))} cannot be saved; save one without judges and build the "
                "judged reward again with TrajectoryReward(..., judge)"
            )
        return state

    @classmethod
    def load(cls, state: Mapping[str, Any], *, embedder: Embedder | None = None) -> Self:
        """Build the reward that `dump` described; give it the embedder it was made with.

        Raises:
            ConfigurationError: the state is malformed, or names another embedder.
        """
        try:
            weights = RewardWeights(**state["weights"])
            threshold, name = float(state["bootstrap_threshold"]), state["embedder"]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"this is no saved reward ({error!r}); write it with TrajectoryReward.dump"
            ) from error
        given = embedder.name if embedder is not None else None
        if given != name:
            raise ConfigurationError(
                f"the reward was saved with embedder {name!r}, not {given!r}; pass that one as embedder="
            )
        return cls(weights, embedder=embedder, bootstrap_threshold=threshold)

    def _value(self, name: str, term: Term, example: Any, trajectory: Trajectory) -> float:
        try:
            value = float(term(example, trajectory, self.context))
        except Exception as error:
            raise RewardError(f"reward term {name!r} failed: {type(error).__name__}: {error}") from error
        if not math.isfinite(value):
            raise RewardError(f"reward term {name!r} is {value}; check the trajectory's token counts and the judges")
        return value


def trajectory_of(pred: Any) -> Trajectory | None:
    """Return the trajectory that a prediction carries, if any."""
    found = getattr(pred, "trajectory", None)
    return found if isinstance(found, Trajectory) else None


def _profile(weights: RewardWeights | str) -> RewardWeights:
    if isinstance(weights, RewardWeights):
        return weights
    profiles = {"paper": RewardWeights.paper, "answer_only": RewardWeights.answer_only}
    if weights not in profiles:
        raise ConfigurationError(f"unknown reward profile {weights!r}; use {', '.join(profiles)} or RewardWeights(...)")
    return profiles[weights]()


def _check_weights(weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise ConfigurationError(f"reward weight {name!r} is {weight}; weights must be finite and >= 0")


def _named(judge: object) -> str:
    return getattr(judge, "name", None) or getattr(judge, "__qualname__", None) or type(judge).__qualname__
