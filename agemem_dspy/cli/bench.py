"""`agemem bench <name>`: a table of the docs in one command; `agemem bench compare` pairs two runs."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from agemem_dspy.cli.models import model_errors
from agemem_dspy.cli.output import JsonFlag, Output, keeping, output
from agemem_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

    from agemem_dspy.bench.budget import Cost

# As `bench.shipped` names them, without loading what plays them.
NAMES = tuple(sorted(path.stem for path in (Path(__file__).parents[1] / "bench" / "experiments").glob("*.toml")))


class _Experiments(TyperGroup):
    """Takes the path of an experiment's TOML file for a command too."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, NAMES[0] if cmd_name.endswith(".toml") else cmd_name)


app = typer.Typer(
    cls=_Experiments,
    help="Play an experiment, by its name or its TOML file, and print its table: resumable, with intervals and tests.",
    epilog="Example: agemem bench components --quick",
)


def play(
    ctx: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="The small variant: less than 15 minutes on 2 cores.")] = False,
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run, runs/bench/NAME when left out; it resumes.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Who plays, as elsewhere; the experiment's own when left out.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="NAME=SPEC: the data of a world, such as hotpotqa=hotpotqa:dev.json; repeat it."),
    ] = None,
    worlds: Annotated[list[str] | None, typer.Option("--world", help="Play these worlds alone; repeat it.")] = None,
    train: Annotated[str | None, typer.Option("--train", help="What compiled methods learn from.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first so many examples of a world.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Such as 0,1,2.")] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="Play these methods of the experiment alone; repeat it.")
    ] = None,
    programs: Annotated[
        list[str] | None,
        typer.Option(
            "--program", help="NAME=FOLDER: a saved program to play as that method, {seed} its seed; repeat it."
        ),
    ] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", help="A model that scores answers and memories after the run.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Episodes played at once.")] = 8,
    estimate: Annotated[bool, typer.Option("--estimate", help="Print what it will cost, and stop.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Play an experiment and print its table."""
    which = str(ctx.info_name)
    with output(as_json) as out:
        from agemem_dspy.bench.budget import budget
        from agemem_dspy.bench.experiment import load_experiment
        from agemem_dspy.bench.runner import Bench
        from agemem_dspy.policy.choice import choose_model

        changes: dict[str, Any] = {"model": model, "train": train, "seeds": _numbers(seeds)}
        experiment = load_experiment(
            which, quick=quick, changes={key: value for key, value in changes.items() if value is not None}
        ).narrowed(data=data or (), worlds=worlds or (), methods=methods or (), programs=programs or (), limit=limit)
        folder = out_dir or Path("runs", "bench", experiment.name + ("-quick" if quick else ""))
        with out.progress() as bar:
            tasks: dict[str, Any] = {}

            def show(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    for other in tasks.values():
                        bar.update(other, visible=False)
                    tasks[what] = bar.add_task(what, total=total)
                    if not out.notes.is_terminal:
                        out.note(f"{what}, {total} in all")
                bar.update(tasks[what], completed=done)

            bench = Bench(experiment, folder, threads=threads, progress=show)
            bench.folder.resume(bench.experiment)
            costs = budget(bench)
            if costs:
                out.notes.print(_costs(costs))
            if estimate:
                out.result({"budget": [asdict(cost) for cost in costs]})
                return
            if judge is not None:
                choose_model(judge)  # a name that means nothing is said now, not after the run
            with keeping(f"what was played is kept in {folder}; the same command goes on from there"), model_errors():
                bench.run()
                if judge is not None:
                    bench.judge(judge)
        _tell(out, folder, judge, _command(ctx))


for _name in NAMES:
    app.command(_name, epilog=f"Example: agemem bench {_name} --quick --out runs/{_name}")(play)


@app.command(epilog="Example: agemem bench compare runs/bench/components#+LT runs/bench/components#+LT/RL")
def compare(
    one: Annotated[str, typer.Argument(help="Folder of a run, or FOLDER#METHOD.")],
    other: Annotated[str, typer.Argument(help="What it is compared with.")],
    measures: Annotated[
        list[str] | None, typer.Option("--measure", help="Such as em, answer or prompt_tokens; repeat it.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Pair two runs, or two methods, question by question: mean gain, 95 % interval, p-value."""
    with output(as_json) as out:
        from agemem_dspy.bench.compare import compare as pair
        from agemem_dspy.bench.compare import grid

        found = pair(one, other, tuple(measures or ()))
        out.console.print(grid(found, f"{one} against {other}").table())
        out.result({"comparisons": [asdict(row) for row in found]})


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigurationError(f"--seeds {text!r} must be numbers with commas between them, such as 0,1,2") from error


def _command(ctx: typer.Context) -> str:
    """Return the command that was given, without what changes no number."""
    words = ["agemem", "bench", str(ctx.info_name)]
    for option in ctx.command.params:
        value = ctx.params.get(str(option.name))
        if option.name in ("threads", "as_json", "estimate") or value in (None, False, [], ()):
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [option.opts[0]] if value is True else [option.opts[0], str(one)]
    return shlex.join(words)


def _costs(costs: list[Cost]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("still to do", box=SIMPLE_HEAD, title="estimate")
    names = ("episodes", "lm_calls", "prompt_tokens")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for cost in costs:
        table.add_row(cost.what, *(f"{getattr(cost, name):,}" for name in names))
    table.add_row("all", *(f"{sum(getattr(cost, name) for cost in costs):,}" for name in names))
    return table


def _tell(out: Output, folder: Path, judge: str | None, command: str) -> None:
    from agemem_dspy.bench.plot import plot
    from agemem_dspy.bench.report import grids, lines, notes, write
    from agemem_dspy.bench.results import BenchResults

    results = BenchResults.load(folder, judge=judge)
    found = lines(results)
    files = [*write(results, found, command), str(plot(results))]
    for grid in grids(results):
        out.console.print(grid.table())
    for note in notes(results):
        out.say(note, "dim")
    out.say(f"{', '.join(files)}; raw rows in {folder / 'items'}")
    out.result({"run": str(folder), "files": files, "results": found})
