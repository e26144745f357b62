"""What an agent in a minigrid sees, in sentences, and what it can do there, in words.

The sentences about objects have the form that AgentBoard's progress labels ask for ("There is a red ball 1 2 steps in
front of you and 1 steps to your right."). Coordinates are the agent's own: (right, ahead), itself at (0, 0).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from minigrid.core.actions import Actions

Cell = tuple[int, int]
Plan = tuple[Actions, ...]  # the backend's own actions behind one of ours

_HEADINGS: tuple[Cell, ...] = ((0, 1), (1, 0), (0, -1), (-1, 0))  # ahead, right, behind, left
_SOLID = ("key", "ball", "box", "door")


@dataclass(frozen=True, slots=True)
class Thing:
    """An object in sight. `name` counts equal ones from the nearest: "red closed door 2"."""

    name: str
    cell: Cell
    item: Any  # minigrid's WorldObj


@dataclass(frozen=True, slots=True)
class View:
    """The agent's field of view: the cells in sight, the things in them, and what it carries."""

    cells: Mapping[Cell, Any]  # None for an empty cell
    things: tuple[Thing, ...]
    carrying: Any

    @classmethod
    def of(cls, env: Any) -> View:
        """Look at what an unwrapped minigrid environment shows its agent."""
        grid, mask = env.gen_obs_grid()
        middle, own_row = grid.width // 2, grid.height - 1
        cells = {
            (column - middle, own_row - row): grid.get(column, row)
            for column in range(grid.width)
            for row in range(grid.height)
            if mask[column, row]
        }
        cells[0, 0] = None  # minigrid shows there what the agent carries
        return cls(cells, tuple(_things(cells)), env.carrying)

    @property
    def text(self) -> str:
        """Return the view in sentences, nearest things first."""
        lines = [f"There is a {thing.name} {_place(thing.cell)}." for thing in self.things]
        lines = lines or ["You see no objects."]
        wall = next((ahead for ahead in range(1, 8) if _kind(self.cells.get((0, ahead))) == "wall"), None)
        if wall is not None:
            lines.append(f"You are facing a wall {wall} steps away.")
        held = f"a {self.carrying.color} {self.carrying.type}" if self.carrying else "nothing"
        return " ".join([*lines, f"You are carrying {held}."])

    @property
    def plans(self) -> dict[str, Plan]:
        """Return what is possible now: the words of each action and the backend's actions behind it."""
        plans: dict[str, Plan] = {"turn left": (Actions.left,), "turn right": (Actions.right,)}
        if self._free((0, 1)):
            plans["move forward"] = (Actions.forward,)
        if self.carrying and self.cells.get((0, 1), "unseen") is None:
            plans["drop"] = (Actions.drop,)
        paths = self._paths()
        for thing in self.things:
            path = paths.get(thing.cell)
            if path is None:
                continue
            plans[f"go to {thing.name}"] = path or (Actions.done,)  # to wait, where a mission begins at its end
            if thing.item.can_pickup() and not self.carrying:
                plans[f"pick up {thing.name}"] = (*path, Actions.pickup)
            if thing.item.type == "box" or (thing.item.type == "door" and self._opens(thing.item)):
                plans[f"toggle {thing.name}"] = (*path, Actions.toggle)
            if thing.item.type == "door" and self._opens(thing.item):
                opened = () if thing.item.is_open else (Actions.toggle,)
                plans[f"go through {thing.name}"] = (*path, *opened, Actions.forward, Actions.forward)
        return plans

    def _opens(self, door: Any) -> bool:
        held = self.carrying
        return not door.is_locked or bool(held and held.type == "key" and held.color == door.color)

    def _free(self, cell: Cell) -> bool:
        if cell not in self.cells:
            return False
        item = self.cells[cell]
        return item is None or (item.can_overlap() and item.type != "lava")

    def _paths(self) -> dict[Cell, Plan]:
        """Return for each cell the fewest actions after which the agent faces it, over cells in sight."""
        start = ((0, 0), 0)
        paths: dict[tuple[Cell, int], Plan] = {start: ()}
        facing: dict[Cell, Plan] = {}
        queue = deque([start])
        while queue:
            cell, heading = pose = queue.popleft()
            front, path = _ahead(cell, heading), paths[pose]
            facing.setdefault(front, path)
            steps = [((cell, (heading - 1) % 4), Actions.left), ((cell, (heading + 1) % 4), Actions.right)]
            if self._free(front):
                steps.insert(0, ((front, heading), Actions.forward))
            for reached, action in steps:
                if reached not in paths:
                    paths[reached] = (*path, action)
                    queue.append(reached)
        return facing


def _ahead(cell: Cell, heading: int) -> Cell:
    return cell[0] + _HEADINGS[heading][0], cell[1] + _HEADINGS[heading][1]


def _things(cells: Mapping[Cell, Any]) -> Iterator[Thing]:
    near = sorted(cells, key=lambda cell: (abs(cell[0]) + abs(cell[1]), cell))
    seen: dict[str, int] = {}
    for cell in near:
        item = cells[cell]
        if _kind(item) in _SOLID:
            name = f"{item.color} {_state(item)}{item.type}"
            seen[name] = seen.get(name, 0) + 1
            yield Thing(f"{name} {seen[name]}", cell, item)


def _place(cell: Cell) -> str:
    right, ahead = cell
    if right == 0:
        return f"right in front of you {ahead} steps away"
    return f"{ahead} steps in front of you and {abs(right)} steps to your {'right' if right > 0 else 'left'}"


def _state(item: Any) -> str:
    if item.type != "door":
        return ""
    return "open " if item.is_open else "locked " if item.is_locked else "closed "


def _kind(item: Any) -> str | None:
    return item.type if item is not None else None
