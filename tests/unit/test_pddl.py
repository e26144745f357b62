"""PDDL problems in words: own small problems for the contract, AgentBoard's sixty where they are at hand."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contracts import EnvironmentContract

from agemem_dspy.environments import Environment, make_environment
from agemem_dspy.environments.pddl import PDDL, in_words
from agemem_dspy.environments.pddl_words import DOMAINS
from agemem_dspy.errors import ConfigurationError, DataError, MissingDependency, WorldError

pytest.importorskip("pyperplan", reason='the extra pddl is not installed: pip install -e ".[pddl]"')

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
PROBLEMS = sorted((DATA / "pddl").glob("*/*.pddl"))
needs_data = pytest.mark.skipif(not PROBLEMS, reason="AgentBoard's problems are not beside this checkout (../shared)")

# Two blocks in a domain of the shape of AgentBoard's.
BLOCKS = """
(define (domain blocksworld-4ops)
  (:requirements :strips)
  (:predicates (on ?a ?b) (on-table ?a) (clear ?a) (arm-empty) (holding ?a))
  (:action pickup :parameters (?a)
    :precondition (and (clear ?a) (on-table ?a) (arm-empty))
    :effect (and (holding ?a) (not (clear ?a)) (not (on-table ?a)) (not (arm-empty))))
  (:action putdown :parameters (?a)
    :precondition (holding ?a)
    :effect (and (on-table ?a) (clear ?a) (arm-empty) (not (holding ?a))))
  (:action stack :parameters (?a ?b)
    :precondition (and (holding ?a) (clear ?b))
    :effect (and (on ?a ?b) (clear ?a) (arm-empty) (not (holding ?a)) (not (clear ?b))))
  (:action unstack :parameters (?a ?b)
    :precondition (and (on ?a ?b) (clear ?a) (arm-empty))
    :effect (and (holding ?a) (clear ?b) (not (on ?a ?b)) (not (clear ?a)) (not (arm-empty)))))
"""
TOWER = """
(define (problem tower) (:domain blocksworld-4ops) (:objects b1 b2 b3)
  (:init (arm-empty) (on-table b1) (on-table b2) (on b3 b1) (clear b2) (clear b3))
  (:goal (and (on b1 b2) (on b2 b3) (on-table b3))))
"""
# A wheelbarrow of a world in the gripper domain, where the goal condition of one ball holds from the start.
ROOMS = """
(define (domain gripper-strips)
  (:predicates (room ?r) (ball ?b) (gripper ?g) (at-robby ?r) (at ?b ?r) (free ?g) (carry ?b ?g))
  (:action move :parameters (?from ?to)
    :precondition (and (room ?from) (room ?to) (at-robby ?from))
    :effect (and (at-robby ?to) (not (at-robby ?from))))
  (:action pick :parameters (?b ?r ?g)
    :precondition (and (ball ?b) (room ?r) (gripper ?g) (at ?b ?r) (at-robby ?r) (free ?g))
    :effect (and (carry ?b ?g) (not (at ?b ?r)) (not (free ?g))))
  (:action drop :parameters (?b ?r ?g)
    :precondition (and (ball ?b) (room ?r) (gripper ?g) (carry ?b ?g) (at-robby ?r))
    :effect (and (at ?b ?r) (free ?g) (not (carry ?b ?g)))))
"""
BALLS = """
(define (problem balls) (:domain gripper-strips) (:objects rooma roomb ball1 ball2 left right)
  (:init (room rooma) (room roomb) (ball ball1) (ball ball2) (gripper left) (gripper right) (at-robby rooma)
         (at ball1 rooma) (at ball2 roomb) (free left) (free right))
  (:goal (and (at ball1 roomb) (at ball2 roomb))))
