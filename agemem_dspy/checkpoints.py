"""The folder of a saved program: it appears complete or not at all, and what is read is what was written.

    program.json                the program: signature, wording, demos, settings
    manifest.json               when, with which packages and base model, and the SHA-256 of every file but the card
    README.md                   a model card for the hub, which may be edited
    reward.json                 optional: the reward it was compiled with
    adapter_model.safetensors   optional, with adapter_config.json: trained weights in PEFT's layout
    model.safetensors           optional, in their place: weights that were trained without an adapter

There is no pickle in it. `programs.saved` decides what the JSON says.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from agemem_dspy.errors import ConfigurationError, ModelError, RunError
from agemem_dspy.paths import file_sha256

PROGRAM, REWARD, MANIFEST, CARD = "program.json", "reward.json", "manifest.json", "README.md"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
FORMAT = 1
FULL_FILE = "model.safetensors"
_WEIGHTS = frozenset({*ADAPTER_FILES, FULL_FILE})
_KNOWN = frozenset({PROGRAM, REWARD, CARD}) | _WEIGHTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A saved program as it was read; every file in it has the hash that the manifest names."""

    folder: Path
    program: Mapping[str, Any]
    manifest: Mapping[str, Any]
    reward: Mapping[str, Any] | None

    @property
    def sha256(self) -> str:
        """The digest of the files' names and hashes, so of all but the card and the manifest."""
        return hashlib.sha256(json.dumps(self.manifest["files"], sort_keys=True).encode()).hexdigest()

    @property
    def has_weights(self) -> bool:
        """Tell whether trained weights lie in the folder."""
        return not _WEIGHTS.isdisjoint(self.manifest["files"])


def write_checkpoint(
    folder: Path | str,
    program: Mapping[str, Any],
    *,
    manifest: Mapping[str, Any],
    reward: Mapping[str, Any] | None = None,
    card: str | None = None,
    write_weights: Callable[[Path], object] | None = None,
) -> Path:
    """Write a program's folder, replacing the program that is there.

    Args:
        folder: created with its parents; a folder that holds anything but a saved program is refused.
        program: what goes into `program.json`.
        manifest: facts to record; `format` and `files` are added.
        reward: what goes into `reward.json`.
        card: what goes into `README.md`.
        write_weights: writes trained weights into the folder that it is given.

    Raises:
        ConfigurationError: a value that JSON cannot hold.
        RunError: the folder holds other files, or cannot be written.
    """
    target = Path(folder).expanduser().resolve()
    _refuse_other_content(target)
    contents = {PROGRAM: _encode(PROGRAM, program)}
    if reward is not None:
        contents[REWARD] = _encode(REWARD, reward)
    if card is not None:
        contents[CARD] = card.encode()
    partial = target.parent / f".{target.name}-{uuid.uuid4().hex[:12]}"
    try:
        partial.mkdir(parents=True)
        for name, content in contents.items():
            (partial / name).write_bytes(content)
        if write_weights is not None:
            write_weights(partial)
        files = {path.name: file_sha256(path) for path in sorted(partial.iterdir()) if path.name != CARD}
        (partial / MANIFEST).write_bytes(_encode(MANIFEST, {"format": FORMAT, **manifest, "files": files}))
        for path in partial.iterdir():
            _flush(path)
        _swap(partial, target)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"the program cannot be written to {target} ({error}); make room, or choose a folder that you may write to"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def read_checkpoint(folder: Path | str) -> Checkpoint:
    """Read a program's folder and check every file against its recorded hash.

    Raises:
        RunError: no such folder, not a saved program, a file is missing, damaged or changed.
        ModelError: the trained weights are not those that were saved.
    """
    source = Path(folder).expanduser().resolve()
    if not source.is_dir():
        raise RunError(f"there is no folder {source}; give the folder that program.save(folder) wrote")
    manifest = _read_manifest(source)
    for name, digest in manifest["files"].items():
        path = source / name
        if not path.is_file():
            raise RunError(f"{path} is missing; the copy is incomplete: copy the whole folder again, or save again")
        if file_sha256(path) != digest:
            kind = ModelError if name in _WEIGHTS else RunError
            raise kind(
                f"{path} is not the file that was saved (its SHA-256 differs from the one in {MANIFEST}); "
                "copy the whole folder again, or save the program again"
            )
    reward = _decode(source / REWARD) if REWARD in manifest["files"] else None
    return Checkpoint(folder=source, program=_decode(source / PROGRAM), manifest=manifest, reward=reward)


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest once it is seen to be one, with file names that stay inside the folder."""
    if not (folder / MANIFEST).is_file():
        raise RunError(f"{folder} is not a saved program: it has no {MANIFEST}; write one with program.save(folder)")
    manifest = _decode(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise RunError(
            f"{folder} has the format {manifest.get('format')!r}, and this version reads {FORMAT}; "
            "load it with the version of agemem-dspy that saved it"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or PROGRAM not in files or not _KNOWN.issuperset(files):
        raise RunError(f"{folder / MANIFEST} does not list a saved program's files; save the program again")
    return manifest


def _refuse_other_content(target: Path) -> None:
    """Raise unless `target` is free, empty, or a saved program and nothing else."""
    if not target.exists():
        return
    if not target.is_dir():
        raise RunError(f"{target} is a file; give a folder to save the program in")
    names = {path.name for path in target.iterdir()}
    if not names:
        return
    if MANIFEST not in names:
        raise RunError(f"{target} holds files but no saved program; choose an empty or a new folder")
    _read_manifest(target)
    others = sorted(names - _KNOWN - {MANIFEST})
    if others:
        raise RunError(
            f"{target} also holds {', '.join(others[:3])}, which saving would delete; move that away or choose a new "
            "folder"
        )


def _swap(partial: Path, target: Path) -> None:
    """Put `partial` in the place of `target`; the former folder is back if that fails."""
    if not target.exists():
        partial.rename(target)
        return
    former = partial.with_name(f"{partial.name}-former")
    target.rename(former)
    try:
        partial.rename(target)
    except OSError:
        former.rename(target)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _encode(name: str, value: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode("ascii")
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} would hold what JSON cannot ({error}); remove it and save again") from error


def _decode(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); copy the whole folder again, or save again") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is not a JSON object; save the program again")
    return value


def _flush(path: Path) -> None:
    """Bring a file to the disk before the rename that makes it count."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())
