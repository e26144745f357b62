"""Runs that can be taken up again: what a phase was asked to do, and how far it came."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import dspy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from agemem_dspy.errors import RunError
from agemem_dspy.optimizers import processes
from agemem_dspy.programs.description import describe_program


class PhaseState:
    """The state of one phase in a run folder; each save replaces the one before in one move.

    Args:
        folder: the run folder, made when it is not there.
        phase: names the files.
        settings: all that decides the phase's result, as JSON values.
        resume: go on from the state that is there; else start anew, over it.

    Raises:
        RunError: the folder has a state of other settings, which are named, or cannot be written.
    """

    def __init__(self, folder: Path, phase: str, settings: Mapping[str, Any], *, resume: bool = True) -> None:
        self.path = folder / f"{phase}.state"
        begun_before(folder, phase, settings, result=self.path, resume=resume)

    def save(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Replace the state; of several processes the first does.

        Raises:
            RunError: it cannot be written; the state before stays.
        """
        if not processes.is_first():
            return
        new = self.path.with_suffix(".new")
        try:
            save_file(dict(tensors), new, metadata={"values": json.dumps(values)})
            new.replace(self.path)
        except (OSError, SafetensorError) as error:
            raise RunError(f"cannot write {self.path}: {error}; free some space or choose another log_dir") from error

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return the tensors and values last saved, None where nothing was.

        Raises:
            RunError: the file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.offset_keys()}, json.loads(
                    file.metadata()["values"]
                )
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"{self.path} is damaged ({error}); remove it to start the phase anew") from error


def begun_before(folder: Path, phase: str, settings: Mapping[str, Any], *, result: Path, resume: bool) -> bool:
    """Tell whether a phase was begun in a folder with these settings.

    When it was not, the `result` of another run is removed, and then the settings are noted. Of several processes the
    first looks and tells the others.

    Raises:
        RunError: it was begun with others, which are named, or the folder cannot be written.
    """
    return processes.of_first(lambda: _begun_before(folder, phase, settings, result, resume))


def _begun_before(folder: Path, phase: str, settings: Mapping[str, Any], result: Path, resume: bool) -> bool:
    noted = folder / f"{phase}.settings.json"
    wanted = json.loads(json.dumps(settings))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if resume and noted.exists():
            refuse_changes(folder, json.loads(noted.read_text(encoding="utf-8")), wanted)
            return True
        result.unlink(missing_ok=True)
        noted.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        return False
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error}; choose another log_dir") from error
    except ValueError as error:
        raise RunError(f"{noted} is damaged ({error}); remove {folder} to start anew") from error


def settings_of(optimizer: Any) -> dict[str, Any]:
    """Return the plain settings among an optimizer's attributes: numbers, texts and configurations."""
    found: dict[str, Any] = {"type": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"}
    for name, value in vars(optimizer).items():
        if name.startswith("_") or name in ("resume", "interrupted"):
            continue
        if is_dataclass(value) and not isinstance(value, type):
            found[name] = asdict(value)
        elif isinstance(value, str | int | float | bool | tuple | None):
            found[name] = value if not isinstance(value, float) or math.isfinite(value) else str(value)
    return found


def digest_of(value: Any) -> str:
    """Return a short digest of a program or of examples: what they are made of, not where they are in memory."""
    if isinstance(value, dspy.Module):
        value = describe_program(value)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        value = [dict(one) if isinstance(one, dspy.Example) else one for one in value]
    text = json.dumps(value, sort_keys=True, default=lambda one: type(one).__qualname__)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def drop_lines_after(path: Path, phase: str, step: int) -> None:
    """Remove the lines of a phase after a step from a metrics file, and a last line that was cut off.

    Raises:
        RunError: the file cannot be rewritten.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not (row.get("phase") == phase and row.get("step", 0) > step):
            kept.append(line + "\n")
    try:
        new = path.with_suffix(".new")
        new.write_text("".join(kept), encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error}; choose another log_dir") from error


def refuse_changes(
    folder: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    advice: str = "Choose another log_dir, or start this one anew with resume=False",
) -> None:
    """Raise unless a folder's run has the settings wanted now.

    Raises:
        RunError: it has others, which are named.
    """
    one, other = ({name: json.dumps(value) for name, value in flat(settings)} for settings in (before, now))
    changed = [
        f"{name} was {one.get(name, 'not there')}, is {other.get(name, 'not there')}"
        for name in sorted({*one, *other})
        if one.get(name) != other.get(name)
    ]
    if changed:
        raise RunError(f"{folder} holds a run with other settings: {'; '.join(changed)}. {advice}")


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what nested mappings hold, the names joined by dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
