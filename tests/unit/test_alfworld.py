"""ALFWorld: where its games are, what a task's milestones are; on the real backend with `make test-alfworld` alone."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from contracts import EnvironmentContract

from agemem_dspy.data import world_examples
from agemem_dspy.environments import Environment, StepResult, make_environment
from agemem_dspy.environments.alfworld_games import find_games
from agemem_dspy.environments.alfworld_milestones import Milestones
from agemem_dspy.errors import DataError, MissingDependency

GAMES = Path(__file__).resolve().parents[3] / "shared" / "data" / "alfworld" / "alfworld_games.tar.xz"
SEEN, TRAIN = (f"alfworld:{GAMES}/json_2.1.1/{split}" for split in ("valid_seen", "valid_train"))

LACKING = [
    reason
    for reason, there in {
        "it takes minutes and a planner: `make test-alfworld` runs it": os.environ.get("AGEMEM_TEST_ALFWORLD"),
        'the extra alfworld is not installed: pip install -e ".[alfworld]"': importlib.util.find_spec("fast_downward"),
        "ALFWorld's games are not beside this checkout (../shared)": GAMES.is_file(),
    }.items()
    if not there
]
real = pytest.mark.skipif(bool(LACKING), reason="; ".join(LACKING))


def write_games(folder: Path, *names: str, solvable: bool = True) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "game.tw-pddl").write_text(json.dumps({"solvable": solvable}), encoding="utf-8")
    return folder


def write_archive(path: Path, *names: str) -> Path:
    content = json.dumps({"solvable": True}).encode()
    with tarfile.open(path, "w:xz") as packed:
        for name in names:
            entry = tarfile.TarInfo(f"{name}/game.tw-pddl")
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    return path


def test_games_are_found_in_the_order_of_their_paths(tmp_path: Path) -> None:
    folder = write_games(tmp_path, "seen/pick-B/trial_2", "seen/pick-A/trial_1", "train/look-C/trial_3")
    assert [game.parent.name for game in find_games(folder)] == ["trial_1", "trial_2", "trial_3"]
    assert [game.parent.name for game in find_games(folder / "seen")] == ["trial_1", "trial_2"]
    assert [game.parent.name for game in find_games(folder / "train/look-C/trial_3")] == ["trial_3"]


def test_games_that_alfworld_leaves_out_are_left_out(tmp_path: Path) -> None:
    write_games(tmp_path, "pick-Lettuce-Sliced-Fridge-1/trial_1", "pick_movable_recep-Cup-1/trial_2", "pick-A/trial_3")
    write_games(tmp_path, "pick-B/trial_4", solvable=False)
    assert [game.parent.name for game in find_games(tmp_path)] == ["trial_3"]


def test_an_archive_is_unpacked_once(tmp_path: Path, agemem_home: Path) -> None:
    archive = write_archive(tmp_path / "games.tar.xz", "json/seen/pick-A/trial_1", "json/train/pick-B/trial_2")
    assert [game.parent.name for game in find_games(archive)] == ["trial_1", "trial_2"]
    (again,) = find_games(archive / "json" / "train")
    assert again.parent.name == "trial_2"
    assert again.is_relative_to(agemem_home)
    assert len(list((agemem_home / "alfworld").iterdir())) == 1


def test_where_no_games_are_it_is_said(tmp_path: Path, agemem_home: Path) -> None:
    archive = write_archive(tmp_path / "games.tar.xz", "seen/pick-A/trial_1")
    (tmp_path / "notes.txt").write_text("no archive", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    for where, message in (
        ("absent", "absent: no such folder or archive of games"),
        ("empty", "empty: no solvable games (game.tw-pddl) are here; `alfworld-download`"),
        ("notes.txt", "notes.txt: cannot be unpacked ("),
        ("games.tar.xz/train", "games.tar.xz/train: there is no such folder in the archive; it holds seen"),
    ):
        with pytest.raises(DataError, match=re.escape(message)):
            find_games(tmp_path / where)
    assert archive.is_file()
    assert len(list((agemem_home / "alfworld").iterdir())) == 1  # what failed leaves nothing


def task(kind: str, **parameters: str) -> dict[str, Any]:
    names = {"object_target": "", "parent_target": "", "mrecep_target": "", "toggle_target": "", "object_sliced": False}
    return {"task_type": kind, "pddl_params": names | parameters}


TAKE, CLEAN = "You pick up the butterknife 2 from the drawer 1.", "You clean the butterknife 2 using the sinkbasin 1."


@pytest.mark.parametrize(
    ("made", "told", "shares"),
    [
        (task("pick_and_place_simple", object_target="ButterKnife"), [TAKE, CLEAN], [1 / 2, 1 / 2]),
        (
            task("pick_clean_then_place_in_recep", object_target="ButterKnife"),
            [CLEAN, TAKE, TAKE],
            [1 / 3, 2 / 3, 2 / 3],
        ),
        (task("pick_clean_then_place_in_recep", object_target="Knife"), [TAKE, CLEAN], [0, 0]),
        (
            task("look_at_obj_in_light", object_target="ButterKnife", toggle_target="DeskLamp"),
            ["You turn on the desklamp 1.", "You turn on the floorlamp 1.", TAKE],
            [1 / 3, 1 / 3, 2 / 3],
        ),
        (
            task("pick_two_obj_and_place", object_target="ButterKnife", parent_target="Drawer"),
            [TAKE, TAKE, TAKE.replace("2", "3"), "You move the butterknife 3 to the drawer 1."],
            [1 / 4, 1 / 4, 2 / 4, 3 / 4],
        ),
    ],
)
def test_the_milestones_of_a_task_are_told_by_the_game(
    made: dict[str, Any], told: list[str], shares: list[float]
) -> None:
    milestones = Milestones(made)
    assert [milestones.share(text) for text in told] == pytest.approx(shares)


def test_without_the_packages_the_command_and_the_compiler_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "fast_downward", None)  # what the import system itself uses for "not there"
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "cc").touch(mode=0o755)
    command = re.escape('pip install "agemem-dspy[alfworld]"')
    absent = r"without c\+\+, make that fails \(on Debian: apt install g\+\+ make\): "
    with pytest.raises(MissingDependency, match=f"for some minutes; {absent}{command}$"):
        make_environment("alfworld:games")
    (tmp_path / "c++").touch(mode=0o755)
    (tmp_path / "make").touch(mode=0o755)
    with pytest.raises(MissingDependency, match=f"for some minutes: {command}$"):
        make_environment("alfworld:games")


def play(one: Environment, seed: int) -> list[StepResult]:
    one.reset(seed)
    return [one.step(action) for action in one.solution()]


@real
class TestALFWorldContract(EnvironmentContract):
    seed = 0

    @pytest.fixture
    def environment(self) -> Iterator[Environment]:
        with make_environment(SEEN, max_steps=60) as made:
            yield made


@real
def test_the_walkthroughs_of_twenty_games_reach_the_goal() -> None:
    with make_environment(SEEN, max_steps=60) as one:
        assert len(one._games) == 140
        kinds = set()
        for seed in range(0, 140, 7):
            results = play(one, seed)
            assert (results[-1].success, results[-1].reward) == (True, 1.0)
            before_the_last = one._milestones.share(results[-1].observation.text)
            assert before_the_last in (1 / 2, 2 / 3, 3 / 4)  # all but being done
            kinds.add(one._game.parent.parent.name.partition("-")[0])
        assert len(kinds) == 6


@real
def test_what_is_seen_and_done_has_the_names_of_this_alfworld() -> None:
    with make_environment(SEEN) as one:
        first = one.reset(50)
        assert one.goal == "put a clean butterknife in drawer"
        assert first.text.startswith(
            "You are in the middle of a room. Looking quickly around you, you see a cabinet 9,"
        )
        assert first.text.endswith(", and a toaster 1.")
        assert "go to countertop 2" in first.admissible
        texts = [one.step(action).observation.text for action in one.solution()]
        assert texts[1] == "You pick up the butterknife 4 from the countertop 2."
        assert texts[-1] == "You move the butterknife 4 to the drawer 10."


@real
def test_a_game_without_a_walkthrough_is_planned() -> None:
    with make_environment(TRAIN) as one:
        assert len(one._games) == 200
        results = play(one, 0)
        assert results[-1].success
        assert 4 <= len(results) <= 9


@real
def test_worlds_in_threads_do_not_mix(capsys: pytest.CaptureFixture[str]) -> None:
    def record(seed: int) -> list[StepResult]:
        with make_environment(SEEN) as one:
            return play(one, seed)

    arguments = list(sys.argv)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(record, [0, 125, 125, 0])) == [record(seed) for seed in (0, 125, 125, 0)]
    assert sys.argv == arguments
    assert capsys.readouterr() == ("", "")


@real
def test_its_examples_tell_the_rules_and_an_earlier_way() -> None:
    one, two = world_examples(SEEN, [0, 125])
    assert (one.environment, one.seed, one.goal) == (SEEN, 0, "look at alarmclock under the desklamp")
    assert one.messages == two.messages
    (told,) = world_examples(SEEN, [0], knowledge="episode")
    assert told.messages == [
        "An earlier time the task was: look at alarmclock under the desklamp. It was done by: go to desk 1; "
        "use desklamp 1; take alarmclock 2 from desk 1."
    ]


@real
def test_a_damaged_game_is_named(tmp_path: Path) -> None:
    folder = write_games(tmp_path, "pick-A/trial_1")
    trial = folder / "pick-A/trial_1"
    with make_environment(f"alfworld:{folder}") as one:
        with pytest.raises(DataError, match=r"traj_data.json: cannot be read"):
            one.reset(0)
        (trial / "traj_data.json").write_text("{}", encoding="utf-8")
        with pytest.raises(DataError, match=r"traj_data.json: has no 'task_type'"):
            one.reset(0)
        whole = task("pick_and_place_simple", object_target="ButterKnife")
        (trial / "traj_data.json").write_text(json.dumps(whole), encoding="utf-8")
        with pytest.raises(DataError, match=r"game.tw-pddl: TextWorld cannot load it \("):
            one.reset(0)
