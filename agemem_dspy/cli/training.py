"""`agemem compile`: prompts, warm start and GRPO over a training set, with a run folder that outlives Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agemem_dspy.cli.models import ModelOption, model_errors
from agemem_dspy.cli.output import Interrupted, JsonFlag, output
from agemem_dspy.cli.program import (
    DifficultyOption,
    ProgramOption,
    RoundsOption,
    TokensOption,
    TrustOption,
    chosen_program,
)
from agemem_dspy.cli.run_folder import RunFolder
from agemem_dspy.cli.training_options import (
    BetaOption,
    GenerationsOption,
    LayersOption,
    LimitOption,
    RankOption,
    RateOption,
    SeedOption,
    SetsOption,
    StepsOption,
    TasksOption,
    ThreadsOption,
    TrainOption,
    ValLimitOption,
    ValOption,
    training_sets,
)
from agemem_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    import dspy

    from agemem_dspy.optimizers import AgeMemOptimizer
    from agemem_dspy.rewards import TrajectoryReward

EXAMPLE = (
    "Example: agemem compile --data assistant --difficulty easy --model smollm2-135m --phases warm_start,grpo "
    "--steps 20 --out runs/first"
)

# Which phases an option belongs to; given without one of them it would do nothing, which is an error.
USED_BY = {
    "max_demos": ("prompts",),
    "threshold": ("prompts", "warm_start"),
    "max_examples": ("prompts", "warm_start"),
    "epochs": ("warm_start",),
    "batch_size": ("warm_start",),
    "warm_lr": ("warm_start",),
    "steps": ("grpo",),
    "num_generations": ("grpo",),
    "tasks_per_step": ("grpo",),
    "lr": ("grpo",),
    "beta": ("grpo",),
    "max_metric_calls": ("grpo",),
    "max_minutes": ("grpo",),
    "curriculum": ("grpo",),
    "credit": ("grpo",),
    "lora_r": ("warm_start", "grpo"),
    "top_layers": ("warm_start", "grpo"),
}


def compile_program(
    out_dir: Annotated[
        Path, typer.Option("--out", help="Run folder; where one was stopped, the same command goes on.")
    ],
    data: SetsOption = None,
    train: TrainOption = None,
    val: ValOption = None,
    difficulty: DifficultyOption = None,
    limit: LimitOption = None,
    val_limit: ValLimitOption = 20,
    model: ModelOption = None,
    program: ProgramOption = None,
    trust_code: TrustOption = False,
    max_rounds: RoundsOption = None,
    max_tokens: TokensOption = None,
    phases: Annotated[
        str | None, typer.Option(help="Some of prompts,warm_start,grpo; all of them for a local model when left out.")
    ] = None,
    weights: Annotated[str, typer.Option(help="Reward weights: paper or answer_only.")] = "paper",
    max_demos: Annotated[int | None, typer.Option(help="prompts: most demos in the prompt.")] = None,
    threshold: Annotated[float | None, typer.Option(help="prompts, warm_start: least reward to learn from.")] = None,
    max_examples: Annotated[
        int | None, typer.Option(help="prompts, warm_start: examples that the teacher plays.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="warm_start: passes over the traces.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="warm_start: trajectories in one step.")] = None,
    warm_lr: Annotated[float | None, typer.Option(help="warm_start: learning rate.")] = None,
    steps: StepsOption = None,
    num_generations: GenerationsOption = None,
    tasks_per_step: TasksOption = None,
    lr: RateOption = None,
    beta: BetaOption = None,
    max_metric_calls: Annotated[int | None, typer.Option(help="grpo: most trajectories that are scored.")] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Stop GRPO when so many minutes are over in all.")] = None,
    curriculum: Annotated[str | None, typer.Option(help="grpo: joint or progressive.")] = None,
    credit: Annotated[str | None, typer.Option(help="grpo: broadcast (the paper's), stage or released.")] = None,
    lora_r: RankOption = None,
    top_layers: LayersOption = None,
    threads: ThreadsOption = 8,
    seed: SeedOption = 0,
    estimate: Annotated[bool, typer.Option("--estimate", help="Print what it will cost, and stop.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compile a program into prompts and weights; every finished phase is saved in the run folder, where a run that was
    stopped goes on.

    The folder holds config.json, metrics.jsonl (a line a step), results.json (base and phases on the validation
    examples) and a saved program for each phase, which --program takes.
    """
    options = {name: value for name, value in locals().items() if name in USED_BY and value is not None}
    with output(as_json) as out:
        chosen = _phases(phases)
        trainset, valset = training_sets(data, train, val, difficulty=difficulty, limit=limit, val_limit=val_limit)
        folder = RunFolder(out_dir)
        student = chosen_program(
            model=model,
            program=program,
            trust_code=trust_code,
            max_rounds=max_rounds,
            max_tokens=max_tokens,
            temperature=None,
        )
        chosen = chosen or _possible_phases(student)
        _refuse_idle(options, chosen)
        from agemem_dspy.rewards import TrajectoryReward

        metric = TrajectoryReward(weights)  # type: ignore[arg-type]  # an unknown profile is refused, with a message
        config = {
            "data": data or train, "val": val, "difficulty": difficulty, "train_examples": len(trainset),
            "val_examples": len(valset), "model": student.get_lm().model, "phases": chosen, "weights": weights,
            "threads": threads, "seed": seed, "max_rounds": max_rounds, "max_tokens": max_tokens,
            "program": str(program) if program is not None else None, "options": options,
        }  # fmt: skip
        if estimate:
            planned = build_optimizer(metric, chosen, options, threads=threads, seed=seed, folder=folder)
            with model_errors():
                found = planned.estimate(student, trainset=trainset, valset=valset or None)
            out.say(str(found))
            out.result(asdict(found))
            return
        folder.begin(config)

        def on_phase(name: str, finished: dspy.Module) -> None:
            folder.on_phase(name, finished, metric, valset, threads)

        optimizer = build_optimizer(
            metric, chosen, options, threads=threads, seed=seed, folder=folder, on_phase=on_phase
        )
        try:
            with model_errors(), folder.show(out):
                on_phase("base", student)
                optimizer.compile(student, trainset=trainset, valset=valset or None)
        except KeyboardInterrupt:
            raise Interrupted(folder.interrupted()) from None
        if optimizer.interrupted is not None:
            raise Interrupted(folder.interrupted())
        results = folder.results()
        out.console.print(folder.table())
        out.say(f"the compiled program is in {results['program']}; play it with:")
        out.say(f"agemem eval --program {results['program']}")
        out.result(results)


