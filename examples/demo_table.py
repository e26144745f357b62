"""The README's table, from finished runs of the demo with several seeds.

    for seed in 0 1 2; do python examples/demo.py --seed $seed --steps 48 --out runs/demo-$seed; done
    python examples/demo_table.py runs/demo-0 runs/demo-1 runs/demo-2

A cell is the mean over runs and episodes. Intervals (95 %) resample the held-out episodes, each with its mean over the
runs. The lines below give GRPO's gain, pooled and for every run: of greedy play, and of play at the temperature of
training.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from agemem_dspy.results import EvaluationResult, Interval

PHASES = {"base": "base", "prompts": "+ prompts", "warm_start": "+ warm start", "grpo": "+ GRPO"}
SAMPLED = "{}_sampled"  # a phase's test at the temperature of training, where the demo plays it
ROWS = {
    "reward": ("reward",),
    "answer score": ("answer",),
    "R_task": ("task",),
    "compression / preventive / preservation": ("compression", "preventive", "preservation"),
    "storage / maintenance / relevance": ("storage", "maintenance", "relevance"),
    "penalty": ("penalty",),
    "memory quality": ("memory_quality",),
    "steps that parse": ("parse_rate",),
    "tool calls that succeed": ("tool_success",),
    "prompt tokens an episode": ("prompt_tokens",),
}
WITH_INTERVAL = ("reward", "answer")
PERCENT = ("parse_rate", "tool_success")


def main() -> None:
    """Print the table and every run's rewards and gain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run directories of the demo")
    folders = parser.parse_args().runs
    runs = [read(folder) for folder in folders]
    print("| | " + " | ".join(PHASES.values()) + " |")
    print("|---" * (len(PHASES) + 1) + "|")
    for label, terms in ROWS.items():
        cells = [" / ".join(cell([run[phase] for run in runs], term) for term in terms) for phase in PHASES]
        print(f"| {label} | " + " | ".join(cells) + " |")
        if label == "reward" and all(SAMPLED.format("grpo") in run for run in runs):
            cells = [
                cell([run[SAMPLED.format(phase)] for run in runs if SAMPLED.format(phase) in run], label)
                for phase in PHASES
            ]
            print(f"| {label}, sampled | " + " | ".join(cells) + " |")
    costs = [costs_of(folder) for folder in folders]
    minutes = [statistics.fmean(run[phase]["train_seconds"] for run in costs) / 60 for phase in PHASES]
    print("| training minutes | " + " | ".join(f"{value:.1f}" for value in minutes) + " |")
    peaks = [max(run[phase]["peak_memory_gib"] for run in costs) for phase in PHASES]
    print("| peak memory so far, GiB | " + " | ".join(f"{value:.1f}" for value in peaks) + " |")
    for name, after, before in (
        ("greedy", "grpo", "warm_start"),
        ("sampled", SAMPLED.format("grpo"), SAMPLED.format("warm_start")),
    ):
        if all(after in run for run in runs):
            each = ", ".join(shown(run[after].paired_gain(run[before], "reward")) for run in runs)
            pairs = [(run[after].values("reward"), run[before].values("reward")) for run in runs]
            pooled = [statistics.fmean(a[key] - b[key] for a, b in pairs) for key in pairs[0][0]]
            gain = shown(Interval.of(pooled))
            print(f"\nGRPO over the warm start, {name}, {len(runs)} runs: {gain}; one by one {each}")


def read(folder: Path) -> dict[str, EvaluationResult]:
    """Return the evaluations of the phases of a run by the names of their files."""
    files = [folder / f"{phase}.jsonl" for phase in PHASES]
    files += [path for phase in PHASES if (path := folder / f"{SAMPLED.format(phase)}.jsonl").is_file()]
    return {
        path.stem: EvaluationResult(
            name=path.stem, rows=tuple(json.loads(line) for line in path.read_text("utf-8").splitlines())
        )
        for path in files
    }


def costs_of(folder: Path) -> dict[str, dict[str, float]]:
    """Return for each phase of a run the seconds that it trained, its test not included, and the memory until then."""
    phases = json.loads((folder / "results.json").read_text("utf-8"))["phases"]
    return {phase["name"]: phase for phase in phases}


def cell(results: Sequence[EvaluationResult], term: str) -> str:
    """Return a term's mean over runs and episodes, with an interval where there is one to show."""
    values = [result.values(term) for result in results if term in result.terms]
    if not values:
        return "–"
    mean = statistics.fmean(value for one in values for value in one.values())
    if term in WITH_INTERVAL:
        return shown(Interval.of([statistics.fmean(one[key] for one in values) for key in values[0]]), sign="")
    if term in PERCENT:
        return f"{mean:.0%}".replace("%", " %")
    return f"{mean:.0f}" if term == "prompt_tokens" else f"{mean:.2f}".replace("-", "−")


def shown(interval: Interval, sign: str = "+") -> str:
    """Return a mean with its interval, such as +0.12 [+0.03, +0.21]."""
    mean, low, high = (f"{value:{sign}.2f}" for value in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]".replace("-", "−")


if __name__ == "__main__":
    main()
