"""AgeMemOptimizer: prompts, then a warm start, then step-wise GRPO, all on one metric."""

from __future__ import annotations

import inspect
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import dspy
from dspy.teleprompt import Teleprompter

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers import processes
from agemem_dspy.optimizers.bootstrap import BootstrapToolDemos
from agemem_dspy.optimizers.budget import Auto, Budget
from agemem_dspy.optimizers.estimate import Estimate, estimate
from agemem_dspy.optimizers.local import program_lm
from agemem_dspy.optimizers.resume import begun_before, digest_of, settings_of
from agemem_dspy.optimizers.stepwise_grpo import StepwiseGRPO
from agemem_dspy.optimizers.tracking import Tracked
from agemem_dspy.optimizers.training import TrainerConfig
from agemem_dspy.optimizers.warm_start import WARM_START, WarmStart
from agemem_dspy.policy.lm import policy_engine
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.programs.saved import load_program, save_program
from agemem_dspy.rewards import TrajectoryReward

logger = logging.getLogger(__name__)

PHASES = ("prompts", "warm_start", "grpo")


class Optimizer(Protocol):
    """What a phase is: any DSPy optimizer."""

    def compile(self, student: dspy.Module, *, trainset: Sequence[dspy.Example], **options: Any) -> dspy.Module:
        """Return an improved copy of the student."""
        ...


