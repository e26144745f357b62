"""What `compile` and `tune` ask alike: the examples to train on, GRPO's budget, the adapter's size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agemem_dspy.cli.program import load_examples
from agemem_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    import dspy

HELD_OUT = 5  # of data without splits, every fifth example is for validation

SetsOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="'assistant' (its train and val splits), or hotpotqa:PATH, hotpotqa:hub or jsonl:PATH, of which every "
        "fifth example is kept for validation.",
    ),
]
TrainOption = Annotated[str | None, typer.Option("--train", help="Training examples, in place of --data.")]
ValOption = Annotated[str | None, typer.Option("--val", help="Validation examples, with --train.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Train on the first so many examples.")]
ValLimitOption = Annotated[int, typer.Option("--val-limit", min=1, help="Validate on the first so many examples.")]
StepsOption = Annotated[int | None, typer.Option("--steps", help="grpo: updates.")]
GenerationsOption = Annotated[
    int | None, typer.Option("--num-generations", help="grpo: trajectories of one task; at least 2.")
]
TasksOption = Annotated[int | None, typer.Option("--tasks-per-step", help="grpo: tasks in one update.")]
RateOption = Annotated[float | None, typer.Option("--lr", help="grpo: learning rate.")]
BetaOption = Annotated[
    float | None, typer.Option("--beta", help="grpo: weight of the KL to the policy it starts from.")
]
RankOption = Annotated[int | None, typer.Option("--lora-r", help="Rank of the trained adapter.")]
LayersOption = Annotated[int | None, typer.Option("--top-layers", help="Train the last so many layers only.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Episodes played at once.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of task order, sampling and weights.")]


def training_sets(
    data: str | None, train: str | None, val: str | None, *, difficulty: str | None, limit: int | None, val_limit: int
) -> tuple[list[dspy.Example], list[dspy.Example]]:
    """Return the training and the validation examples that the options name.

    Raises:
        ConfigurationError: neither `data` nor `train`, or both.
        DataError: as for `load_examples`.
    """
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
