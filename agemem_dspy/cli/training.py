"""`agemem compile`: prompts, warm start and GRPO over a training set, with a run folder that outlives Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
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
    load_examples,
)
from agemem_dspy.cli.run_folder import RunFolder
from agemem_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    import dspy

    from agemem_dspy.optimizers import AgeMemOptimizer
    from agemem_dspy.rewards import TrajectoryReward

EXAMPLE = (
    "Example: agemem compile --data assistant --difficulty easy --model smollm2-135m --phases warm_start,grpo "
    "--steps 20 --out runs/first"
)
HELD_OUT = 5  # of data without splits, every fifth example is for validation

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
    "curriculum": ("grpo",),
    "lora_r": ("warm_start", "grpo"),
    "top_layers": ("warm_start", "grpo"),
}


def compile_program(
    out_dir: Annotated[Path, typer.Option("--out", help="Run folder; a new or an empty one.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="'assistant' (its train and val splits), or hotpotqa:PATH, hotpotqa:hub or jsonl:PATH, of which every "
            "fifth example is kept for validation."
        ),
    ] = None,
    train: Annotated[str | None, typer.Option(help="Training examples, in place of --data.")] = None,
    val: Annotated[str | None, typer.Option(help="Validation examples, with --train.")] = None,
    difficulty: DifficultyOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Train on the first so many examples.")] = None,
    val_limit: Annotated[int, typer.Option(min=1, help="Validate on the first so many examples.")] = 20,
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
    steps: Annotated[int | None, typer.Option(help="grpo: updates.")] = None,
    num_generations: Annotated[int | None, typer.Option(help="grpo: trajectories of one task.")] = None,
    tasks_per_step: Annotated[int | None, typer.Option(help="grpo: tasks in one update.")] = None,
    lr: Annotated[float | None, typer.Option(help="grpo: learning rate.")] = None,
    beta: Annotated[float | None, typer.Option(help="grpo: weight of the KL to the policy it starts from.")] = None,
    curriculum: Annotated[str | None, typer.Option(help="grpo: joint or progressive.")] = None,
    lora_r: Annotated[int | None, typer.Option(help="warm_start, grpo: rank of the adapter.")] = None,
    top_layers: Annotated[int | None, typer.Option(help="warm_start, grpo: train the last so many layers.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Episodes played at once.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of task order, sampling and weights.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Compile a program into prompts and weights; every finished phase is saved in the run folder.

    The run folder holds config.json, metrics.jsonl (a line a step), results.json (the base and every phase on the
    validation examples) and one saved program a phase, which --program takes.
    """
    options = {name: value for name, value in locals().items() if name in USED_BY and value is not None}
    with output(as_json) as out:
        chosen = _phases(phases)
        trainset, valset = _sets(data, train, val, difficulty=difficulty, limit=limit, val_limit=val_limit)
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
            "threads": threads, "seed": seed, "options": options,
        }  # fmt: skip
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
            raise Interrupted(folder.interrupted(metric)) from None
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
    on_phase: Callable[[str, dspy.Module], None],
) -> AgeMemOptimizer:
    """Return the composite optimizer that the options describe; what is left out keeps its default.

    Raises:
        ConfigurationError: an option that cannot work, such as one generation a task.
    """
    from agemem_dspy.optimizers import (
        AgeMemOptimizer,
        BootstrapToolDemos,
        GRPOConfig,
        StepwiseGRPO,
        TrainerConfig,
        WarmStart,
    )

    def picked(**names: str) -> dict[str, Any]:
        return {theirs: options[ours] for theirs, ours in names.items() if ours in options}

    teaching = picked(threshold="threshold", max_examples="max_examples")
    lora = {**picked(lora_r="lora_r", top_layers="top_layers"), "seed": seed}
    prompts = BootstrapToolDemos(metric, **teaching, **picked(max_demos="max_demos"), num_threads=threads, seed=seed)
    warm_start = WarmStart(
        metric,
        **teaching,
        **picked(epochs="epochs", batch_size="batch_size"),
        trainer=TrainerConfig(**{"learning_rate": 5e-4, **picked(learning_rate="warm_lr"), **lora}),
        num_threads=threads,
        seed=seed,
        on_step=folder.on_step,
    )
    sampling = picked(
        max_steps="steps",
        num_generations="num_generations",
        tasks_per_step="tasks_per_step",
        beta="beta",
        curriculum="curriculum",
    )
    grpo = StepwiseGRPO(
        metric,
        config=GRPOConfig(**sampling, num_threads=threads, seed=seed),
        trainer=TrainerConfig(**picked(learning_rate="lr"), **lora),
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
    known = ("prompts", "warm_start", "grpo")
    chosen = tuple(part.strip() for part in text.split(","))
    if list(chosen) != [phase for phase in known if phase in chosen]:
        raise ConfigurationError(f"--phases {text!r} must be some of {','.join(known)}, in this order")
    return chosen


def _possible_phases(student: dspy.Module) -> tuple[str, ...]:
    from agemem_dspy.optimizers.agemem import PHASES
    from agemem_dspy.policy.engine import policy_engine

    return PHASES if policy_engine(student.get_lm()) is not None else PHASES[:1]


def _refuse_idle(options: dict[str, Any], phases: tuple[str, ...]) -> None:
    for name in options:
        if not set(USED_BY[name]) & set(phases):
            raise ConfigurationError(
                f"--{name.replace('_', '-')} belongs to {' and '.join(USED_BY[name])}, which is not among the phases "
                f"{','.join(phases)}; leave it out"
            )


def _sets(
    data: str | None, train: str | None, val: str | None, *, difficulty: str | None, limit: int | None, val_limit: int
) -> tuple[list[dspy.Example], list[dspy.Example]]:
    """Return the training and the validation examples that the options name."""
    if (data is None) == (train is None) or (val is not None and train is None):
        raise ConfigurationError("give --data NAME, or --train SPEC with --val SPEC, such as --data assistant")
    if data == "assistant":
        train, val = "assistant:train", "assistant:val"
    elif data is not None:
        examples = load_examples(data, difficulty=difficulty)
        valset = examples[HELD_OUT - 1 :: HELD_OUT][:val_limit]
        del examples[HELD_OUT - 1 :: HELD_OUT]
        return examples[:limit], valset
    validation = load_examples(val, limit=val_limit, difficulty=difficulty) if val is not None else []
    return load_examples(str(train), limit=limit, difficulty=difficulty), validation
