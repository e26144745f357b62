"""A run told: a Markdown page with a table a world, and JSON lines with every number."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from agemem_dspy.bench.folder import BenchFolder
from agemem_dspy.bench.published import SOURCE, published
from agemem_dspy.bench.results import BenchResults
from agemem_dspy.results import Interval, PairedTest

if TYPE_CHECKING:
    from rich.table import Table

LABELS = {
    "em": "EM",
    "f1": "F1",
    "judge": "J",
    "memory_quality": "MQ",
    "memory_judge": "MQ, judged",
    "prompt_tokens": "prompt tokens",
    "tool_calls": "tool calls",
}
NOTHING = "–"
_MOST_KINDS = 8
_THREE_DECIMALS = re.compile(r"\d+\.\d{3}\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A titled table of texts. A terminal has no room for all of it.

    `main` are the columns whose intervals it shows, `aside` those that it leaves out.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    main: frozenset[int] = frozenset()
    aside: frozenset[int] = frozenset()

    def markdown(self) -> str:
        """Return it as Markdown, the first column to the left."""
        lines = [
            f"| {' | '.join(self.header)} |",
            f"|---|{'---:|' * (len(self.header) - 1)}",
            *(f"| {' | '.join(row)} |" for row in self.rows),
        ]
        return "\n".join(lines)

    def table(self) -> Table:
        """Return it as a rich table for a terminal, with two decimals."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(title=self.title, box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
        shown = [place for place in range(len(self.header)) if place not in self.aside]
        for place in shown:
            justify: Any = "right" if place else "left"
            table.add_column(self.header[place], justify=justify, no_wrap=place in self.main, overflow="fold")
        for row in self.rows:
            table.add_row(*(self._brief(place, row[place]) for place in shown))
        return table

    def _brief(self, place: int, cell: str) -> str:
        if self.header[place] == "p":
            return cell
        mean, _, rest = _THREE_DECIMALS.sub(lambda found: f"{float(found[0]):.2f}", cell).partition(" [")
        return f"{mean}\n[{rest}" if rest and place in self.main else mean


def label(measure: str) -> str:
    """Return how a measure is called in a table."""
    return LABELS.get(measure, measure.removeprefix("calls.").replace("_", " "))


def shown(value: float, *, signed: bool = False) -> str:
    """Return a number as a table shows it: whole from a hundred on, with a true minus sign."""
    digits = ",.0f" if abs(value) >= 100 else ".1f" if abs(value) >= 10 else ".3f"
    text = f"{value:{'+' if signed else ''}{digits}}"
    return text.replace("-", "−")


def interval(found: Interval, *, signed: bool = False) -> str:
    """Return a mean with its 95 % interval, where it has a width."""
    if found.low == found.high:
        return shown(found.mean, signed=signed)
    low, high = shown(found.low, signed=signed), shown(found.high, signed=signed)
    return f"{shown(found.mean, signed=signed)} [{low}, {high}]"


def p_value(test: PairedTest | None) -> str:
    """Return a p-value as a table shows it."""
    if test is None:
        return NOTHING
    return "< 0.001" if test.p_value < 0.001 else f"{test.p_value:.3f}"


def grids(results: BenchResults) -> list[Grid]:
    """Return a table a world and one of its kinds of questions; of several worlds or seeds one over all."""
    found = []
    for world in results.experiment.worlds:
        found.append(_world(results, world.name, world.published))
        if (kinds := _by_kind(results, world.name)) is not None:
            found.append(kinds)
    several = [_overview(results)] if len(results.experiment.worlds) > 1 else []
    return [*found, *several, *([_by_seed(results)] if len(results.experiment.seeds) > 1 else [])]


def page(results: BenchResults, command: str) -> str:
    """Return the whole report as Markdown.

    Args:
        command: what makes these numbers again.
    """
    experiment = results.experiment
    parts = [f"# {experiment.title}", "", "```bash", command, "```", ""]
    for grid in grids(results):
        parts += [f"## {grid.title}", "", grid.markdown(), ""]
    parts += [*(f"- {note}" for note in notes(results)), ""]
    return "\n".join(parts)


def notes(results: BenchResults) -> list[str]:
    """Say how to read the tables, and what differs from the paper."""
    experiment = results.experiment
    primary = label(experiment.primary)
    told = [
        f"Cells are means; intervals (95 %) resample the questions, each with its mean over the seeds. Gain and p are "
        f"{primary} against {experiment.against!r}, paired by question; p is two-sided, by sign flips.",
        f"Model {experiment.model}{_size(results)}; the evaluation's judge: {results.judge or 'none'}; the reward's: "
        f"{experiment.reward_judge or 'exact match and F1'}.",
    ]
    if experiment.published is not None:
        told.append(
            f"The paper's numbers ({SOURCE}) are of the models named there, trained on HotpotQA on 8 GPUs, J by an LM "
            "judge of its own; ours differ in model and size, training, data and judge as said here."
        )
    if results.missing:
        told.append(f"{len(results.missing)} cells are not played yet; the same command goes on.")
    for world in experiment.worlds:
        for term, agreement in results.agreement(world.name).items():
            kappa, rho = (NOTHING if v is None else shown(v) for v in (agreement.kappa, agreement.correlation))
            told.append(
                f"{world.name}: the judge agrees with {label(term)} on {agreement.n} answers: kappa {kappa}, "
                f"rank correlation {rho}."
            )
    return told


