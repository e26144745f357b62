"""Acting in a world: its actions as one more tool beside the six, what states its task, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dspy

from agemem_dspy.environments import Environment, make_environment
from agemem_dspy.errors import ConfigurationError, ToolError
from agemem_dspy.programs.agent import task_message
from agemem_dspy.programs.session import Play, Session
from agemem_dspy.types import Outcome, Stage

EPISODE_INPUTS = ("messages", "distractors", "environment", "seed")


@contextmanager
def begun(environment: str | None, seed: int | None, *, max_steps: int = 30) -> Iterator[Environment | None]:
    """Make the world of stage 3 and begin its episode; None where the task is a question.

    Raises:
        ConfigurationError: no such world, or a seed without one.
        MissingDependency: the world's extra is not installed.
    """
    if environment is None:
        if seed is not None:
            raise ConfigurationError("a seed belongs to an environment: name one, or leave the seed out")
        yield None
        return
    with make_environment(environment, max_steps=max_steps) as world:
        world.reset(seed)
        yield world


def task_of(signature: type[dspy.Signature], world: Environment | None, inputs: Mapping[str, Any]) -> str:
    """Return the message that states the task of stage 3: the inputs, or what the world says.

    Raises:
        ConfigurationError: inputs that do not fit.
    """
    if world is None:
        return task_message(signature, inputs)
    fields = list(signature.input_fields)
    if len(fields) != 1 or inputs:
        wrong = f"leave out {', '.join(inputs)}" if inputs else f"this one takes {fields}"
        raise ConfigurationError(f"a world states the task itself, to an agent with one input: {wrong}")
    return task_message(signature, {fields[0]: stated(world)})


def act_in(session: Session, world: Environment, task: str, *, recall: bool = False) -> Play:
    """Play stage 3 in a world: `act` is offered beside the session's tools until the world's episode ends."""
    session.toolkit.offer(act_tool(world))
    yield from session.turn(Stage.REASON, 0, task, recall=recall, must_answer=True, world=world)
    session.toolkit.withdraw("act")
    session.outcome = outcome_of(world)


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
