"""The house stands: one wheel, one top-level name, rooms found through links, a light import, honest set-up files."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from agemem_dspy.paths import HOME_VARIABLE, ROOMS, cache_folder, require_links

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

# What `import agemem_dspy` must not load: 2, 6 and 8 seconds, or a store that nobody opened yet.
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "sentence_transformers",
    "fastembed",
    "qdrant_client",
    "onnxruntime",
    "optuna",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, since setuptools writes beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    skip = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=skip)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_one_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"agemem_dspy"}


def test_the_wheel_holds_every_module_of_every_room_and_its_rows(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    missing = []
    for room in (*ROOMS, "."):
        for path in (ROOT / "agemem_dspy" / room).rglob("*"):
            inside = Path("agemem_dspy", room, path.relative_to(ROOT / "agemem_dspy" / room)).as_posix()
            if path.suffix in (".py", ".jsonl", ".toml", ".typed") and inside not in names:
                missing.append(inside)
    assert missing == []
    assert any(name.startswith("agemem_dspy/data/") and name.endswith(".jsonl") for name in names)


def test_the_wheel_carries_licence_and_console_script(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        parser = configparser.ConfigParser()
        parser.read_string(archive.read(points).decode())
        (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        text = archive.read(metadata).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert dict(parser["console_scripts"]) == {"agemem": "agemem_dspy.cli:main"}
    assert "License-Expression: Apache-2.0" in text


def test_the_package_works_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = "import agemem_dspy.programs, agemem_dspy.optimizers, agemem_dspy.data; print(agemem_dspy.data.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout.strip().startswith(str(tmp_path)), done.stderr


def test_the_links_are_relative_and_lead_to_the_rooms() -> None:
    for room in ROOMS:
        link = ROOT / "agemem_dspy" / room
        assert link.readlink() == Path("..", room)
        assert link.resolve() == ROOT / room


def test_a_checkout_without_links_gets_one_clear_error(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "agemem_dspy", tmp_path / "agemem_dspy", symlinks=True)
    for room in ROOMS:
        (tmp_path / "agemem_dspy" / room).unlink()
        (tmp_path / "agemem_dspy" / room).write_text(f"../{room}")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", "import agemem_dspy"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError:")
    assert "core.symlinks true" in last


def test_the_links_of_this_checkout_stand() -> None:
    require_links()


def test_the_cache_folder_follows_the_variable(agemem_home: Path) -> None:
    assert cache_folder() == agemem_home
    os.environ[HOME_VARIABLE] = ""
    assert "agemem-dspy" in cache_folder().parts


def test_importing_the_package_loads_nothing_heavy() -> None:
    # dspy itself may load some of these one day; only what we add is ours to answer for.
    script = (
        "import sys, dspy; had = set(sys.modules); import agemem_dspy; "
        f"print([module for module in {HEAVY} if module in set(sys.modules) - had])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_the_package_costs_little_more_than_dspy() -> None:
    """Import below 1.5 times dspy's processor time: the best of five of each, taken in turns."""
    best = {"dspy": float("inf"), "agemem_dspy": float("inf")}
    for _ in range(5):
        for module in best:
            script = f"import {module}, time; print(time.process_time())"
            done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
            best[module] = min(best[module], float(done.stdout))
    assert best["agemem_dspy"] < 1.5 * best["dspy"], best


def test_every_direct_dependency_is_pinned_within_its_range() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    project = PYPROJECT["project"]
    extras = [need for needs in project["optional-dependencies"].values() for need in needs]
    direct = [Requirement(text) for text in [*project["dependencies"], *extras]]
    wrong = [str(need) for need in direct if not need.specifier.contains(pins.get(canonicalize_name(need.name), "0"))]
    assert wrong == []


def test_no_rule_of_gitignore_swallows_the_data_room() -> None:
    rules = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert not [rule for rule in rules if re.match(r"!?/?(\*\*/)?(data\b|\*\.jsonl)", rule)]


def test_every_set_up_command_uses_the_constraints() -> None:
    commands = [line for line in (ROOT / "Makefile").read_text("utf-8").splitlines() if " -e " in line]
    assert commands
    assert all("-c constraints.txt" in line for line in commands)