def _size(results: BenchResults) -> str:
    known = {noted["parameters"] for noted in results.noted.values() if noted.get("parameters")}
    return f" ({max(known) / 1e6:,.1f} M parameters)" if known else ""


def lines(results: BenchResults) -> list[dict[str, Any]]:
    """Return every number as JSON values: a line for each cell, and one over its seeds with the test."""
    term = results.experiment.primary
    found: list[dict[str, Any]] = []
    for cell, result in results.cells.items():
        found.append({**asdict(cell), **results.noted[cell], **result.summary()})
    for (world, method), result in results.pooled.items():
        test = results.tested(world, method, term)
        tested = None if test is None else {**asdict(test), "term": term, "against": results.experiment.against}
        seeds = results.seeds(world, method)
        found.append({"world": world, "method": method, "seeds": seeds, **result.summary(), "test": tested})
    for one in results.experiment.worlds:
        for measure, agreement in results.agreement(one.name).items():
            found.append({"world": one.name, "judge": results.judge, "agreement_with": measure, **asdict(agreement)})
    return found


def write(results: BenchResults, found: Sequence[Mapping[str, Any]], command: str) -> list[str]:
    """Write `results.jsonl` and `table.md` into the run's folder, and return their names.

    Args:
        found: as `lines` returns them.
        command: what makes these numbers again.
    """
    folder = BenchFolder(results.folder)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found)
    return [str(folder.write("results.jsonl", text)), str(folder.write("table.md", page(results, command)))]


def _world(results: BenchResults, world: str, known_as: str | None) -> Grid:
    experiment = results.experiment
    theirs = published(experiment.published, known_as)
    here = [one for (where, _), one in results.pooled.items() if where == world]
    columns = [name for name in experiment.columns if any(name in one.terms for one in here)]
    header = ["", "seeds", "n", *map(label, columns), "gain", "p"]
    header += [f"paper's {label(measure)}, {model}" for model, measure in theirs]
    rows = []
    for method in experiment.methods:
        result = results.pooled.get((world, method.name))
        if result is None:
            continue
        test = results.tested(world, method.name, experiment.primary)
        cells = [interval(result.interval(name)) if name in result.terms else NOTHING for name in columns]
        gain = NOTHING if test is None else interval(test.gain, signed=True)
        played = (str(len(results.seeds(world, method.name))), str(len(result.rows)))
        paper = _paper(theirs.values(), method.published or method.name)
        rows.append((method.name, *played, *cells, gain, p_value(test), *paper))
    data = next(one for one in experiment.worlds if one.name == world)
    main = {place for place, name in enumerate(header) if name in (label(experiment.primary), "gain")}
    n = max((len(one.rows) for one in here), default=0)
    return Grid(
        title=f"{world} ({data.data}, n = {n})",
        header=tuple(header),
        rows=tuple(rows),
        main=frozenset(main),
        aside=frozenset({1, 2}),
    )


def _by_kind(results: BenchResults, world: str) -> Grid | None:
    """Return F1 and judge, or the primary measure, of each kind of question; None for one kind, or very many."""
    here = {name: one for (where, name), one in results.pooled.items() if where == world}
    kinds = {name: one.by_kind() for name, one in here.items()}
    sizes = {kind: len(one.rows) for found in kinds.values() for kind, one in found.items()}
    if not 2 <= len(sizes) <= _MOST_KINDS:
        return None
    measures = [name for name in ("f1", "judge") if any(name in one.terms for one in here.values())]
    rows = []
    for measure in measures or [results.experiment.primary]:
        for name, found in kinds.items():
            played = [found.get(kind) for kind in sizes]
            cells = [shown(one.mean(measure)) if one and measure in one.terms else NOTHING for one in played]
            rows.append((f"{name}: {label(measure)}", *cells))
    header = ("", *(f"{kind} ({n})" for kind, n in sizes.items()))
    return Grid(title=f"{world}, by kind of question", header=header, rows=tuple(rows))


def _overview(results: BenchResults) -> Grid:
    experiment = results.experiment
    rows = []
    for method in experiment.methods:
        found = [results.pooled.get((world.name, method.name)) for world in experiment.worlds]
        means = [
            one.mean(experiment.primary) if one is not None and experiment.primary in one.terms else None
            for one in found
        ]
        every = [mean for mean in means if mean is not None]
        mean = shown(statistics.fmean(every)) if len(every) == len(means) else NOTHING
        rows.append((method.name, *(NOTHING if value is None else shown(value) for value in means), mean))
    header = ("", *(world.name for world in experiment.worlds), "mean")
    return Grid(title=f"{label(experiment.primary)}, all worlds", header=header, rows=tuple(rows))


def _by_seed(results: BenchResults) -> Grid:
    experiment, term = results.experiment, results.experiment.primary
    rows = []
    for world in experiment.worlds:
        for method in experiment.methods:
            played = {cell.seed: one for cell, one in results.cells.items() if cell.of(world.name, method.name)}
            found = [played.get(seed) for seed in experiment.seeds]
            cells = [NOTHING if one is None or term not in one.terms else interval(one.interval(term)) for one in found]
            rows.append((f"{world.name}: {method.name}", *cells))
    header = ("", *(f"seed {seed}" for seed in experiment.seeds))
    return Grid(title=f"{label(term)}, seed by seed", header=header, rows=tuple(rows))


def _paper(tables: Any, method: str) -> Sequence[str]:
    return [NOTHING if (value := values.get(method)) is None else shown(value) for values in tables]
