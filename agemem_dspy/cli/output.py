"""How the commands speak: results on stdout, everything else on stderr; JSON for machines; one line an error."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from agemem_dspy.errors import RunError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

# Control characters, which a stored text may hold to move a terminal's cursor or rename its window, are spelt out.
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for machines; progress goes to stderr.")]


class Interrupted(Exception):
    """Ctrl-C was pressed; the message says what is kept and where."""


class Output:
    """Where one command writes. `console` shows results to people, `notes` shows progress on stderr.

    Args:
        stream: the real stdout.
        as_json: whether `result` prints JSON; `console` is then silent.
    """

    def __init__(self, stream: TextIO, *, as_json: bool) -> None:
        self.stream, self.as_json = stream, as_json
        self.console = _console(stream, quiet=as_json)
        self.notes = _console(sys.stderr)

    def result(self, value: Mapping[str, Any]) -> None:
        """Print the command's result as one JSON object on one line, when JSON was asked for."""
        if self.as_json:
            self.stream.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
            self.stream.flush()

    def say(self, text: str, style: str | None = None) -> None:
        """Show people one text, unbroken, so that a pipe sees whole lines."""
        self.console.print(text.translate(_VISIBLE), style=style, soft_wrap=True)

    def note(self, text: str) -> None:
        """Write one line of progress to stderr."""
        self.notes.print(text.translate(_VISIBLE), style="dim", soft_wrap=True)

    def progress(self) -> Progress:
        """Return a progress display on stderr: text, bar, count, time."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self.notes, transient=True)


@contextlib.contextmanager
def output(as_json: bool) -> Iterator[Output]:
    """Open a command's output; with JSON, what libraries print meanwhile goes to stderr, so that stdout stays pure."""
    stream = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield Output(stream, as_json=as_json)


@contextlib.contextmanager
def keeping(what: str) -> Iterator[None]:
    """Turn Ctrl-C inside the block into `Interrupted`, which tells what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(what) from None


def report(message: str, kind: str, *, as_json: bool) -> None:
    """Print an error as one line on stderr, and as a JSON object on stdout when JSON was asked for."""
    line = " ".join(message.split()).translate(_VISIBLE)
    sys.stderr.write(f"{'interrupted' if kind == 'Interrupted' else 'error'}: {line}\n")
    if as_json:
        sys.stdout.write(json.dumps({"error": line, "type": kind}, ensure_ascii=False) + "\n")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, making its folder.

    Raises:
        RunError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another --out"
        ) from error


def read_json(path: Path) -> Any:
    """Read a JSON file that `write_json` wrote.

    Raises:
        RunError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); choose another --out") from error


def _console(stream: TextIO, *, quiet: bool = False) -> Console:
    """Return a console that shows texts as they are: brackets in a memory are no markup."""
    from rich.console import Console

    return Console(file=stream, markup=False, highlight=False, emoji=False, quiet=quiet)
