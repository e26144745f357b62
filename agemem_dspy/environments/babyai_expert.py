"""The expert of BabyAI: minigrid's bot decides in single moves, which are then put into our words.

Of the actions possible at a moment the one is taken that gets furthest along the bot's own way: it must do the same
picking, dropping and toggling at the same places and end where the bot was, whichever cells it walked over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minigrid.core.actions import Actions
from minigrid.core.constants import DIR_TO_VEC
from minigrid.utils.baby_ai_bot import BabyAIBot, DisappearedBoxError

from agemem_dspy.environments.babyai import perform
from agemem_dspy.environments.babyai_view import View
from agemem_dspy.errors import WorldError

Pose = tuple[int, int, int]  # column, row, direction
_MOVES = (Actions.left, Actions.right, Actions.forward)
_MOST_SEARCHES = 500  # in one decision; a bot that needs more is going round in circles


def bot_actions(name: str, make: Callable[[], Any], seed: int) -> tuple[str, ...]:
    """Return the actions, in words, by which the bot reaches the goal of a level.

    Args:
        make: returns a new environment of the level.

    Raises:
        WorldError: the bot does not get there; it does not on some levels.
    """
    track = _track(name, make(), seed)
    for longest in (len(track), 1):  # a shortened way may miss what the bot met by chance: then move by move
        words = _in_words(make(), seed, track, longest)
        if words is not None:
            return words
    raise WorldError(f"the bot's way through {name} with seed {seed} cannot be put into words")


class _Bot(BabyAIBot):
    """The bot, which gives up where it would search for ever."""

    def replan(self, action_taken: Any = None) -> Any:
        self.bfs_counter = 0
        return super().replan(action_taken)

    def _breadth_first_search(self, *args: Any, **kwargs: Any) -> Any:
        if self.bfs_counter > _MOST_SEARCHES:
            raise AssertionError("it searches for ever")  # as the bot itself gives up
        return super()._breadth_first_search(*args, **kwargs)


def _track(name: str, env: Any, seed: int) -> list[tuple[Pose, Actions]]:
    """Return where the bot was and what it did there, to its success."""
    env.reset(seed=seed)
    bot, track, action = _Bot(env), [], None
    while True:
        try:
            action = bot.replan(action)
        except (AssertionError, DisappearedBoxError) as error:
            raise WorldError(f"minigrid's bot gives up on {name} with seed {seed}: {error}") from error
        track.append((_pose(env), action))
        _, reward, terminated, truncated, _ = env.step(action)
        if terminated and reward > 0:
            return track
        if terminated or truncated:
            raise WorldError(f"minigrid's bot fails in {name} with seed {seed}")


def _in_words(env: Any, seed: int, track: Sequence[tuple[Pose, Actions]], longest: int) -> tuple[str, ...] | None:
    """Follow a track by actions in words, each at most `longest` moves of it; None when that misses the goal."""
    env.reset(seed=seed)
    words: list[str] = []
    place = 0
    while place < len(track):
        plans = View.of(env).plans
        ends = {text: _end(track, place, _effect(_pose(env), plan), longest) for text, plan in plans.items()}
        text = max(ends, key=lambda one: ends[one])
        if ends[text] == place:
            return None
        words.append(text)
        _, success, over = perform(env, plans[text])
        if over:
            return tuple(words) if success else None
        place = ends[text]
    return None


Effect = tuple[tuple[tuple[Pose, Actions], ...], Pose]  # what is done besides walking, and where; the last pose


def _effect(pose: Pose, plan: Sequence[Actions]) -> Effect:
    deeds: list[tuple[Pose, Actions]] = []
    for action in plan:
        if action not in _MOVES:
            deeds.append((pose, action))
        pose = _moved(pose, action)
    return tuple(deeds), pose


def _end(track: Sequence[tuple[Pose, Actions]], place: int, effect: Effect, longest: int) -> int:
    """Return the last place in the track to which an action of this effect leads; `place` if there is none."""
    wanted, last = effect
    deeds: list[tuple[Pose, Actions]] = []
    found = place
    for reached in range(place, min(len(track), place + longest)):
        pose, action = track[reached]
        if action not in _MOVES:
            deeds.append((pose, action))
        after = track[reached + 1][0] if reached + 1 < len(track) else _moved(pose, action)
        if tuple(deeds) == wanted and after == last:
            found = reached + 1
        if len(deeds) > len(wanted):
            break
    return found


def _moved(pose: Pose, action: Actions) -> Pose:
    column, row, heading = pose
    if action is Actions.left:
        return column, row, (heading - 1) % 4
    if action is Actions.right:
        return column, row, (heading + 1) % 4
    if action is Actions.forward:
        across, down = DIR_TO_VEC[heading]
        return column + int(across), row + int(down), heading
    return pose


def _pose(env: Any) -> Pose:
    column, row = env.agent_pos
    return int(column), int(row), int(env.agent_dir)
