"""Acting in a world: its actions as one more tool beside the six, what states its task, and what came of it."""

from __future__ import annotations

import dspy

from agemem_dspy.environments import Environment
from agemem_dspy.errors import ToolError
from agemem_dspy.types import Outcome


def act_tool(world: Environment) -> dspy.Tool:
    """Return the tool `act(action)` of one episode in a world that was reset.

    An action that there is not is the policy's mistake: a failed call, which names the possible ones.
    """

    def act(action: str) -> str:
        if world.last.done:
            raise ToolError("the episode is over: there is nothing left to act on")
        result = world.step(action)
        if not result.possible:
            raise ToolError(result.observation.text)
        ending = " The goal is reached." if result.success else " The episode is over." if result.done else ""
        return result.observation.text + ending

    return dspy.Tool(
        act,
        name="act",
        desc="Act in the world and see what comes of it.",
        arg_desc={"action": "one action, in the world's words"},
    )


def stated(world: Environment) -> str:
    """Return the message that states a world's task: the goal, what is seen, and what is possible first."""
    first = world.last.observation
    return f"{world.goal}\n{first.text}\n{first.choices}".strip()


def debriefing(outcome: Outcome) -> str:
    """Return the message after the end of an episode, when the memory outlives it."""
    result = "The goal was reached" if outcome.success else f"The goal was not reached ({outcome.progress:.0%} of it)"
    return f"{result} after {outcome.actions} actions. Store what will help another time: {outcome.goal}"


def outcome_of(world: Environment) -> Outcome:
    """Return what the episode in a world has come to."""
    return Outcome(
        environment=world.name,
        goal=world.goal,
        success=world.last.success,
        progress=world.last.progress,
        actions=world.steps,
    )
