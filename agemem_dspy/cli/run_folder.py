"""The folder of a training run: what it was asked, every step, every finished phase; usable whenever it stops."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agemem_dspy.cli.output import read_json, write_json
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
        path: made with its parents. A run of the same command that is in it goes on; anything else is not touched.

    Raises:
        RunError: the folder holds something else, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.phases: list[dict[str, Any]] = []
        self._journal: Journal | None = None
        self._unfinished: Mapping[str, Any] = {}
        self._out: Output | None = None
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._since = time.perf_counter()
        self._before: dict[str, Any] = {}  # the phases that the run had finished when it was stopped
        try:
            if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / "config.json").is_file())):
                raise RunError(f"{path} holds something already; give a new folder, such as --out {path}-2")
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror or error}; choose another --out") from error

    def begin(self, config: Mapping[str, Any]) -> None:
        """Write `config.json` and open `metrics.jsonl`, before anything costs time; or take up the run that is there.

        Raises:
            RunError: the folder cannot be written, or holds a run of another command, whose differences are named.
        """
        from agemem_dspy.journal import Journal
        from agemem_dspy.optimizers.resume import drop_lines_after, refuse_changes

        noted, metrics = self.path / "config.json", self.path / "metrics.jsonl"
        if noted.is_file():
            wanted = json.loads(json.dumps(config, default=str))
            refuse_changes(self.path, read_json(noted), wanted, f"Give a new folder, such as --out {self.path}-2")
            results = self.path / "results.json"
            if results.is_file():
                self._before = {phase["name"]: phase for phase in read_json(results)["phases"]}
            if not (self.path / "state" / "warm_start.done").exists():
                drop_lines_after(metrics, "warm_start", 0)
        else:
            write_json(noted, config)
        self._journal = Journal(metrics, resume=True)

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
        """Show one optimizer step and record it; GRPO records its own."""
        if self._journal is not None and line["phase"] != "grpo":
            self._journal.append(line)
        self._unfinished = line
        seen = "loss" if line["phase"] == "warm_start" else "reward"
        self._tell(str(line["phase"]), f"{seen} {line[seen]:.3f}", line["step"], line["steps"])

    def on_phase(
        self, name: str, program: dspy.Module, metric: TrajectoryReward, valset: Sequence[dspy.Example], threads: int
    ) -> None:
        """Record a finished phase with its scores on the validation examples, and write `results.json`."""
        seconds = self._before.get(name, {}).get("compile_seconds", time.perf_counter() - self._since)
        if name == "grpo" and self._unfinished.get("phase") == name:
            seconds = self._unfinished["seconds"]  # of the runs before this one too
        phase: dict[str, Any] = {"name": name, "compile_seconds": seconds}
        if name != "base":
            phase["program"] = str(self.path / name)
        self._unfinished = {}
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

    def interrupted(self) -> str:
        """Say what is kept of a run that was cut off."""
        finished = [phase["name"] for phase in self.phases if "program" in phase]
        kept = [f"finished phases: {', '.join(finished) or 'none'}"]
        line = self._unfinished
        if line.get("phase") == "grpo" and (self.path / "grpo").is_dir():
            kept.append(f"the program after {line['step']} steps of grpo: {self.path / 'grpo'}")
        return f"{'; '.join(kept)}; everything is kept in {self.path}, and the same command goes on"

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