class AgeMemOptimizer(Tracked, Teleprompter):
    """Compile an episode's agent, first into prompts, then into weights.

    Args:
        metric: scores trajectories in every phase.
        phases: which of "prompts", "warm_start", "grpo" to run, in this order. Left out: all three for a local
            policy, prompts alone for an LM whose weights are out of reach.
        prompts: the prompt optimizer; `BootstrapToolDemos` by default, any DSPy optimizer will do. It is given what its
            `compile` takes of teacher and valset.
        warm_start: the supervised phase.
        grpo: the reinforcement phase.
        demos: "distill" (the default) lets the warm start drop the demos of the prompt phase, which its weights then
            carry; "keep" trains and serves with them.
        auto, max_metric_calls, max_steps, max_minutes: what the default phases may cost, one of the four at most; see
            `Budget`.
        seed: of the default phases: demos, task order, sampling, adapter weights.
        num_threads: episodes that the default phases play at once.
        track_stats: the returned program carries `detailed_results`, the lines of the default phases' steps by phase;
            of a run that goes on, those since then.
        log_dir: where each phase's program is saved as soon as it is finished, beside it a metric without judges, and
            `metrics.jsonl` written. What was stopped, whatever stopped it, goes on when it is compiled again: finished
            phases are read back.
        resume: False starts anew in a log_dir that has a run.
        on_step: called with a dict for every optimizer step of the default phases.
        on_phase: called with (name, program) when a phase is finished.

    After `compile`, `programs` maps each finished phase to its program. Ctrl-C ends the compilation and returns the
    best program so far; `interrupted` then names the phase that was cut off.
    """

    def __init__(
        self,
        metric: TrajectoryReward,
        *,
        phases: Sequence[str] | None = None,
        prompts: Optimizer | None = None,
        warm_start: Optimizer | None = None,
        grpo: Optimizer | None = None,
        demos: Literal["distill", "keep"] | None = None,
        auto: Auto | None = None,
        max_metric_calls: int | None = None,
        max_steps: int | None = None,
        max_minutes: float | None = None,
        seed: int = 0,
        num_threads: int = 32,
        track_stats: bool = False,
        log_dir: str | Path | None = None,
        resume: bool = True,
        on_step: Callable[[dict[str, Any]], None] | None = None,
        on_phase: Callable[[str, dspy.Module], None] | None = None,
    ) -> None:
        super().__init__()
        if phases is not None and (not phases or [p for p in PHASES if p in phases] != list(phases)):
            raise ConfigurationError(f"phases must be some of {PHASES}, in this order, not {tuple(phases)}")
        self.budget = Budget(auto=auto, max_metric_calls=max_metric_calls, max_steps=max_steps, max_minutes=max_minutes)
        if self.budget != Budget() and grpo is not None:
            raise ConfigurationError(
                "a budget is for the default phases; give this grpo its own: GRPOConfig(max_steps=…)"
            )
        if demos not in (None, "distill", "keep"):
            raise ConfigurationError(f"demos must be 'distill' or 'keep', not {demos!r}")
        if demos is not None and (warm_start is not None or (phases is not None and "warm_start" not in phases)):
            raise ConfigurationError(
                "demos is for the default warm start; give your own WarmStart(keep_demos=…), or leave demos out"
            )
        self.metric, self.phases, self.resume, self.demos = metric, phases, resume, demos or "distill"
        self.log_dir = Path(log_dir) if log_dir is not None else None
        self.seed, self.num_threads, self.track_stats = seed, num_threads, track_stats
        self.on_step, self.on_phase = on_step, on_phase
        self._lines: dict[str, list[dict[str, Any]]] = {}
        self.given: dict[str, Optimizer | None] = {"prompts": prompts, "warm_start": warm_start, "grpo": grpo}
        self.programs: dict[str, dspy.Module] = {}
        self.interrupted: str | None = None

    def planned(self, phases: Sequence[str], *, train: int, val: int) -> dict[str, Optimizer]:
        """Return what each phase runs, given how many examples there are.

        Raises:
            ConfigurationError: the budget is too small for these phases.
        """
        examples, threads, seed = self.budget.examples, self.num_threads, self.seed
        found: dict[str, Optimizer] = {}
        spent = 0
        for phase in phases:
            given = self.given[phase]
            if given is not None:
                found[phase] = given
            elif phase == "prompts":
                found[phase] = BootstrapToolDemos(self.metric, max_examples=examples, num_threads=threads, seed=seed)
            elif phase == "warm_start":
                found[phase] = WarmStart(
                    self.metric,
                    max_examples=examples,
                    keep_demos=self.demos == "keep",
                    trainer=replace(WARM_START, seed=seed),
                    num_threads=threads,
                    seed=seed,
                    on_step=self._take,
                )
            else:
                found[phase] = StepwiseGRPO(
                    self.metric,
                    config=replace(self.budget.grpo(spent=spent), num_threads=threads, seed=seed),
                    trainer=TrainerConfig(seed=seed),
                    log_dir=self.log_dir,
                    resume=self.resume,
                    on_step=self._take,
                )
            spent += min(examples, train) + (2 * val if phase == "prompts" else 0)
        self.budget.check(phases, spent=spent - min(examples, train) * ("grpo" in phases))
        return found

    def compile(
        self,
        student: ThreeStageEpisode,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
    ) -> ThreeStageEpisode:
        """Return the program of the last phase; the student is not changed.

        Args:
            trainset: examples with gold annotations, unless a teacher is given.
            teacher: plays training examples for the first two phases; the `Demonstrator` when left out.
            valset: held-out examples on which the prompt phase decides whether its demos help.

        Raises:
            ConfigurationError: an empty training set, or a weight phase for an LM that is not a local policy.
            RunError: `log_dir` cannot be written, or holds a run with other settings, which are named.
        """
        if not trainset:
            raise ConfigurationError("the training set is empty; pass at least one example")
        self.log_params()
        started = time.perf_counter()
        self.programs, self.interrupted, self._lines = {}, None, {}
        if self.log_dir is not None and not self.resume and processes.is_first():
            shutil.rmtree(self.log_dir / "state", ignore_errors=True)  # of every phase, whichever this run comes to
        program = student
        phases = self.chosen_phases(student)
        if "prompts" in phases:
            processes.refuse_several("the prompt phase")
        for phase, optimizer in self.planned(phases, train=len(trainset), val=len(valset or ())).items():
            options: dict[str, Any] = {"teacher": teacher, "valset": valset}
            if isinstance(optimizer, StepwiseGRPO):
                options = {"valset": valset, "seconds_before": time.perf_counter() - started}
            try:
                program = self._phase(phase, optimizer, program, list(trainset), options)
                if getattr(optimizer, "interrupted", False):
                    self.interrupted = phase
                    break
                self.programs[phase] = program
                if self.on_phase is not None and processes.is_first():
                    self.on_phase(phase, program)
            except KeyboardInterrupt:
                self.interrupted = phase
                logger.warning("interrupted in the phase %s; this is the program of the last finished phase", phase)
                break
        if self.track_stats and program is not student:
            program.detailed_results = self._lines
        return program

    def _take(self, line: dict[str, Any]) -> None:
        """Hand a default phase's line on, and keep it."""
        self._lines.setdefault(line["phase"], []).append(line)
        if self.on_step is not None:
            self.on_step(line)

    def estimate(
        self,
        student: ThreeStageEpisode,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
    ) -> Estimate:
        """Return what `compile` with the same arguments will cost; print it to read it.

        LM calls are counted on demonstrated examples, on a local policy tokens too. For minutes and memory one task is
        played and one update taken on a local policy, whose result is thrown away.

        Raises:
            ConfigurationError: as for `compile`.
            DataError: the examples have no gold annotations to count from.
        """
        if not trainset:
            raise ConfigurationError("the training set is empty; pass at least one example")
        planned = self.planned(self.chosen_phases(student), train=len(trainset), val=len(valset or ()))
        return estimate(planned, student, self.metric, list(trainset), teacher=teacher, validated=len(valset or ()))

    def chosen_phases(self, student: dspy.Module) -> Sequence[str]:
        """Return the phases that were asked for, else all that the student's LM allows."""
        local = policy_engine(program_lm(student)) is not None
        return self.phases or (PHASES if local else PHASES[:1])

    def _phase(
        self,
        phase: str,
        optimizer: Optimizer,
        program: Any,
        trainset: list[dspy.Example],
        options: dict[str, Any],
    ) -> Any:
        """Return the program of one phase: what an earlier run saved, else what the optimizer makes."""
        if self.log_dir is not None:
            teacher, valset = options.get("teacher"), options["valset"]
            settings = {
                "optimizer": settings_of(optimizer),
                "reward": self.metric.describe(),
                "student": digest_of(program),
                "teacher": None if teacher is None else {**settings_of(teacher), "state": digest_of(teacher)},
                "trainset": digest_of(trainset),
                "valset": None if valset is None else digest_of(list(valset)),
            }
            state = self.log_dir / "state"
            done = state / f"{phase}.done"
            if begun_before(state, phase, settings, result=done, resume=self.resume) and done.exists():
                memory = getattr(getattr(program, "agent", program), "_memory", None)
                lm = program_lm(program)
                served = lm if policy_engine(lm) is not None else None  # one engine serves what was and what is trained
                return load_program(self.log_dir / phase, lm=served, memory=memory, trust_code=True)
        taken = inspect.signature(optimizer.compile).parameters
        options = {name: value for name, value in options.items() if name in taken}
        compiled = optimizer.compile(program, trainset=trainset, **options)
        if self.log_dir is not None:
            folder = self.log_dir / phase
            metric = None if self.metric.describe()["judges"] else self.metric  # no folder can hold a judge
            processes.of_first(lambda: save_program(compiled, folder, metric=metric, settings=settings))
            if not getattr(optimizer, "interrupted", False):
                done.touch()
        return compiled
