"""BabyAI: 96 levels of instructions in a grid of rooms (minigrid), seen and acted on in words.

Deviations from AgentBoard's wrapper: 1. paths lead over cells in sight only; 2. "go through" opens the door when it
has to and ends behind it; 3. "toggle" names its object and walks to it; 4. a mission is done when minigrid says so,
never because the labels of its progress are used up.
"""

from __future__ import annotations

import random
from typing import Any

from agemem_dspy.environments.world import Environment, Observation, StepResult
from agemem_dspy.errors import ConfigurationError, MissingDependency

INSTALL = 'pip install "agemem-dspy[babyai]"'
RULES = (
    "You are in a grid of rooms and see seven by seven cells in front of you, but not through walls or closed doors.",
    "'turn left' and 'turn right' turn you by a quarter; 'move forward' takes you one cell ahead.",
    "'go to red ball 1' takes you to an object that you see, facing it; equal objects are numbered from the nearest.",
    "'pick up red ball 1' takes you to a key, ball or box and picks it up; you can carry one thing at a time.",
    "'drop' puts what you carry into the empty cell in front of you.",
    "'toggle red closed door 1' takes you to a door and opens or closes it; toggling a box opens it for good.",
    "'go through red open door 1' takes you through a door into the cell behind it and opens it first if it is closed.",
    "A locked door opens only while you carry the key of its colour.",
    "If what you look for is not in sight, turn around, then look behind the doors.",
)


class BabyAI(Environment):
    """A BabyAI level; its goal and rooms are drawn by the seed. Progress is the share of the mission's parts done.

    Args:
        level: minigrid's id without prefix and version: "GoToLocal", "BossLevel".
        max_steps: actions allowed in an episode; minigrid's own limit, in single moves, holds as well.

    Raises:
        ConfigurationError: no such level.
        MissingDependency: minigrid is not installed.
    """

    def __init__(self, level: str, *, max_steps: int = 30) -> None:
        super().__init__(f"babyai:{level}", max_steps=max_steps)
        ids = level_ids()
        if level not in ids:
            raise ConfigurationError(f"there is no BabyAI level {level!r}; there are {', '.join(sorted(ids))}")
        self._id = ids[level]
        self._seed, self._env = 0, make_level(self._id)
        self._plans: dict[str, Any] = {}

    @property
    def rules(self) -> tuple[str, ...]:
        return RULES

    def _begin(self, seed: int | None) -> tuple[str, StepResult]:
        self._seed = random.randrange(2**31) if seed is None else seed
        self._env.reset(seed=self._seed)
        return self._env.mission, StepResult(self._look(), 0.0, 0.0, False)

    def _act(self, action: str) -> StepResult | None:
        plan = self._plans.get(action.lower())
        if plan is None:
            return None
        reward, success, over = perform(self._env, plan)
        progress = 1.0 if success else share_done(self._env.instrs)
        return StepResult(self._look(), reward, progress, over)

    def _look(self) -> Observation:
        from agemem_dspy.environments.babyai_view import View

        view = View.of(self._env)
        self._plans = view.plans
        return Observation(view.text, tuple(self._plans))

    def _solve(self) -> tuple[str, ...]:
        from agemem_dspy.environments.babyai_expert import bot_actions

        return bot_actions(self.name, lambda: make_level(self._id), self._seed)

    def _release(self) -> None:
        self._env.close()


def level_ids() -> dict[str, str]:
    """Return minigrid's ids of the levels by their short names: "GoToObjS6" is "BabyAI-GoToObjS6-v1".

    Raises:
        MissingDependency: minigrid is not installed.
    """
    _import_minigrid()
    import gymnasium

    found = [name for name in gymnasium.registry if name.startswith("BabyAI-")]
    return {name.removeprefix("BabyAI-").rpartition("-v")[0]: name for name in found}


def make_level(level_id: str) -> Any:
    """Return minigrid's own environment of a level."""
    import gymnasium

    return gymnasium.make(level_id, disable_env_checker=True).unwrapped


def perform(env: Any, plan: Any) -> tuple[float, bool, bool]:
    """Take the backend's actions until one cannot be done or ends the episode; return reward, success and end."""
    from minigrid.core.actions import Actions

    total = 0.0
    for action in plan:
        front = env.grid.get(*env.front_pos)
        if action is Actions.forward and front is not None and not front.can_overlap():
            break
        _, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        if terminated or truncated:
            return total, bool(terminated and reward > 0), True
    return total, False, False


def share_done(instruction: Any) -> float:
    """Return the share of an unfinished mission's parts that are done, in [0, 1)."""
    done, parts = _parts(instruction)
    return done / parts


def _parts(instruction: Any) -> tuple[int, int]:
    """Count the parts done and all parts of an instruction that is not done as a whole."""
    if not hasattr(instruction, "instr_a"):
        return 0, 1
    done, parts = 0, 0
    for part, state in ((instruction.instr_a, instruction.a_done), (instruction.instr_b, instruction.b_done)):
        some, all_ = _parts(part)
        done, parts = done + (all_ if state == "success" else some), parts + all_
    return done, parts


def _import_minigrid() -> None:
    """Import minigrid, which registers its levels, and keep it from printing when it draws a level anew."""
    try:
        import minigrid  # noqa: F401 - registers
        from minigrid.envs.babyai.core import roomgrid_level
    except ImportError as error:
        raise MissingDependency(f"BabyAI needs the package minigrid: {INSTALL}") from error
    vars(roomgrid_level)["print"] = lambda *_: None  # its notes on rejected draws would fill the output
