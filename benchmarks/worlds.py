"""How far the experts get in our words, and how fast the worlds are.

    python benchmarks/worlds.py [--seeds 3] [--labels agentboard/babyai_test.jsonl] [--problems pddl/]

BabyAI: minigrid's bot on all 96 levels, each with the seeds 0, 1, …: which it solves through our observations and
actions, and in how many actions. `--labels` plays AgentBoard's rows as well and compares them: how many missions and
first views are the same, and the progress rate that the bot's way earns by their labels. PDDL: pyperplan's plans for
all problems of a folder (`<domain>/<problem>.pddl` beside `<domain>.pddl`).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agemem_dspy.data import load_dataset
from agemem_dspy.environments import make_environment
from agemem_dspy.environments.babyai import level_ids
from agemem_dspy.errors import WorldError
from agemem_dspy.progress import shows

ENOUGH = 1000  # steps, so that no limit but the backend's own ends an episode


class Tally:
    """What came of the episodes of one kind."""

    def __init__(self) -> None:
        self.solved: list[int] = []
        self.unsolved: list[str] = []
        self.steps, self.seconds = 0, 0.0

    def play(self, name: str, seed: int) -> list[str]:
        """Replay the expert's actions; return what was seen."""
        seen: list[str] = []
        with make_environment(name, max_steps=ENOUGH) as world:
            world.reset(seed)
            try:
                actions = world.solution()
            except WorldError as error:
                self.unsolved.append(f"{Path(name).stem} with seed {seed}: {error}")
                return seen
            began = time.perf_counter()
            for action in actions:
                seen.append(world.step(action).observation.text)
            self.seconds += time.perf_counter() - began
            self.steps += len(actions)
            if world.last.success:
                self.solved.append(len(actions))
            else:
                self.unsolved.append(f"{name} with seed {seed}: the actions do not reach the goal")
        return seen

    def row(self) -> list[str]:
        """Return solved of all, actions and steps a second."""
        episodes = len(self.solved) + len(self.unsolved)
        return [
            f"{len(self.solved)} of {episodes}",
            f"{statistics.median(self.solved):.0f}",
            f"{sum(n <= 30 for n in self.solved)}",
            f"{self.steps / self.seconds:,.0f}",
        ]


def main() -> None:
    """Print what is solved, in how many actions, and how fast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="play every BabyAI level with so many")
    parser.add_argument("--labels", type=Path, help="AgentBoard's label file of BabyAI")
    parser.add_argument("--problems", type=Path, help="folder of PDDL problems")
    arguments = parser.parse_args()
    console = Console(width=120)
    table = Table("world", "solved", "median actions", "in 30 or fewer", "steps/s")
    tallies = {}
    for seed in range(arguments.seeds):
        tally = tallies[f"babyai, 96 levels, seed {seed}"] = Tally()
        for level in level_ids():
            tally.play(f"babyai:{level}", seed)
    if arguments.labels:
        tallies["babyai, AgentBoard's episodes"] = labelled(arguments.labels, console)
    if arguments.problems:
        for domain in sorted(path.stem for path in arguments.problems.glob("*.pddl")):
            tally = tallies[f"pddl, {domain}"] = Tally()
            for problem in sorted((arguments.problems / domain).glob("*.pddl")):
                tally.play(f"pddl:{problem}", 0)
    for name, tally in tallies.items():
        table.add_row(name, *tally.row())
        for reason in tally.unsolved:
            console.print(f"{name}: {reason}", style="dim")
    console.print(table)


def labelled(file: Path, console: Console) -> Tally:
    """Play AgentBoard's episodes and print how their missions, views and labels fit."""
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
    tally, missions, views, rates = Tally(), 0, 0, []
    for row, example in zip(rows, load_dataset(f"agentboard:{file}"), strict=True):
        with make_environment(example.environment) as world:
            first = world.reset(example.seed).text
            missions += world.goal == row["goal"]
            views += objects(first) == objects(row["additional_info"]["init_obs"])
        seen = tally.play(example.environment, example.seed)
        if seen:
            shown = [any(shows(text, label) for text in [first, *seen] for label in one) for one in example.subgoals]
            rates.append(sum(shown) / len(shown))
    console.print(
        f"AgentBoard: {missions} of {len(rows)} missions and {views} first views are the same; the bot's way shows "
        f"{statistics.fmean(rates):.0%} of the labelled subgoals, all of them in {sum(r == 1 for r in rates)} episodes"
    )
    return tally


def objects(text: str) -> list[str]:
    """Return what a view says of objects, in any order."""
    return sorted(re.findall(r"There is a ([^.]*)\.", " ".join(text.split())))


if __name__ == "__main__":
    main()
