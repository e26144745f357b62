"""PDDL: AgentBoard's planning problems (gripper, blockworld, barman, tyreworld), read from their files.

pyperplan reads and grounds the files, and its planner is the expert. Deviations from AgentBoard, which uses pddlgym:
1. observations and actions are worded anew (`pddl_words`); 2. what an action changed is told in every domain;
3. actions that would change nothing are not possible.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from agemem_dspy.environments.pddl_words import DOMAINS, LOOK, DomainWords
from agemem_dspy.environments.world import Environment, Observation, StepResult
from agemem_dspy.errors import ConfigurationError, DataError, MissingDependency

INSTALL = 'pip install "agemem-dspy[pddl]"'

State = frozenset[str]


class PDDL(Environment):
    """One planning problem; progress is the best share of its goal conditions that held at once.

    A problem has one beginning, whatever the seed.

    Args:
        problem: path of the problem file; the domain file is beside its folder, "…/gripper.pddl" for
            "…/gripper/prob01.pddl".
        max_steps: actions allowed in an episode.

    Raises:
        DataError: a file is missing or no PDDL.
        ConfigurationError: a domain that has no words here.
        MissingDependency: pyperplan is not installed.
    """

    def __init__(self, problem: str, *, max_steps: int = 30) -> None:
        super().__init__(f"pddl:{problem}", max_steps=max_steps)
        self._problem, self._task = _read(Path(problem))
        domain = self._problem.domain.name
        if domain not in DOMAINS:
            raise ConfigurationError(f"{problem} is of the domain {domain!r}; there are words for {', '.join(DOMAINS)}")
        self._words = DOMAINS[domain]
        self._state: State = self._task.initial_state
        self._possible: dict[str, Any] = {}

    @property
    def rules(self) -> tuple[str, ...]:
        return self._words.rules

    def _begin(self, seed: int | None) -> tuple[str, StepResult]:
        self._state = self._task.initial_state
        goal = " ".join(_told(self._task.goals, self._words))
        return f"Make all of this hold: {goal}", self._result(self._state)

    def _act(self, action: str) -> StepResult | None:
        if action.lower() == LOOK:
            return self._result(self._state)
        operator = self._possible.get(action.lower())
        if operator is None:
            return None
        before, self._state = self._state, operator.apply(self._state)
        return self._result(self._state - before)

    def _result(self, news: Collection[str]) -> StepResult:
        state, goals = self._state, self._task.goals
        useful = (one for one in self._task.operators if one.applicable(state) and one.apply(state) != state)
        self._possible = {in_words(one.name, self._words.actions): one for one in useful}
        progress = len(goals & state) / len(goals)
        observation = Observation(" ".join(_told(news, self._words)), (*sorted(self._possible), LOOK))
        return StepResult(observation, float(progress == 1.0), progress, progress == 1.0)

    def _solve(self) -> tuple[str, ...]:
        from pyperplan.grounding import ground

        from agemem_dspy.environments.pddl_planner import plan_of

        return tuple(in_words(name, self._words.actions) for name in plan_of(self.name, ground(self._problem)))


def in_words(literal: str, words: Mapping[str, str]) -> str:
    """Return "(at ball1 rooma)" in a domain's words for facts or actions."""
    name, *arguments = literal.strip("()").split()
    return words[name].format(*arguments)


def _told(facts: Collection[str], words: DomainWords) -> list[str]:
    return sorted(in_words(fact, words.facts) for fact in facts if fact.strip("()").split()[0] in words.facts)


def _read(problem: Path) -> tuple[Any, Any]:
    """Return a problem as pyperplan reads it, and grounded with all its operators and facts."""
    try:
        from pyperplan.grounding import ground
        from pyperplan.pddl.parser import Parser
    except ImportError as error:
        raise MissingDependency(f"PDDL problems need the package pyperplan: {INSTALL}") from error
    domain = problem.parent.with_suffix(".pddl")
    for path in (problem, domain):
        if not path.is_file():
            raise DataError(f"{path}: no such file; a problem needs its file and the domain's beside its folder")
    try:
        parser = Parser(str(domain), str(problem))
        read = parser.parse_problem(parser.parse_domain())
        task = ground(read, remove_statics_from_initial_state=False, remove_irrelevant_operators=False)
    except Exception as error:  # its parser raises whatever a malformed file leads it to
        raise DataError(f"{problem}: pyperplan cannot read it with {domain.name}: {error}") from error
    if not task.goals:
        raise DataError(f"{problem}: the goal has no condition; give it one at least")
    return read, task
