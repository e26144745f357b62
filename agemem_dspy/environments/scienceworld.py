"""ScienceWorld: 30 tasks of elementary science in a house of ten rooms, on its own simulator.

Deviations: 1. "reset task" is no action; 2. the simulator is made deterministic (`scienceworld_server`); 3. possible
actions are not listed at every step, since there are thousands: the rules name their forms.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from agemem_dspy.environments.scienceworld_labels import Episode, read_episodes
from agemem_dspy.environments.scienceworld_server import WAITING
from agemem_dspy.environments.world import Environment, Observation, StepResult
from agemem_dspy.errors import ConfigurationError, WorldError

AGENTBOARD_SIMPLIFICATIONS = "selfWateringFlowerPots,openContainers,openDoors,noElectricalAction"
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
    """A task of ScienceWorld; progress is its score, or the share of AgentBoard's subgoals that were met.

    A world has a Java process of its own, which is used again by worlds that are made soon after it is closed.

    Args:
        task: "boil/3" is variation 3 of the task; with "boil", "boil/train", "boil/dev" or "boil/test" the seed
            chooses a variation, of all or of ScienceWorld's own split. A path of AgentBoard's labels (its
            scienceworld/test.jsonl) stands for its episodes, of which the seed chooses one: with AgentBoard's goal and
            simplifications, reached when every subgoal was met, and not ended by a failure before.
            A seed of n or more, when there are n to choose from, begins again with the first.
        max_steps: actions allowed in an episode.

    Raises:
        ConfigurationError: no such task or variation.
        DataError: the labels cannot be read.
        MissingDependency: the package scienceworld or a Java runtime is missing.
        WorldError: Java does not start.
    """

    def __init__(self, task: str, *, max_steps: int = 30) -> None:
        super().__init__(f"scienceworld:{task}", max_steps=max_steps)
        self._server = WAITING.take()
        self._ask = self._server.ask
        try:
            self._episodes = self._found(task)
        except BaseException:
            self.close()
            raise
        self._episode, self._score = self._episodes[0], 0.0
        self._met: frozenset[int] = frozenset()
        self._taken: list[str] = []
        self._solutions: dict[Episode, tuple[str, ...]] = {}

    @property
    def rules(self) -> tuple[str, ...]:
        return RULES

    def _begin(self, seed: int | None) -> tuple[str, StepResult]:
        count = len(self._episodes)
        self._episode = self._episodes[random.randrange(count) if seed is None else seed % count]
        text = self._load()
        goal = self._episode.goal or self._ask("freeActionTaskDesc").removeprefix("Task Description:").strip()
        first = Observation(f"{text}\n{self._ask('freeActionInventory')}")
        return goal, replace(self._stand(first), reward=0.0)

    def _act(self, action: str) -> StepResult | None:
        if action.lower() == _RESET:
            return None
        text = str(self._ask("step", action))
        self._taken.append(action)
        return None if text == _UNKNOWN else self._stand(Observation(text))

    def _solve(self) -> tuple[str, ...]:
        if self._episode not in self._solutions:
            taken, stood = self._taken, (self._met, self._score)
            try:
                self._solutions[self._episode] = self._expert()
            finally:  # the simulator was used for it, and has to be where it was
                self._load()
                for action in taken:
                    self._ask("step", action)
                self._taken, (self._met, self._score) = taken, stood
        return self._solutions[self._episode]

    def _release(self) -> None:
        WAITING.put(self._server)

    def _expert(self) -> tuple[str, ...]:
        """Return ScienceWorld's own actions as far as they are needed, once they were seen to reach the goal."""
        self._load(expert=True)
        plan = list(self._ask("getGoldActionSequence"))
        for count, action in enumerate(plan, start=1):
            if self._stand(Observation(str(self._ask("step", action)))).success:
                return tuple(plan[:count])
        raise WorldError(
            f"ScienceWorld's expert does not reach the goal of {self.name}: {self._episode.task}, variation "
            f"{self._episode.variation}" + (" (it knows nothing of subgoals)" if self._episode.subgoals else "")
        )

    def _load(self, *, expert: bool = False) -> str:
        """Begin the episode anew and return what is seen."""
        self._taken, self._met, self._score = [], frozenset(), 0.0
        episode = self._episode
        self._ask("load", episode.task, episode.variation, AGENTBOARD_SIMPLIFICATIONS * bool(episode.subgoals), expert)
        return str(self._ask("step", "look around"))

    def _stand(self, observation: Observation) -> StepResult:
        """Return where the episode stands after an observation; the reward is in ScienceWorld's points of 100."""
        before, self._score = self._score, float(self._ask("getScore"))
        reward = float(round(100 * self._score) - round(100 * before))
        if subgoals := self._episode.subgoals:
            self._met |= self._episode.met(observation.text)
            return StepResult(observation, reward, len(self._met) / len(subgoals), len(self._met) == len(subgoals))
        over = bool(self._ask("getCompleted")) or self._score < 0
        return StepResult(observation, reward, max(0.0, self._score), over)

    def _found(self, task: str) -> tuple[Episode, ...]:
        """Return the episodes that the seed chooses from."""
        tasks = list(self._ask("getTaskNames"))
        if task.endswith(".jsonl"):
            episodes = read_episodes(Path(task))
            if strange := {episode.task for episode in episodes}.difference(tasks):
                raise ConfigurationError(f"{task} names the task {min(strange)!r}; there are {', '.join(tasks)}")
            return episodes
        name, _, which = task.partition("/")
        if name not in tasks:
            raise ConfigurationError(f"there is no ScienceWorld task {name!r}; there are {', '.join(tasks)}")
        count = int(self._ask("getTaskMaxVariations", name))
        if not which:
            return tuple(Episode(name, variation) for variation in range(count))
        if which in SPLITS:
            self._ask("load", name, 0, "", False)  # the split is asked of the task that is loaded
            return tuple(Episode(name, int(one)) for one in self._ask(f"getVariations{which.capitalize()}"))
        if not which.isdecimal() or int(which) >= count:
            raise ConfigurationError(
                f"{self.name}: {name} has the variations 0 to {count - 1}, and the splits {', '.join(SPLITS)}"
            )
        return (Episode(name, int(which)),)
