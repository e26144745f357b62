"""The folder of one bench run: what was asked, the raw rows of every cell, which cells are finished."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agemem_dspy.bench.experiment import Experiment, slug
from agemem_dspy.errors import RunError
from agemem_dspy.journal import Journal
from agemem_dspy.optimizers.resume import refuse_changes


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Cell:
    """One contestant in one world with one seed."""

    world: str
    method: str
    seed: int

    def of(self, world: str, method: str) -> bool:
        """Tell whether it is a cell of a contestant in a world."""
        return (self.world, self.method) == (world, method)

    @property
    def file(self) -> str:
        """The name of its rows' file, without the ending."""
        return f"{slug(self.world)}.{slug(self.method)}.{self.seed}"


def cells_of(experiment: Experiment) -> list[Cell]:
    """Return everything that is to be played, in the order of playing: what one model plays comes together."""
    return [
        Cell(world=world.name, method=method.name, seed=seed)
        for seed in experiment.seeds
        for method in experiment.methods
        if seed in experiment.seeds_of(method)
        for world in experiment.worlds
    ]


class BenchFolder:
    """Reads and writes a run; what is in it is never played again.

    Args:
        path: made when the run begins.

    Raises:
        RunError: it holds something else, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.noted = path / "experiment.json"
        self._finished: dict[Cell, dict[str, Any]] = {}
        self._journal: Journal | None = None
        if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not self.noted.is_file())):
            raise RunError(f"{path} holds something already; give a new folder, such as --out {path}-2")

    @property
    def items(self) -> Path:
        """Where the rows are, a file a cell."""
        return self.path / "items"

    def resume(self, experiment: Experiment) -> bool:
        """Take up the run that is there; return whether one is.

        Raises:
            RunError: it is one of something else, whose differences are named, or damaged.
        """
        if not self.noted.is_file():
            return False
        noted, wanted = (one.model_dump(mode="json") for one in (self._noted(), experiment))
        refuse_changes(self.path, noted, wanted, f"Give a new folder, such as --out {self.path}-2")
        self._open()
        return True

    def begin(self, experiment: Experiment) -> None:
        """Note what is asked, or take up the run that is there.

        Raises:
            RunError: as for `resume`, or the folder cannot be written.
        """
        if not self.resume(experiment):
            wanted = experiment.model_dump(mode="json")
            self.write("experiment.json", json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
            self._open()

    def load(self) -> Experiment:
        """Return the experiment of a run that is there.

        Raises:
            RunError: none is, or it is damaged.
        """
        if not self.noted.is_file():
            raise RunError(f"{self.path} holds no bench run; name the --out folder of one")
        experiment = self._noted()
        self._open()
        return experiment

    def finished(self, cell: Cell) -> dict[str, Any] | None:
        """Return what was noted when a cell was finished, None when it is not."""
        return self._finished.get(cell)

    def finish(self, cell: Cell, **noted: Any) -> None:
        """Note that all rows of a cell are there."""
        if self._journal is None:
            raise RunError("the run has not begun; call begin first")
        self._journal.append({**asdict(cell), **noted})
        self._finished[cell] = noted

    def rows(self, file: Path) -> list[dict[str, Any]]:
        """Return the rows of a JSONL file of the run.

        Raises:
            RunError: it is not there, or damaged.
        """
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        except (OSError, ValueError) as error:
            raise RunError(f"{file} is missing or damaged ({error}); remove it and run the same command") from error

    def write(self, name: str, text: str) -> Path:
        """Write a text file of the run in one move, and return its path.

        Raises:
            RunError: it cannot be written.
        """
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f".{path.name}.new")
            new.write_text(text, encoding="utf-8")
            new.replace(path)
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"cannot write {path}: {reason}; free some space or choose another --out") from error
        return path

    def _open(self) -> None:
        self._journal = Journal(self.path / "cells.jsonl", resume=True)
        for row in self._journal.rows:
            cell = Cell(world=row.pop("world"), method=row.pop("method"), seed=row.pop("seed"))
            self._finished[cell] = row

    def _noted(self) -> Experiment:
        """Return the experiment that was begun; what an older version did not know has its default."""
        try:
            return Experiment.model_validate(json.loads(self.noted.read_text(encoding="utf-8")))
        except ValidationError as error:
            raise RunError(f"{self.noted} is of another version or damaged ({error}); play it anew") from error
        except (OSError, ValueError) as error:
            raise RunError(f"{self.noted} is damaged ({error}); choose another --out") from error
