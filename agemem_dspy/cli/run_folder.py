"""The folder of a training run: what it was asked, every step, every finished phase; usable whenever it stops."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agemem_dspy.cli.output import write_json
from agemem_dspy.errors import RunError

if TYPE_CHECKING:
    import dspy
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from agemem_dspy.cli.output import Output
    from agemem_dspy.journal import Journal
    from agemem_dspy.rewards import TrajectoryReward

WITH_INTERVAL = ("reward", "answer")  # of the table, which has to fit 80 columns
MEAN_ALONE = ("memory_quality", "parse_rate", "prompt_tokens")


class RunFolder:
    """Writes a run as it happens and shows its progress.

    Args:
        path: made with its parents; anything that is in it already is another run's and is not touched.

    Raises:
        RunError: the folder is not empty, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.phases: list[dict[str, Any]] = []
        self._journal: Journal | None = None
        self._program: dspy.Module | None = None
        self._unfinished: Mapping[str, Any] = {}
        self._out: Output | None = None
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._since = time.perf_counter()
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise RunError(f"{path} holds something already; give a new folder, such as --out {path}-2")
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror or error}; choose another --out") from error

    def begin(self, config: Mapping[str, Any]) -> None:
        """Write `config.json` and open `metrics.jsonl`, before anything costs time.

        Raises:
            RunError: the folder cannot be written.
        """
        from agemem_dspy.journal import Journal

        write_json(self.path / "config.json", config)
        self._journal = Journal(self.path / "metrics.jsonl", resume=False)

    @contextlib.contextmanager
    def show(self, out: Output) -> Iterator[None]:
        """Show bars while the block runs; lines where stderr is no terminal."""
        self._out, self._since = out, time.perf_counter()
        with contextlib.ExitStack() as stack:
            if out.notes.is_terminal:
                self._bar = stack.enter_context(out.progress())
            yield
        self._bar = None

    def on_step(self, line: dict[str, Any]) -> None:
        """Record and show one optimizer step."""
        if self._journal is not None:
            self._journal.append(line)
        self._unfinished = line
        seen = "loss" if line["phase"] == "warm_start" else "reward"
        self._tell(str(line["phase"]), f"{seen} {line[seen]:.3f}", line["step"], line["steps"])

    def on_phase(
        self, name: str, program: dspy.Module, metric: TrajectoryReward, valset: Sequence[dspy.Example], threads: int
    ) -> None:
        """Record a finished phase with its scores on the validation examples, and write `results.json`."""
        seconds = time.perf_counter() - self._since
        phase: dict[str, Any] = {"name": name, "compile_seconds": seconds}
        if name != "base":
            phase["program"] = str(self.path / name)
        self._program, self._unfinished = program, {}
        self.phases.append(phase)
        if valset:
            from agemem_dspy.evaluation import evaluate

            result = evaluate(
                program,
                valset,
                metric,
                num_threads=threads,
                log_dir=self.path / "validation",
                name=name,
                progress=lambda done, total: self._tell(f"validating {name}", "", done, total),
            )
            phase.update(result.summary())
        self._since = time.perf_counter()
        write_json(self.path / "results.json", self.results())

    def interrupted(self, metric: TrajectoryReward) -> str:
        """Save the weights of a phase that was cut off, where it has any, and say what is kept.

        Raises:
            RunError: they cannot be written.
        """
        finished = [phase["name"] for phase in self.phases if "program" in phase]
        kept = [f"finished phases: {', '.join(finished) or 'none'}"]
        line = self._unfinished
        if "model" in line and self._program is not None:
            from agemem_dspy.programs.saved import save_program

            partial: Any = copy.deepcopy(self._program)
            partial.set_lm(partial.get_lm().copy(model=line["model"]))
            folder = self.path / f"{line['phase']}_step_{line['step']}"
            save_program(partial, folder, metric=metric)
            kept.append(f"the program after {line['step']} steps of {line['phase']}: {folder}")
        return f"{'; '.join(kept)}; everything is kept in {self.path}"

    def results(self) -> dict[str, Any]:
        """Return {"run", "program": the last, "phases": [{"name", "compile_seconds", "program", term: interval}]}."""
        programs = [phase["program"] for phase in self.phases if "program" in phase]
        return {"run": str(self.path), "phases": self.phases, "program": programs[-1] if programs else None}

    def table(self) -> Table:
        """Return the phases as a rich table: means with their 95 % intervals on the validation examples."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(
            box=SIMPLE_HEAD, title=f"validation (n = {max((phase.get('n', 0) for phase in self.phases), default=0)})"
        )
        table.add_column("phase", no_wrap=True)
        for column in (*WITH_INTERVAL, *MEAN_ALONE):
            table.add_column(column.replace("_", " "), justify="right", no_wrap=column in WITH_INTERVAL)
        for phase in self.phases:
            cells = [
                _mean(phase.get(column), interval=column in WITH_INTERVAL) for column in (*WITH_INTERVAL, *MEAN_ALONE)
            ]
            table.add_row(phase["name"], *cells)
        return table

    def _tell(self, name: str, detail: str, done: int, total: int) -> None:
        text = f"{name} {detail}".strip()
        if self._bar is not None:
            if name not in self._tasks:
                self._tasks[name] = self._bar.add_task(name, total=total)
            self._bar.update(self._tasks[name], description=text, completed=done, total=total)
        elif self._out is not None:
            self._out.note(f"{done}/{total} {text}")


def _mean(value: Mapping[str, float] | None, *, interval: bool) -> str:
    if value is None:
        return "–"
    mean = f"{value['mean']:.0f}" if abs(value["mean"]) >= 100 else f"{value['mean']:.3f}"
    return f"{mean}\n[{value['low']:.2f}, {value['high']:.2f}]" if interval else mean
