"""Does the second visit to a world go better? The same episodes twice, over one memory and each over an empty one.

    python benchmarks/second_visit.py --model openai/gpt-4o-mini
    python benchmarks/second_visit.py --program runs/demo/grpo --data babyai:GoToObjS6,OpenRedDoor --limit 20

All episodes are played in order, then all of them again. Where the memory is carried, the agent is told after each how
it ended and may store what will help. Where it is not, a greedy model plays the second visit as it played the first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import agemem_dspy as am
from agemem_dspy.bench.report import interval, p_value, shown
from agemem_dspy.cli.program import chosen_program
from agemem_dspy.data import load_dataset
from agemem_dspy.errors import ConfigurationError

EASY = "babyai:GoToRedBallNoDists,GoToRedBallGrey,GoToRedBall,GoToObjS6,GoToDoor,OpenRedDoor"
TERMS = {"success": "success", "progress_rate": "progress rate", "actions": "actions", "reward": "reward"}
Visits = dict[str, tuple[am.EvaluationResult, am.EvaluationResult]]


def main() -> None:
    """Play and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="as `agemem eval --model` takes it")
    parser.add_argument("--program", type=Path, help="folder of a saved agent")
    parser.add_argument("--data", default=EASY, help="episodes in worlds, as `agemem eval --data` names them")
    parser.add_argument("--limit", type=int, default=30, help="episodes")
    parser.add_argument("--max-steps", type=int, default=30, help="actions in an episode")
    parser.add_argument("--max-rounds", type=int, default=3, help="LM calls in a turn")
    parser.add_argument("--out", type=Path, help="folder for one row an episode")
    given = parser.parse_args()
    try:
        program = chosen_program(
            model=given.model, program=given.program, trust_code=False, max_rounds=given.max_rounds,
            max_tokens=None, temperature=None,
        )  # fmt: skip
        examples = load_dataset(given.data, limit=given.limit)
        visits = visit_twice(program, examples, max_steps=given.max_steps, out=given.out)
    except am.AgeMemError as error:
        sys.exit(f"error: {error}")
    Console().print(table(visits, f"{given.data}, {len(examples)} episodes, {program.get_lm().model}"))


def visit_twice(program: Any, examples: Sequence[Any], *, max_steps: int = 30, out: Path | None = None) -> Visits:
    """Return the first and the second visit's rows, without a memory that is carried and with one.

    Raises:
        ConfigurationError: the program keeps no memory of its own, or an episode is not in a world.
    """
    if not isinstance(program, am.ThreeStageEpisode):
        raise ConfigurationError(f"a {type(program).__name__} carries no memory from visit to visit; name an agent")
    if any("environment" not in example for example in examples):
        raise ConfigurationError("only worlds are visited; give episodes of one, such as --data babyai:GoToObjS6")
    visits: Visits = {}
    for carry, name in ((False, "each from an empty memory"), (True, "memory carried")):
        episode = am.ThreeStageEpisode(program.agent, max_steps=max_steps, carry_memory=carry)
        first, second = (
            am.evaluate(
                episode, examples, am.TrajectoryReward(), log_dir=out, resume=False,
                name=f"{'carried' if carry else 'empty'}-{visit}",
            )
            for visit in (1, 2)
        )  # fmt: skip
        visits[name] = first, second
    return visits


def table(visits: Visits, title: str) -> Table:
    """Return first against second visit: means, and the gain with its 95 % interval and p-value."""
    made = Table("", "measure", title=title)
    for label in ("first visit", "second visit", "gain", "p"):
        made.add_column(label, justify="right")
    for name, (first, second) in visits.items():
        for term, label in TERMS.items():
            test = second.paired_test(first, term)
            means = (shown(first.mean(term)), shown(second.mean(term)))
            made.add_row(name, label, *means, interval(test.gain, signed=True), p_value(test))
    return made


if __name__ == "__main__":
    main()
