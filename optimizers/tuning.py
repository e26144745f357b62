"""RewardTuner: an Optuna study over the reward weights, judged by what they are meant to serve.

A trial's value is the unweighted answer score of greedy play on held-out examples, never the weighted reward,
which would tune itself. GRPO is invariant to the reward's scale and shift, so the weights live on the simplex.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dspy
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from agemem_dspy.errors import ConfigurationError, RunError
from agemem_dspy.evaluation import evaluate
from agemem_dspy.optimizers import processes
from agemem_dspy.optimizers.grpo_config import GRPOConfig
from agemem_dspy.optimizers.local import program_lm
from agemem_dspy.optimizers.stepwise_grpo import StepwiseGRPO
from agemem_dspy.optimizers.training import TrainerConfig
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import RewardWeights, TrajectoryReward

TERMS = ("task", "context", "memory")
STUDY = "reward-weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningResult:
    """The best weights, their held-out answer score in [0, 1], and every trial as a dict."""

    best: RewardWeights
    value: float
    trials: tuple[Mapping[str, Any], ...]
    study: optuna.Study


class RewardTuner:
    """Find reward weights under which GRPO ends with the best answers.

    The paper's weights and `answer_only` are tried first. A trial whose sampled answer score falls behind the
    median of earlier ones at the same step is pruned.

    Args:
        student: the program that every trial trains from the same weights.
        trainset: GRPO's tasks.
        valset: held-out examples that give a trial its value.
        study_dir: holds `study.journal` and `config.json`; a second run continues the study.
        n_trials: finished trials wanted in all, pruned ones included.
        grpo: one trial's budget.
        trainer: see `TrainerConfig`.
        seed: of Optuna's sampler.
        on_trial: called with each finished trial as a dict.

    Raises:
        ConfigurationError: an empty set, or n_trials below 1.
    """

    def __init__(
        self,
        student: ThreeStageEpisode,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example],
        study_dir: str | Path,
        n_trials: int = 10,
        grpo: GRPOConfig | None = None,
        trainer: TrainerConfig | None = None,
        seed: int = 0,
        on_trial: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        if not trainset or not valset:
            raise ConfigurationError("the tuner needs a training and a validation set; neither may be empty")
        if n_trials < 1:
            raise ConfigurationError(f"n_trials must be at least 1, not {n_trials}")
        self.student, self.trainset, self.valset = student, list(trainset), list(valset)
        self.study_dir, self.n_trials, self.seed = Path(study_dir), n_trials, seed
        self.grpo, self.trainer = grpo or GRPOConfig(max_steps=5), trainer or TrainerConfig()
        self.on_trial = on_trial

    def run(self) -> TuningResult:
        """Play trials until `n_trials` are finished and return the best.

        Raises:
            RunError: the folder cannot be written, or holds a study of another configuration.
            KeyboardInterrupt: Ctrl-C, also in training; that trial is played again by the next run.
        """
        processes.refuse_several("a study")
        study = self._open()
        study.optimize(self._objective, n_trials=max(0, self.n_trials - len(_played(study))), callbacks=[self._report])
        rows = tuple(_row(trial) for trial in _played(study))
        return TuningResult(
            best=simplex(study.best_trial.params), value=float(study.best_value), trials=rows, study=study
        )

    def _open(self) -> optuna.Study:
        config = {
            "model": program_lm(self.student).model,
            "train": [str(example.get("id")) for example in self.trainset],
            "val": [str(example.get("id")) for example in self.valset],
            "grpo": asdict(self.grpo),
            "trainer": asdict(self.trainer),
            "seed": self.seed,
        }
        path = self.study_dir / "config.json"
        try:
            self.study_dir.mkdir(parents=True, exist_ok=True)
            if path.exists():
                known = json.loads(path.read_text(encoding="utf-8"))
                changed = sorted(key for key in config if known.get(key) != config[key])
                if changed:
                    was, now = known.get(changed[0]), config[changed[0]]
                    raise RunError(
                        f"{self.study_dir} holds a study with another {changed[0]} ({was} there, {now} now); "
                        "choose another study_dir or the same configuration"
                    )
            else:
                path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            storage = JournalStorage(JournalFileBackend(str(self.study_dir / "study.journal")))
        except (OSError, ValueError) as error:
            raise RunError(f"cannot keep a study in {self.study_dir}: {error}; choose another study_dir") from error
        study = optuna.create_study(
            study_name=STUDY,
            storage=storage,
            load_if_exists=True,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=self.seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
        )
        if not study.trials:
            for known_point in (RewardWeights.paper(), RewardWeights.answer_only()):
                study.enqueue_trial(uniforms(known_point))
        _enqueue_interrupted(study)
        return study

    def _report(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if self.on_trial is not None:
            self.on_trial(_row(trial))

    def _objective(self, trial: optuna.Trial) -> float:
        weights = simplex({f"u_{term}": trial.suggest_float(f"u_{term}", 1e-6, 1.0) for term in TERMS})
        trial.set_user_attr("weights", asdict(weights))

        def on_step(line: dict[str, Any]) -> None:
            trial.report(line["terms"]["answer"], line["step"])
            if trial.should_prune():
                raise optuna.TrialPruned

        metric = TrajectoryReward(weights)
        optimizer = StepwiseGRPO(metric, config=self.grpo, trainer=self.trainer, on_step=on_step)
        compiled = optimizer.compile(copy.deepcopy(self.student), trainset=self.trainset)
        if optimizer.interrupted:  # else half a trial would count
            raise KeyboardInterrupt
        return evaluate(compiled, self.valset, metric, num_threads=self.grpo.num_threads).mean("answer")


def simplex(params: Mapping[str, float]) -> RewardWeights:
    """Return the point w_i = -log u_i / sum of the simplex; uniform u give uniformly spread weights."""
    raw = [abs(math.log(params[f"u_{term}"])) for term in TERMS]
    total = sum(raw)
    if total <= 0:
        return RewardWeights.paper()
    return RewardWeights.normalized(task=raw[0], context=raw[1], memory=raw[2])


def uniforms(weights: RewardWeights) -> dict[str, float]:
    """Return parameters that `simplex` maps to these weights, within the study's bounds."""
    values = asdict(weights)
    return {f"u_{term}": max(1e-6, math.exp(-values[term])) for term in TERMS}


def _played(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that came to their end or were pruned, and not those that were interrupted."""
    return study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])


def _enqueue_interrupted(study: optuna.Study) -> None:
    """Let the points of interrupted trials be played again, once each."""
    again = [trial.user_attrs.get("repeats") for trial in study.trials]
    for trial in study.get_trials(states=[TrialState.FAIL, TrialState.RUNNING]):
        if trial.params and trial.number not in again:
            study.enqueue_trial(trial.params, user_attrs={"repeats": trial.number})


def _row(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value,
        "weights": trial.user_attrs.get("weights"),
        "seconds": trial.duration.total_seconds() if trial.duration else None,
    }