"""


def write(folder: Path, domain: str, problem: str) -> str:
    (folder / "domain").mkdir()
    (folder / "domain.pddl").write_text(domain, "utf-8")
    (folder / "domain" / "problem.pddl").write_text(problem, "utf-8")
    return f"pddl:{folder / 'domain' / 'problem.pddl'}"


class TestPDDLContract(EnvironmentContract):
    @pytest.fixture(params=[(BLOCKS, TOWER), (ROOMS, BALLS)], ids=["blocks", "gripper"])
    def environment(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Environment]:
        with make_environment(write(tmp_path, *request.param)) as made:
            yield made


@pytest.fixture
def blocks(tmp_path: Path) -> Environment:
    made = make_environment(write(tmp_path, BLOCKS, TOWER))
    made.reset()
    return made


def test_a_problem_is_told_in_words(blocks: Environment) -> None:
    assert blocks.goal == "Make all of this hold: b1 is on b2. b2 is on b3. b3 is on the table."
    assert blocks.last.observation.text == (
        "Your arm is empty. b1 is on the table. b2 is clear. b2 is on the table. b3 is clear. b3 is on b1."
    )
    assert blocks.last.observation.admissible == ("pick up b2", "unstack b3 from b1", "look around")


def test_an_action_tells_what_came_of_it_and_looking_tells_all(blocks: Environment) -> None:
    assert blocks.step("Unstack b3 from b1").observation.text == "You hold b3. b1 is clear."
    assert blocks.step("look around").observation.text == (
        "You hold b3. b1 is clear. b1 is on the table. b2 is clear. b2 is on the table."
    )
    assert blocks.step("pick up b2").observation.text.startswith("Nothing happens: 'pick up b2' is not possible here.")


def test_progress_is_the_best_share_of_conditions_that_held_at_once(tmp_path: Path) -> None:
    balls = make_environment(write(tmp_path, ROOMS, BALLS))
    balls.reset()
    assert balls.last.progress == 0.5
    actions = ("move to roomb", "pick up ball2 with left", "move to rooma", "put down ball2", "pick up ball1 with left")
    assert [balls.step(action).progress for action in actions] == [0.5] * 5
    assert [balls.step(action).progress for action in ("move to roomb", "put down ball1")] == [0.5, 0.5]
    assert not balls.last.done  # the other ball is away by now


def test_an_action_that_would_change_nothing_is_not_possible(tmp_path: Path) -> None:
    balls = make_environment(write(tmp_path, ROOMS, BALLS))
    assert balls.reset().admissible == (
        "move to roomb",
        "pick up ball1 with left",
        "pick up ball1 with right",
        "look around",
    )


def test_a_problem_without_a_plan_is_an_error(tmp_path: Path) -> None:
    impossible = TOWER.replace("(on-table b3))", "(on b3 b1))")
    world = make_environment(write(tmp_path, BLOCKS, impossible))
    world.reset()
    with pytest.raises(WorldError, match="has no plan"):
        world.solution()


def test_plans_are_the_same_in_every_process(tmp_path: Path) -> None:
    """Where strings have other hashes, sets of them have another order."""
    tall = " ".join(f"b{n}" for n in range(4, 9))
    loose = " ".join(f"(on-table b{n}) (clear b{n})" for n in range(4, 9))
    problem = TOWER.replace("b1 b2 b3)", f"b1 b2 b3 {tall})").replace("(arm-empty)", f"(arm-empty) {loose}")
    name = write(tmp_path, BLOCKS, problem.replace("(on-table b3)", "(on b3 b4) (on b4 b5) (on b6 b7)", 1))
    script = (
        "from agemem_dspy.environments import make_environment as make;"
        f"world = make({name!r}); world.reset(); print(world.solution())"
    )
    plans = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in range(2)
    }  # fmt: skip
    assert len(plans) == 1


def test_files_that_are_not_there_or_no_pddl_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lost/p01.pddl: no such file; a problem needs its file and the domain's"):
        make_environment("pddl:lost/p01.pddl")
    name = write(tmp_path, BLOCKS, TOWER)
    problem = Path(name.removeprefix("pddl:"))
    problem.write_text("(define (problem", "utf-8")
    with pytest.raises(DataError, match=r"problem.pddl: pyperplan cannot read it with domain.pddl"):
        make_environment(name)
    problem.write_text(TOWER.replace("(on b1 b2) (on b2 b3) (on-table b3)", ""), "utf-8")
    with pytest.raises(DataError, match=r"problem.pddl: the goal has no condition"):
        make_environment(name)
    problem.write_text(TOWER, "utf-8")
    problem.parent.with_suffix(".pddl").unlink()
    with pytest.raises(DataError, match=r"domain.pddl: no such file"):
        make_environment(name)


def test_a_domain_without_words_is_refused(tmp_path: Path) -> None:
    name = write(tmp_path, BLOCKS.replace("blocksworld-4ops", "sokoban"), TOWER.replace("blocksworld-4ops", "sokoban"))
    with pytest.raises(ConfigurationError, match="is of the domain 'sokoban'; there are words for gripper-strips, "):
        make_environment(name)


def test_without_pyperplan_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.startswith("pyperplan")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyperplan", None)  # what the import system itself uses for "not there"
    with pytest.raises(MissingDependency, match=re.escape('pip install "agemem-dspy[pddl]"')):
        make_environment(write(tmp_path, BLOCKS, TOWER))


def real(path: Path, *, max_steps: int = 100) -> PDDL:
    made: Any = make_environment(f"pddl:{path}", max_steps=max_steps)
    made.reset()
    return made


@needs_data
def test_plans_in_words_solve_agentboards_problems() -> None:
    """Every third of the sixty; `benchmarks/worlds.py` plays all of them."""
    solved = []
    for path in PROBLEMS[::3] + PROBLEMS[1:5]:
        world = real(path)
        plan = world.solution()
        results = [world.step(action) for action in plan]
        solved += [path.parent.name] * results[-1].success
    assert len(solved) == 24
    assert set(solved) == {"barman", "blockworld", "gripper", "tyreworld"}


@needs_data
@pytest.mark.parametrize("path", PROBLEMS[::6], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_each_possible_action_has_words_of_its_own(path: Path) -> None:
    world, source = real(path, max_steps=10_000), random.Random(0)
    for _ in range(60):
        possible = [one for one in world._task.operators if one.applicable(world._state)]
        possible = [one for one in possible if one.apply(world._state) != world._state]
        words = {in_words(one.name, world._words.actions) for one in possible}
        assert len(words) == len(possible)
        assert words == set(world.last.observation.admissible) - {"look around"}
        assert world.step(source.choice(sorted(words))).observation.text
        if world.last.done:
            world.reset()


@needs_data
def test_every_predicate_and_action_of_the_domains_is_known() -> None:
    untold = {
        "gripper-strips": {"room", "ball", "gripper"},
        "barman": {"shaker-empty-level", "shaker-level", "next"},
    }
    for file in sorted((DATA / "pddl").glob("*.pddl")):
        text = file.read_text("utf-8")
        domain = re.search(r"\(domain ([\w-]+)\)", text)
        assert domain is not None
        words = DOMAINS[domain[1]]
        predicates = text[text.index(":predicates") : text.index(":action")]
        told = set(re.findall(r"\(([\w-]+)", predicates)) - untold.get(domain[1], set())
        assert told == set(words.facts)
        assert set(re.findall(r":action\s+([\w-]+)", text)) == set(words.actions)


@needs_data
def test_agentboards_labels_are_the_goals_of_the_problems_in_the_order_of_their_names() -> None:
    """Its "problem10" comes right after its "problem1"."""
    rows = [json.loads(line) for line in (DATA / "agentboard" / "pddl_test.jsonl").read_text("utf-8").splitlines()]
    for domain in {row["additional_info"]["subtask"] for row in rows}:
        labels = [row["subgoals"] for row in rows if row["additional_info"]["subtask"] == domain]
        files = [path for path in PROBLEMS if path.parent.name == domain]
        assert len(labels) == len(files)
        for path, subgoals in zip(files, labels, strict=True):
            assert set(real(path).goal.removeprefix("Make all of this hold: ").rstrip(".").split(". ")) == {
                one.rstrip(".") for one in subgoals
            }
