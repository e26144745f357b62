"""The protocol of a world: what an agent sees, what it may do, and how near it is to the goal.

The contract is the docstring of `Environment`; `EnvironmentContract` in `tests/contracts.py` holds every world to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from agemem_dspy.errors import ConfigurationError, WorldError

_LONGEST_ECHO, _MOST_LISTED = 80, 50


@dataclass(frozen=True, slots=True)
class Observation:
    """What an agent is told: a text, and the actions that are possible now (empty where a world cannot list them)."""

    text: str
    admissible: tuple[str, ...] = ()

    @property
    def choices(self) -> str:
        """Return the possible actions in a sentence, the first of very many; empty where none are listed."""
        if not self.admissible:
            return ""
        more = len(self.admissible) - _MOST_LISTED
        listed = ", ".join(self.admissible[:_MOST_LISTED])
        return f"You can: {listed}{f', and {more} more' if more > 0 else ''}."


@dataclass(frozen=True, slots=True)
class StepResult:
    """What an action came to.

    `reward` is the backend's own, `progress` in [0, 1] the best share of the goal so far, `done` whether the episode
    is over. `possible` is false when there was no such action, and so nothing happened.
    """

    observation: Observation
    reward: float
    progress: float
    done: bool
    possible: bool = True

    @property
    def success(self) -> bool:
        """Tell whether the goal is reached, which is what a progress of 1 says."""
        return self.progress >= 1.0


class Environment(ABC):
    """A world in which an agent acts by words. This docstring is the contract.

    Goal:     known once `reset` was called. `progress` is 1 exactly when it is reached; then the episode is done.
    Progress: the best so far in the episode: it never falls.
    Seed:     the same seed begins the same episode, and the same actions then have the same results. Without a seed
              the world chooses.
    Mistakes: an action that there is not changes nothing in the world; the observation says so and names those
              that are possible. It counts as a step.
    Limit:    after `max_steps` actions the episode is done, whatever was reached.
    Errors:   `WorldError` for a step before `reset` or after the end, and for any use of a closed world.
    Threads:  one world, one episode at a time. Worlds of their own may be used in parallel.

    A world fills `rules`, `_begin`, `_act`, `_solve` and, where there is something to close, `_release`.

    Args:
        name: what `make_environment` made it from, such as "babyai:GoToLocal".
        max_steps: actions allowed in an episode; 30 is AgentBoard's.
    """

    def __init__(self, name: str, *, max_steps: int = 30) -> None:
        if max_steps < 1:
            raise ConfigurationError(f"max_steps must be 1 or more, not {max_steps}")
        self.name, self.max_steps = name, max_steps
        self._goal: str | None = None
        self._last: StepResult | None = None
        self._steps, self._closed = 0, False

    @property
    @abstractmethod
    def rules(self) -> tuple[str, ...]:
        """Return what one should know to act here, a sentence or two each: the actions, and how the world works."""

    @property
    def goal(self) -> str:
        """Return what is to be done in this episode."""
        self._playing("goal")
        return self._goal or ""

    @property
    def last(self) -> StepResult:
        """Return where the episode stands: the result of the last action, or of `reset`."""
        return self._playing("last")

    @property
    def steps(self) -> int:
        """Return how many actions were taken in this episode."""
        return self._steps

    def reset(self, seed: int | None = None) -> Observation:
        """Begin an episode and return what is seen first.

        Raises:
            ConfigurationError: a negative seed.
            WorldError: the world is closed, or its backend failed.
        """
        self._open()
        if seed is not None and seed < 0:
            raise ConfigurationError(f"a seed is 0 or more, not {seed}")
        self._goal, self._last = None, None  # nothing stands if the backend raises
        goal, first = self._begin(seed)
        self._goal, self._last, self._steps = goal, self._checked(first), 0
        return first.observation

    def step(self, action: str) -> StepResult:
        """Take one action.

        Raises:
            WorldError: before `reset`, after the end of the episode, or once closed.
        """
        before = self._playing("step")
        if before.done:
            raise WorldError(f"the episode in {self.name} is over: call reset to begin another")
        wanted = " ".join(action.split())
        result = self._act(wanted)
        if result is None:
            result = replace(before, observation=_refusal(wanted, before.observation), reward=0.0, possible=False)
        self._steps += 1
        result = self._checked(replace(result, progress=max(result.progress, before.progress)))
        self._last = replace(result, done=result.done or self._steps >= self.max_steps)
        return self._last

    def solution(self) -> tuple[str, ...]:
        """Return actions that reach the goal from the beginning of the episode, by the world's own expert.

        `max_steps` is not regarded, and the episode stays as it is.

        Raises:
            WorldError: the expert finds none, or there is no episode.
            MissingDependency: the expert is not installed.
        """
        self._playing("solution")
        return self._solve()

    def close(self) -> None:
        """Release the backend; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _begin(self, seed: int | None) -> tuple[str, StepResult]:
        """Begin an episode; return its goal and where it stands (reward 0, the progress that is there already)."""

    @abstractmethod
    def _act(self, action: str) -> StepResult | None:
        """Take an action (blanks are single); return None for one that there is not, when nothing happened."""

    @abstractmethod
    def _solve(self) -> tuple[str, ...]:
        """Return the solution of this episode, from its beginning."""

    def _release(self) -> None:  # noqa: B027 - most worlds have nothing to close
        """Close what the backend holds open."""

    def _open(self) -> None:
        if self._closed:
            raise WorldError(f"{self.name} is closed: make another with make_environment")

    def _playing(self, what: str) -> StepResult:
        self._open()
        if self._last is None:
            raise WorldError(f"there is no {what} before the first episode in {self.name}: call reset")
        return self._last

    def _checked(self, result: StepResult) -> StepResult:
        if not 0.0 <= result.progress <= 1.0:
            raise WorldError(f"{self.name} reports a progress of {result.progress}, which is not in [0, 1]")
        return replace(result, done=result.done or result.success)


def _refusal(action: str, before: Observation) -> Observation:
    shown = action if len(action) <= _LONGEST_ECHO else action[:_LONGEST_ECHO] + "…"
    return replace(before, text=f"Nothing happens: {shown!r} is not possible here. {before.choices}".rstrip())
