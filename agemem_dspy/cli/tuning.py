"""`agemem tune`: an Optuna study over the reward weights, which a second run of the same command continues."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agemem_dspy.cli.models import ModelOption, model_errors
from agemem_dspy.cli.output import Interrupted, JsonFlag, Output, output
from agemem_dspy.cli.program import (
    DifficultyOption,
    ProgramOption,
    RoundsOption,
    TokensOption,
    TrustOption,
    chosen_program,
)
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

EXAMPLE = "Example: agemem tune --data assistant --difficulty easy --program runs/first/warm_start --study runs/study"


def tune(
    study: Annotated[Path, typer.Option("--study", help="Folder of the study; the same command continues it.")],
    trials: Annotated[int, typer.Option("--trials", min=1, help="Finished trials wanted in all.")] = 10,
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
    steps: StepsOption = 5,
    num_generations: GenerationsOption = None,
    tasks_per_step: TasksOption = None,
    lr: RateOption = None,
    beta: BetaOption = None,
    lora_r: RankOption = None,
    top_layers: LayersOption = None,
    threads: ThreadsOption = 8,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Find the reward weights under which GRPO ends with the best answers on the validation examples.

    Every trial trains the same program by GRPO under other weights; its value is the plain answer score. Start from
    a warm --program: an untrained model earns nothing under any weights.
    """
    grpo = {"max_steps": steps, "num_generations": num_generations, "tasks_per_step": tasks_per_step, "beta": beta}
    lora = {"learning_rate": lr, "lora_r": lora_r, "top_layers": top_layers}
    with output(as_json) as out:
        trainset, valset = training_sets(data, train, val, difficulty=difficulty, limit=limit, val_limit=val_limit)
        student = chosen_program(
            model=model,
            program=program,
            trust_code=trust_code,
            max_rounds=max_rounds,
            max_tokens=max_tokens,
            temperature=None,
        )
        import optuna

        from agemem_dspy.optimizers import GRPOConfig, TrainerConfig
        from agemem_dspy.optimizers.local import local_policy
        from agemem_dspy.optimizers.tuning import RewardTuner

        local_policy(student)  # refused here, before a study is begun
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        finished: list[dict[str, Any]] = []

        def on_trial(row: dict[str, Any]) -> None:
            finished.append(row)
            out.note(f"trial {row['trial']} {row['state']}: answer {_number(row['value'])}, weights {_weights(row)}")

        tuner = RewardTuner(
            student,
            trainset=trainset,
            valset=valset,
            study_dir=study,
            n_trials=trials,
            grpo=GRPOConfig(**_given(grpo), num_threads=threads, seed=seed),
            trainer=TrainerConfig(**_given(lora), seed=seed),
            seed=seed,
            on_trial=on_trial,
        )
        try:
            with model_errors():
                found = tuner.run()
        except KeyboardInterrupt:
            raise Interrupted(
                f"{len(finished)} trials were finished in this run; the study is kept in {study}, the same command "
                "goes on from there"
            ) from None
        best = {"task": found.best.task, "context": found.best.context, "memory": found.best.memory}
        _show(out, found.trials)
        out.say(f"best: answer {found.value:.3f} with weights {_weights({'weights': best})}")
        out.result({"study": str(study), "best": best, "value": found.value, "trials": list(found.trials)})


def _show(out: Output, trials: tuple[Any, ...]) -> None:
    from rich.table import Table

    table = Table("trial", "state", "answer", "task", "context", "memory", "seconds", title="trials")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in trials:
        weights = row["weights"] or {}
        cells = (row["value"], *(weights.get(term) for term in ("task", "context", "memory")), row["seconds"])
        table.add_row(str(row["trial"]), row["state"], *(_number(cell) for cell in cells))
    out.console.print(table)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _weights(row: dict[str, Any]) -> str:
    return ", ".join(f"{term} {value:.2f}" for term, value in (row["weights"] or {}).items())
