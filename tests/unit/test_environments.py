"""What all worlds share: made by name, light until then, and what the base class refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fakes_world import Counter

from agemem_dspy.environments import WORLDS, StepResult, make_environment
from agemem_dspy.environments.world import Observation
from agemem_dspy.errors import ConfigurationError, WorldError

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ("minigrid", "gymnasium", "pyperplan")


def test_progress_never_falls_and_full_progress_ends_the_episode() -> None:
    class Falling(Counter):
        shares = (0.5, 0.25, 1.0)

    with Falling("falling") as world:
        world.reset()
        results = [world.step("more") for _ in range(3)]
    assert [result.progress for result in results] == [0.5, 0.5, 1.0]
    assert [(result.done, result.success) for result in results] == [(False, False), (False, False), (True, True)]


def test_an_impossible_action_is_answered_with_the_possible_ones() -> None:
    world = Counter("counter")
    world.reset()
    world.step("more")
    result = world.step("fewer")
    assert result.observation == Observation("Nothing happens: 'fewer' is not possible here. You can: more.", ("more",))
    assert (result.reward, result.progress, world.said, world.steps) == (0.0, 1 / 3, 1, 2)
    assert not result.possible


def test_very_many_actions_are_not_all_listed() -> None:
    many = Observation("A warehouse.", tuple(f"take box {n}" for n in range(53)))
    assert many.choices.startswith("You can: take box 0, take box 1, ")
    assert many.choices.endswith("take box 49, and 3 more.")
    assert Observation("Nowhere.").choices == ""


def test_a_progress_outside_the_range_is_the_worlds_mistake() -> None:
    class Wrong(Counter):
        shares = (33.0, 66.0, 100.0)

    world = Wrong("wrong")
    world.reset()
    with pytest.raises(WorldError, match=r"test:wrong reports a progress of 33.0"):
        world.step("more")


def test_an_episode_may_begin_at_its_goal() -> None:
    class Done(Counter):
        def _begin(self, seed: int | None) -> tuple[str, StepResult]:
            goal, first = super()._begin(seed)
            return goal, replace(first, progress=1.0)

    world = Done("done")
    world.reset()
    assert (world.last.done, world.last.success, world.steps) == (True, True, 0)


def test_a_reset_that_fails_leaves_no_episode() -> None:
    class Failing(Counter):
        def _begin(self, seed: int | None) -> tuple[str, StepResult]:
            if seed == 13:
                raise WorldError("the backend is gone")
            return super()._begin(seed)

    world = Failing("failing")
    world.reset(1)
    with pytest.raises(WorldError, match="gone"):
        world.reset(13)
    with pytest.raises(WorldError, match="call reset"):
        world.step("more")


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_steps must be 1 or more, not 0"):
        Counter("counter", max_steps=0)
    with pytest.raises(ConfigurationError, match="a seed is 0 or more, not -1"):
        Counter("counter").reset(-1)


@pytest.mark.parametrize("name", ["", "babyai", "babyai:", "zork:west", ":GoToLocal"])
def test_an_unknown_world_names_the_known_kinds(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"give kind:task, with one of {', '.join(WORLDS)}"):
        make_environment(name)


def test_no_backend_is_loaded_before_a_world_is_made() -> None:
    script = (
        "import sys, agemem_dspy, agemem_dspy.environments as e, agemem_dspy.environments.babyai,"
        f" agemem_dspy.environments.pddl; print([name for name in {BACKENDS} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
