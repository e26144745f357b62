"""A saved program's folder appears complete or not at all, and a damaged one is refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agemem_dspy.checkpoints import ADAPTER_FILES, MANIFEST, PROGRAM, REWARD, read_checkpoint, write_checkpoint
from agemem_dspy.errors import ConfigurationError, ModelError, RunError


def write_weights(folder: Path) -> None:
    (folder / ADAPTER_FILES[0]).write_bytes(b"weights")
    (folder / ADAPTER_FILES[1]).write_text("{}")


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    program = {"text": "ünïcode", "number": 0.1}
    return write_checkpoint(
        tmp_path / "saved", program, manifest={"created": "now"}, reward={"w": 1}, write_weights=write_weights
    )


def test_what_is_written_is_read(saved: Path) -> None:
    checkpoint = read_checkpoint(saved)
    assert checkpoint.program == {"text": "ünïcode", "number": 0.1}
    assert checkpoint.reward == {"w": 1}
    assert checkpoint.manifest["created"] == "now"
    assert checkpoint.has_weights
    assert entries(saved) == {PROGRAM, REWARD, MANIFEST, *ADAPTER_FILES}


def test_a_program_replaces_a_program_and_leaves_nothing_of_it(saved: Path) -> None:
    write_checkpoint(saved, {"text": "new"}, manifest={})
    checkpoint = read_checkpoint(saved)
    assert checkpoint.program == {"text": "new"}
    assert checkpoint.reward is None
    assert not checkpoint.has_weights
    assert entries(saved) == {PROGRAM, MANIFEST}
    assert entries(saved.parent) == {"saved"}


def test_parents_are_made_and_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_checkpoint(tmp_path / "a", {}, manifest={})
    write_checkpoint(tmp_path / "b" / "c" / "d", {}, manifest={})
    assert read_checkpoint(tmp_path / "a").program == read_checkpoint(tmp_path / "b" / "c" / "d").program == {}


def test_a_write_that_fails_leaves_the_former_program_and_no_rubbish(saved: Path) -> None:
    def full(folder: Path) -> None:
        write_weights(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="cannot be written .*No space left.*make room"):
        write_checkpoint(saved, {"text": "new"}, manifest={}, write_weights=full)
    assert read_checkpoint(saved).program["text"] == "ünïcode"
    assert entries(saved.parent) == {"saved"}


def test_a_value_that_json_cannot_hold_is_refused_before_anything_is_written(saved: Path) -> None:
    for value in (object(), float("nan")):
        with pytest.raises(ConfigurationError, match="program.json would hold what JSON cannot"):
            write_checkpoint(saved, {"value": value}, manifest={})
    assert read_checkpoint(saved).program["text"] == "ünïcode"


def test_other_peoples_files_are_never_replaced(tmp_path: Path, saved: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "diary.txt").write_text("dear diary")
    with pytest.raises(RunError, match="holds files but no saved program"):
        write_checkpoint(notes, {}, manifest={})
    with pytest.raises(RunError, match="is a file"):
        write_checkpoint(notes / "diary.txt", {}, manifest={})
    with pytest.raises(RunError, match="cannot be written"):
        write_checkpoint(notes / "diary.txt" / "inside", {}, manifest={})
    (saved / "notes.md").write_text("mine")
    with pytest.raises(RunError, match="also holds notes.md, which saving would delete"):
        write_checkpoint(saved, {}, manifest={})
    (notes / MANIFEST).write_text('{"name": "a web app"}')
    with pytest.raises(RunError, match="format None"):
        write_checkpoint(notes, {}, manifest={})
    assert (notes / "diary.txt").read_text() == "dear diary"
    assert (saved / "notes.md").read_text() == "mine"


def edit_manifest(folder: Path, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: (f / MANIFEST).unlink(), RunError, "is not a saved program: it has no manifest.json"),
        (lambda f: (f / MANIFEST).write_text("{"), RunError, "manifest.json cannot be read"),
        (lambda f: (f / MANIFEST).write_text("[]"), RunError, "is not a JSON object"),
        (lambda f: (f / PROGRAM).unlink(), RunError, "program.json is missing; the copy is incomplete"),
        (lambda f: (f / PROGRAM).write_text("{}"), RunError, "program.json is not the file that was saved"),
        (lambda f: (f / ADAPTER_FILES[0]).write_bytes(b"x"), ModelError, "adapter_model.safetensors is not the file"),
        (lambda f: (f / ADAPTER_FILES[1]).unlink(), RunError, "adapter_config.json is missing"),
        (lambda f: edit_manifest(f, lambda m: m.update(format=2)), RunError, "has the format 2, and this"),
        (lambda f: edit_manifest(f, lambda m: m["files"].pop(PROGRAM)), RunError, "does not list"),
        (lambda f: edit_manifest(f, lambda m: m["files"].update({"../x": ""})), RunError, "does not list"),
    ],
)
def test_a_damaged_folder_is_refused(
    saved: Path, damage: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    damage(saved)
    with pytest.raises(error, match=message):
        read_checkpoint(saved)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no program folder|there is no folder .*nowhere"):
        read_checkpoint(tmp_path / "nowhere")
