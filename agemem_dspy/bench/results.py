"""What a run found: the rows of every cell with all measures, pooled over seeds, and the tests between contestants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from agemem_dspy.bench.experiment import Experiment, slug
from agemem_dspy.bench.folder import BenchFolder, Cell, cells_of
from agemem_dspy.bench.judging import Agreement, judged_folder
from agemem_dspy.errors import ConfigurationError
from agemem_dspy.results import EvaluationResult, PairedTest
from agemem_dspy.scoring import exact_match, hotpotqa_f1
from agemem_dspy.signatures import OPERATIONS


@dataclass(frozen=True)
class BenchResults:
    """The finished cells of a run, in the experiment's order.

    `judge` names the evaluation's judge whose scores are among the measures.
    """

    experiment: Experiment
    folder: Path
    cells: Mapping[Cell, EvaluationResult]
    noted: Mapping[Cell, Mapping[str, Any]]
    judge: str | None = None

    @classmethod
    def load(cls, path: Path, *, judge: str | None = None) -> BenchResults:
        """Read a run; one that is not finished gives the cells that are.

        Args:
            judge: read the scores of this judge; the run's only one when left out.

        Raises:
            RunError: no run is there, or it is damaged.
            ConfigurationError: the judge has not judged it, or several have and none is named.
        """
        folder = BenchFolder(path)
        experiment = folder.load()
        chosen = _chosen_judge(path, judge)
        judged = judged_folder(path, chosen) if chosen is not None else None
        cells, noted = {}, {}
        for cell in cells_of(experiment):
            if (found := folder.finished(cell)) is None:
                continue
            rows = [measured(row) for row in folder.rows(folder.items / f"{cell.file}.jsonl")]
            if judged is not None and (scored := judged / f"{cell.file}.jsonl").is_file():
                scores = {row["id"]: row for row in folder.rows(scored)}
                rows = [{**row, **scores.get(row["id"], {})} for row in rows]
            cells[cell] = EvaluationResult(name=cell.file, rows=tuple(rows))
            noted[cell] = found
        return cls(
            experiment=experiment,
            folder=path,
            cells=cells,
            noted=noted,
            judge=chosen,
        )

    @cached_property
    def pooled(self) -> dict[tuple[str, str], EvaluationResult]:
        """Map (world, contestant) to one result over its seeds."""
        runs: dict[tuple[str, str], list[EvaluationResult]] = {}
        for cell, result in self.cells.items():
            runs.setdefault((cell.world, cell.method), []).append(result)
        return {key: EvaluationResult.pooled(key[1], found) for key, found in runs.items()}

    @property
    def missing(self) -> list[Cell]:
        """Return the cells that are not finished yet."""
        return [cell for cell in cells_of(self.experiment) if cell not in self.cells]

    def seeds(self, world: str, method: str) -> list[int]:
        """Return the seeds of a contestant's finished cells in a world."""
        return [cell.seed for cell in self.cells if cell.of(world, method)]

    def tested(self, world: str, method: str, term: str) -> PairedTest | None:
        """Test a contestant against the experiment's baseline; None for that one, and where one is missing."""
        ours, theirs = self.pooled.get((world, method)), self.pooled.get((world, self.experiment.against))
        if method == self.experiment.against or ours is None or theirs is None:
            return None
        if term not in ours.terms or term not in theirs.terms:
            return None
        return ours.paired_test(theirs, term)

    def agreement(self, world: str) -> dict[str, Agreement]:
        """Return how far the judge agrees with EM and F1 over all answers in a world; {} without a judge."""
        rows = [row for cell, one in self.cells.items() if cell.world == world for row in one.rows if "judge" in row]
        if not rows:
            return {}
        judged = [row["judge"] for row in rows]
        return {term: Agreement.of(judged, [row[term] for row in rows]) for term in ("em", "f1")}


def measured(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with EM and F1 of its answer and a column `calls.<tool>` for each memory tool.

    They are HotpotQA's, but for an F1 that the row has already: its data are published with a score of that name.
    """
    counts = row.get("calls", {})
    calls = {f"calls.{tool}": counts.get(tool, {}).get("attempted", 0) for tool in (*OPERATIONS, *counts)}
    if row["gold"] is None:  # the task was not a question
        return {**row, **calls}
    given, gold = ", ".join(str(value) for value in (row["prediction"] or {}).values()), str(row["gold"])
    return {"em": exact_match(given, gold), "f1": hotpotqa_f1(given, gold), **row, **calls}


def _chosen_judge(run: Path, judge: str | None) -> str | None:
    found = sorted(path.name for path in (run / "judged").glob("*")) if (run / "judged").is_dir() else []
    if judge is not None:
        if slug(judge) not in found:
            raise ConfigurationError(f"{judge!r} has not judged {run}; those who have: {', '.join(found) or 'nobody'}")
        return judge
    if len(found) > 1:
        raise ConfigurationError(f"{run} was judged by {', '.join(found)}; name one with --judge")
    return found[0] if found else None
