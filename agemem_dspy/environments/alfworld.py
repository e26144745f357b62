"""ALFWorld: household tasks in text (TextWorld games made from ALFRED), played from their files.

Deviations from AgentBoard: 1. actions have the names of alfworld 0.4.2: `move X to Y`, not `put X in/on Y`; 2. progress
counts as AgentBoard does (the share that is met of n subgoals and of being done), but the subgoals are read off the
game's own task, since AgentBoard labels the games of valid_unseen alone.
"""

from __future__ import annotations

import functools
import importlib
import json
import random
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agemem_dspy.environments.alfworld_games import find_games
from agemem_dspy.environments.alfworld_milestones import Milestones
from agemem_dspy.environments.world import Environment, Observation, StepResult
from agemem_dspy.errors import DataError, MissingDependency, WorldError

INSTALL = 'pip install "agemem-dspy[alfworld]"'
_COMPILING = ("c++", "cc", "make")
RULES = (
    "You are in a room and see its furniture, each piece with a number; other things are on it or in it.",
    "'go to shelf 1' takes you there and shows what is on it; only what is where you are can be handled.",
    "'open fridge 1' shows what is in it; cabinets, drawers, fridges, microwaves and safes are closed at first.",
    "'take apple 1 from shelf 1' picks a thing up; you can hold one thing at a time.",
    "'move apple 1 to shelf 1' puts down what you hold, where you are.",
    "'clean apple 1 with sinkbasin 1' changes what you hold; so do 'heat' with a microwave and 'cool' with a fridge.",
    "To look at a thing under a lamp, hold it, be where the lamp is, and 'use desklamp 1'.",
    "'look', 'inventory' and 'examine shelf 1' only tell.",
    "Look for a thing where it is usually kept, and remember where you have been.",
)
_INTRODUCTION = re.compile(r"-= Welcome.*?=-\s*(?P<first>.*?)\s*Your task is to: (?P<goal>.*)", re.DOTALL)
_ONE_AT_A_TIME = threading.Lock()
# TextWorld's environments that no world plays in. They are used again and never closed: each has a copy of the
# planner's library, and once one of them has searched, a process that has closed any other crashes when it ends.
_IDLE: list[Any] = []


class ALFWorld(Environment):
    """A household task; progress is the share of its milestones: taken, cleaned, heated, cooled, lit, put, done.

    Args:
        games: path of a game's folder (with game.tw-pddl), or of a folder with games below it: the seed then chooses
            one, in the order of their paths; with n games a seed of n begins again with the first. The path may lead
            into a tar archive ("games.tar.xz/json_2.1.1/valid_seen"), which is unpacked once.
        max_steps: actions allowed in an episode.

    Raises:
        DataError: there are no games, or one cannot be read.
        MissingDependency: the packages are not installed.
    """

    def __init__(self, games: str, *, max_steps: int = 30) -> None:
        super().__init__(f"alfworld:{games}", max_steps=max_steps)
        _require_packages()
        self._games = find_games(Path(games))
        self._game: Path | None = None
        self._env: Any = None
        self._admissible: tuple[str, ...] = ()
        self._milestones: Milestones

    @property
    def rules(self) -> tuple[str, ...]:
        return RULES

    def _begin(self, seed: int | None) -> tuple[str, StepResult]:
        game = self._games[random.randrange(len(self._games)) if seed is None else seed % len(self._games)]
        task = game.with_name("traj_data.json")
        try:
            self._milestones = Milestones(_read(task))
        except KeyError as error:
            raise DataError(f"{task}: has no {error}, as the games of json_2.1.1 have") from error
        read = _read(game)
        with _textworld():
            if game != self._game:
                self._env, self._game = self._env or (_IDLE.pop() if _IDLE else _made()), None
                try:
                    self._env.load(read)
                except Exception as error:  # it raises whatever a malformed file leads it to
                    raise DataError(f"{game}: TextWorld cannot load it ({error!r})") from error
            state = self._env.reset()
            self._game = game
        told = _INTRODUCTION.fullmatch(state.feedback.strip())
        if told is None:
            raise DataError(f"{game}: it begins with {state.feedback[:80]!r}, not as a game of ALFWorld does")
        return told["goal"].rstrip("."), self._stand(state, told["first"])

    def _act(self, action: str) -> StepResult | None:
        if action.lower() not in self._admissible:
            return None
        with _textworld():
            state, *_ = self._env.step(action.lower())
        return self._stand(state, state.feedback.strip())

    def _solve(self) -> tuple[str, ...]:
        return _plan(self._game) if self._game is not None else ()

    def _release(self) -> None:
        if self._env is not None:
            _IDLE.append(self._env)
            self._env = self._game = None

    def _stand(self, state: Any, text: str) -> StepResult:
        self._admissible = tuple(state.admissible_commands)
        won = bool(state.won)
        progress = 1.0 if won else self._milestones.share(text)
        return StepResult(Observation(text, self._admissible), float(won), progress, won)


def _require_packages() -> None:
    try:
        # The planner first: textworld, imported without it, would not look for it again.
        for package in ("fast_downward", "alfworld.agents.environment.alfred_tw_env"):
            importlib.import_module(package)
    except ImportError as error:
        needs = "ALFWorld needs the packages alfworld and textworld[pddl], which compile a planner for some minutes"
        if missing := [tool for tool in _COMPILING if shutil.which(tool) is None]:
            needs += f"; without {', '.join(missing)} that fails (on Debian: apt install g++ make)"
        raise MissingDependency(f"{needs}: {INSTALL}") from error


@contextmanager
def _textworld() -> Iterator[None]:
    """Let one thread at a time into TextWorld, which has one parser, and uses the process's sys.argv and sys.stdout."""
    with _ONE_AT_A_TIME:
        arguments = sys.argv
        try:
            yield
        finally:
            sys.argv = arguments


def _made(*, planning: bool = False) -> Any:
    """Return TextWorld's environment for a game to load, with alfworld's names for things."""
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld import EnvInfos
    from textworld.envs import PddlEnv

    return AlfredDemangler(PddlEnv(EnvInfos(admissible_commands=True, won=True, policy_commands=planning)))


@functools.cache
def _planner() -> Any:
    """Return the one environment that plans; never closed either."""
    return _made(planning=True)


@functools.lru_cache(maxsize=1024)
def _plan(game: Path) -> tuple[str, ...]:
    """Return the walkthrough of a game, or else the planner's way, which takes some seconds."""
    read = _read(game)
    if walkthrough := read.get("walkthrough"):
        return tuple(walkthrough)
    with _textworld():
        _planner().load(read)
        found = _planner().reset()["policy_commands"]
    if not found:
        raise WorldError(f"the planner finds no way through {game}")
    return tuple(found)


def _read(path: Path) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as part of a game ({error})") from error
    return read
