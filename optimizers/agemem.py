"""AgeMemOptimizer: prompts, then a warm start, then step-wise GRPO, all on one metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import dspy
from dspy.teleprompt import Teleprompter

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.bootstrap import BootstrapToolDemos
from agemem_dspy.optimizers.local import program_lm
from agemem_dspy.optimizers.resume import begun_before, digest_of, settings_of
from agemem_dspy.optimizers.stepwise_grpo import StepwiseGRPO
from agemem_dspy.optimizers.warm_start import WarmStart
from agemem_dspy.policy.lm import policy_engine
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.programs.saved import load_program, save_program
from agemem_dspy.rewards import TrajectoryReward

PHASES = ("prompts", "warm_start", "grpo")


class Optimizer(Protocol):
    """What a phase is: any DSPy optimizer."""

    def compile(self, student: dspy.Module, *, trainset: Sequence[dspy.Example], **options: Any) -> dspy.Module:
        """Return an improved copy of the student."""
        ...


class AgeMemOptimizer(Teleprompter):
    """Compile an episode's agent, first into prompts, then into weights.

    Args:
        metric: scores trajectories in every phase.
        phases: which of "prompts", "warm_start", "grpo" to run, in this order. Left out: all three for a local
            policy, prompts alone for an LM whose weights are out of reach.
        prompts: the prompt optimizer; `BootstrapToolDemos` by default, any DSPy optimizer will do.
        warm_start: the supervised phase.
        grpo: the reinforcement phase.
        log_dir: where each phase's program is saved as soon as it is finished, and `metrics.jsonl` written. What was
            stopped, whatever stopped it, goes on when it is compiled again: finished phases are read back.
        resume: False starts anew in a log_dir that has a run.
        on_step: called with a dict for every optimizer step of the default phases.
        on_phase: called with (name, program) when a phase is finished.

    After `compile`, `programs` maps each finished phase to its program.
    """

    def __init__(
        self,
        metric: TrajectoryReward,
        *,
        phases: Sequence[str] | None = None,
        prompts: Optimizer | None = None,
        warm_start: Optimizer | None = None,
        grpo: Optimizer | None = None,
        log_dir: str | Path | None = None,
        resume: bool = True,
        on_step: Callable[[dict[str, Any]], None] | None = None,
        on_phase: Callable[[str, dspy.Module], None] | None = None,
    ) -> None:
        super().__init__()
        if phases is not None and (not phases or [p for p in PHASES if p in phases] != list(phases)):
            raise ConfigurationError(f"phases must be some of {PHASES}, in this order, not {tuple(phases)}")
        self.metric, self.phases, self.resume = metric, phases, resume
        self.log_dir = Path(log_dir) if log_dir is not None else None
        self.on_phase = on_phase
        self.optimizers: dict[str, Optimizer] = {
            "prompts": prompts or BootstrapToolDemos(metric),
            "warm_start": warm_start or WarmStart(metric, on_step=on_step),
            "grpo": grpo or StepwiseGRPO(metric, log_dir=self.log_dir, resume=resume, on_step=on_step),
        }
        self.programs: dict[str, dspy.Module] = {}

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
        local = policy_engine(program_lm(student)) is not None
        self.programs = {}
        program = student
        for phase in self.phases or (PHASES if local else PHASES[:1]):
            program = self._phase(phase, program, list(trainset), teacher, valset)
            self.programs[phase] = program
            if self.on_phase is not None:
                self.on_phase(phase, program)
        return program

    def _phase(
        self,
        phase: str,
        program: Any,
        trainset: list[dspy.Example],
        teacher: Any,
        valset: Sequence[dspy.Example] | None,
    ) -> Any:
        """Return the program of one phase: what an earlier run saved, else what the optimizer makes."""
        optimizer = self.optimizers[phase]
        if self.log_dir is not None:
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
                return load_program(self.log_dir / phase, memory=memory, trust_code=True)
        options = {} if phase == "grpo" else {"teacher": teacher}
        compiled = optimizer.compile(program, trainset=trainset, valset=valset, **options)
        if self.log_dir is not None:
            save_program(compiled, self.log_dir / phase, metric=self.metric)
            done.touch()
        return compiled