def build_optimizer(
    metric: TrajectoryReward,
    phases: tuple[str, ...],
    options: dict[str, Any],
    *,
    threads: int,
    seed: int,
    folder: RunFolder,
    on_phase: Callable[[str, dspy.Module], None] | None = None,
) -> AgeMemOptimizer:
    """Return the composite optimizer that the options describe; what is left out keeps its default.

    Raises:
        ConfigurationError: an option that cannot work, such as one generation a task, or several processes.
    """
    from agemem_dspy.optimizers import (
        AgeMemOptimizer,
        BootstrapToolDemos,
        GRPOConfig,
        StepwiseGRPO,
        TrainerConfig,
        WarmStart,
        processes,
    )
    from agemem_dspy.optimizers.warm_start import WARM_START

    processes.refuse_several("agemem compile")

    def picked(**names: str) -> dict[str, Any]:
        return {theirs: options[ours] for theirs, ours in names.items() if ours in options}

    teaching = picked(threshold="threshold", max_examples="max_examples")
    lora = {**picked(lora_r="lora_r", top_layers="top_layers"), "seed": seed}
    prompts = BootstrapToolDemos(metric, **teaching, **picked(max_demos="max_demos"), num_threads=threads, seed=seed)
    warm_start = WarmStart(
        metric,
        **teaching,
        **picked(epochs="epochs", batch_size="batch_size"),
        trainer=replace(WARM_START, **picked(learning_rate="warm_lr"), **lora),
        num_threads=threads,
        seed=seed,
        on_step=folder.on_step,
    )
    sampling = picked(
        max_steps="steps",
        max_metric_calls="max_metric_calls",
        max_minutes="max_minutes",
        num_generations="num_generations",
        tasks_per_step="tasks_per_step",
        beta="beta",
        curriculum="curriculum",
        credit="credit",
    )
    grpo = StepwiseGRPO(
        metric,
        config=GRPOConfig(**sampling, num_threads=threads, seed=seed),
        trainer=TrainerConfig(**picked(learning_rate="lr"), **lora),
        log_dir=folder.path,
        on_step=folder.on_step,
    )
    return AgeMemOptimizer(
        metric,
        phases=phases,
        prompts=prompts,
        warm_start=warm_start,
        grpo=grpo,
        log_dir=folder.path,
        on_phase=on_phase,
    )


def _phases(text: str | None) -> tuple[str, ...] | None:
    """Read `--phases`; the optimizer's own order is demanded here, before a model is loaded."""
    if text is None:
        return None
    from agemem_dspy.optimizers.agemem import PHASES

    chosen = tuple(part.strip() for part in text.split(","))
    if list(chosen) != [phase for phase in PHASES if phase in chosen]:
        raise ConfigurationError(f"--phases {text!r} must be some of {','.join(PHASES)}, in this order")
    return chosen


def _possible_phases(student: dspy.Module) -> tuple[str, ...]:
    from agemem_dspy.optimizers.agemem import PHASES
    from agemem_dspy.policy.lm import policy_engine

    return PHASES if policy_engine(student.get_lm()) is not None else PHASES[:1]


def _refuse_idle(options: dict[str, Any], phases: tuple[str, ...]) -> None:
    for name in options:
        if not set(USED_BY[name]) & set(phases):
            raise ConfigurationError(
                f"--{name.replace('_', '-')} belongs to {' and '.join(USED_BY[name])}, which is not among the phases "
                f"{','.join(phases)}; leave it out"
            )
