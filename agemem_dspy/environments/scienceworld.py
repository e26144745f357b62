"""ScienceWorld: 30 tasks of elementary science in a house of ten rooms, on its own simulator.

Deviations from AgentBoard: 1. without its labels the goal, the progress and the end are ScienceWorld's own; 2. "reset
task" is no action; 3. the simulator is made deterministic (`scienceworld_server`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agemem_dspy.environments.scienceworld_labels import Labels, read_labels
from agemem_dspy.environments.scienceworld_server import WAITING
from agemem_dspy.environments.world import Environment, Observation, StepResult
from agemem_dspy.errors import ConfigurationError, WorldError

AGENTBOARD_SIMPLIFICATIONS = ("selfWateringFlowerPots", "openContainers", "openDoors", "noElectricalAction")
SPLITS = ("train", "dev", "test")
RULES = (
    "You are in a house with rooms, things, animals and plants; time passes with every action.",
    "To see: 'look around', 'look at X', 'look in X', 'read X', 'inventory'; 'task' repeats the task.",
    "To move: 'open door to kitchen', then 'go to kitchen'; rooms are joined by doors, and most doors are closed.",
    "To handle: 'pick up X', 'put down X', 'move X to Y', 'pour X into Y', 'dunk X into Y', 'mix X', 'eat X'.",
    "To operate: 'open X', 'close X', 'activate X', 'deactivate X', 'use X on Y'.",
    "To wire: 'connect X terminal 1 to Y anode', 'disconnect X'; a battery has an anode and a cathode.",
    "To let time pass: 'wait1' for one step, 'wait' for ten.",
    "'focus on X' says that X is what the task asks for; focusing on a wrong thing fails the task at once.",
    "A mixture is made by putting things into one container and mixing that container.",
    "If a name fits several things you are asked which one: answer with its number.",
)
_UNKNOWN = "No known action matches that input."
_RESET = "reset task"


class ScienceWorld(Environment):
    """A task of ScienceWorld; progress is its score, or the share of AgentBoard's subgoals where labels are given.

    A world has a Java process of its own, which is used again by worlds that are made soon after it is closed.

    Args:
        task: "boil/3" is variation 3 of the task; with "boil", "boil/train", "boil/dev" or "boil/test" the seed
            chooses a variation of all or of ScienceWorld's own split, number `seed` modulo how many there are.
        max_steps: actions allowed in an episode.
        labels: path of AgentBoard's labels (its scienceworld/test.jsonl). Then the goal is in AgentBoard's words, it
            is reached when every subgoal was met and never failed, and only labelled variations are played.
        simplifications: ScienceWorld's own, by name. Left out: AgentBoard's four with labels, none without.

    Raises:
        ConfigurationError: no such task, variation or simplification, or no labels for it.
        DataError: the labels cannot be read.
        MissingDependency: the package scienceworld or a Java runtime is missing.
        WorldError: Java does not start.
    """

    def __init__(
        self,
        task: str,
        *,
        max_steps: int = 30,
        labels: str | Path | None = None,
        simplifications: Sequence[str] | None = None,
    ) -> None:
        super().__init__(f"scienceworld:{task}", max_steps=max_steps)
        self._labels = read_labels(labels) if labels is not None else {}
        given = AGENTBOARD_SIMPLIFICATIONS if labels is not None else ()
        self._simplifications = tuple(given if simplifications is None else simplifications)
        self._server = WAITING.take()
        self._ask = self._server.ask
        try:
            self._task, self._variations = self._found(*task.split("/", 1))
        except BaseException:
            self.close()
            raise
        self._variation, self._score = self._variations[0], 0.0
        self._met: frozenset[int] = frozenset()
        self._taken: list[str] = []
        self._solutions: dict[int, tuple[str, ...]] = {}

    @property
    def rules(self) -> tuple[str, ...]:
        return RULES

    def _begin(self, seed: int | None) -> tuple[str, StepResult]:
        number = random.randrange(len(self._variations)) if seed is None else seed % len(self._variations)
        self._variation = self._variations[number]
        text = self._load()
        goal = str(self._ask("freeActionTaskDesc")).removeprefix("Task Description:").strip()
        first = Observation(f"{text}\n{self._ask('freeActionInventory')}")
        labels = self._labelled()
        return labels.goal if labels else goal, replace(self._stand(first), reward=0.0)

    def _act(self, action: str) -> StepResult | None:
        if action.lower() == _RESET:
            return None
        text = str(self._ask("step", action))
        self._taken.append(action)
        return None if text == _UNKNOWN else self._stand(Observation(text))

    def _solve(self) -> tuple[str, ...]:
        if self._variation not in self._solutions:
            taken, stood = self._taken, (self._met, self._score)
            try:
                self._solutions[self._variation] = self._expert()
            finally:  # the simulator has been used for it, and has to be where it was
                self._load()
                for action in taken:
                    self._ask("step", action)
                self._taken, (self._met, self._score) = taken, stood
        return self._solutions[self._variation]

    def _release(self) -> None:
        WAITING.put(self._server)

    def _expert(self) -> tuple[str, ...]:
        """Return ScienceWorld's own actions as far as they are needed, once they were seen to reach the goal."""
        self._load(expert=True)
        plan = list(self._ask("getGoldActionSequence"))
        for count, action in enumerate(plan, start=1):
            if self._stand(Observation(self._ask("step", action))).success:
                return tuple(plan[:count])
        raise WorldError(
            f"ScienceWorld's expert does not reach the goal of {self.name}, variation {self._variation}"
            + (": it knows nothing of AgentBoard's subgoals" if self._labels else "")
        )

    def _load(self, *, expert: bool = False) -> str:
        """Begin the variation anew and return what is seen."""
        self._taken, self._met, self._score = [], frozenset(), 0.0
        self._ask("load", self._task, self._variation, ",".join(self._simplifications), expert)
        return str(self._ask("step", "look around"))

    def _stand(self, observation: Observation) -> StepResult:
        """Return where the episode stands after an observation; the reward is in ScienceWorld's points of 100."""
        before, self._score = self._score, float(self._ask("getScore"))
        reward = float(round(100 * self._score) - round(100 * before))
        if labels := self._labelled():
            self._met |= labels.met(observation.text)
            progress = len(self._met) / len(labels.subgoals)
            return StepResult(observation, reward, progress, progress == 1.0)
        over = bool(self._ask("getCompleted")) or self._score < 0
        return StepResult(observation, reward, max(0.0, self._score), over)

    def _labelled(self) -> Labels | None:
        return self._labels.get((self._task, self._variation))

    def _found(self, task: str, which: str | None = None) -> tuple[str, tuple[int, ...]]:
        """Return the task and the variations that the seed may choose from."""
        tasks = list(self._ask("getTaskNames"))
        if task not in tasks:
            raise ConfigurationError(f"there is no ScienceWorld task {task!r}; there are {', '.join(tasks)}")
        known = ["easy", *self._ask("getPossibleSimplifications").split(", ")]
        if strange := [name for name in self._simplifications if name not in known]:
            raise ConfigurationError(f"unknown simplification {strange[0]!r}; there are {', '.join(known)}")
        count = int(self._ask("getTaskMaxVariations", task))
        variations: Sequence[int] = range(count)
        if which in SPLITS:
            self._ask("load", task, 0, "", False)
            variations = [int(one) for one in self._ask(f"getVariations{which.capitalize()}")]
        elif which is not None:
            if not which.isdecimal() or int(which) >= count:
                raise ConfigurationError(
                    f"{self.name}: {task} has the variations 0 to {count - 1}, and the splits {', '.join(SPLITS)}"
                )
            variations = [int(which)]
        if self._labels:
            variations = [one for one in variations if (task, one) in self._labels]
            if not variations:
                raise ConfigurationError(f"{self.name} is not among the labelled episodes")
        return task, tuple(variations)
