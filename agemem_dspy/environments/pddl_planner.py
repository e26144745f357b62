"""The expert of PDDL problems: pyperplan's greedy best-first search with the FF heuristic.

Facts are numbered first: sets of numbers, unlike sets of strings, have the same order in every process, and with it
the search has the same result.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyperplan.heuristics.relaxation import hFFHeuristic
from pyperplan.search import greedy_best_first_search
from pyperplan.task import Operator, Task

from agemem_dspy.errors import WorldError

_MOST_EVALUATIONS = 3000  # of the heuristic in one search, about ten seconds in the largest problems


def plan_of(name: str, task: Task) -> list[str]:
    """Return the operators of a plan, "(move rooma roomb)"; not always a shortest one.

    Raises:
        WorldError: the problem has no plan, or none was found in time.
    """
    numbered = _numbered(task)
    # Along the steps of the relaxed plan first: a tenth of the evaluations, but it may miss that there is a plan.
    for along_relaxed_plan in (True, False):
        estimate = _Limited(name, numbered)
        plan = greedy_best_first_search(numbered, estimate, use_relaxed_plan=along_relaxed_plan)
        if plan is not None:
            return [operator.name for operator in plan]
    raise WorldError(f"{name} has no plan")


class _Limited(hFFHeuristic):
    """The heuristic, which gives up after a number of evaluations."""

    def __init__(self, name: str, task: Task) -> None:
        super().__init__(task)
        self.problem, self.left = name, _MOST_EVALUATIONS

    def __call__(self, node: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise WorldError(f"no plan for {self.problem} was found in {_MOST_EVALUATIONS} evaluations")
        return super().__call__(node)


def _numbered(task: Task) -> Task:
    """Return the task with numbers in place of facts, and its operators in the order of their names."""
    numbers = {fact: number for number, fact in enumerate(sorted(task.facts | task.initial_state | task.goals))}

    def all_of(facts: Iterable[str]) -> frozenset[int]:
        return frozenset(numbers[fact] for fact in sorted(facts))

    operators = [
        Operator(one.name, all_of(one.preconditions), all_of(one.add_effects), all_of(one.del_effects))
        for one in sorted(task.operators, key=lambda one: str(one.name))
    ]
    return Task(task.name, list(numbers.values()), all_of(task.initial_state), all_of(task.goals), operators)
