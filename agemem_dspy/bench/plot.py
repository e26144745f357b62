"""A run as a picture: every contestant's primary measure with its interval, a panel a world."""

from __future__ import annotations

from pathlib import Path

from agemem_dspy.bench.report import label
from agemem_dspy.bench.results import BenchResults


def plot(results: BenchResults) -> Path:
    """Draw `plot.png` into the run's folder and return its path."""
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    experiment = results.experiment
    worlds, term = experiment.worlds, experiment.primary
    height = 1.2 + 0.4 * len(experiment.methods)
    figure = Figure(figsize=(1.5 + 4 * len(worlds), height), layout="constrained")
    for panel, world in zip(figure.subplots(1, len(worlds), sharey=True, squeeze=False)[0], worlds, strict=True):
        for place, method in enumerate(experiment.methods):
            result = results.pooled.get((world.name, method.name))
            if result is None or term not in result.terms:
                continue
            found = result.interval(term)
            spread = [[found.mean - found.low], [found.high - found.mean]]
            panel.errorbar([found.mean], [place], xerr=spread, marker="o", capsize=4, color="C0")
        panel.set_yticks(range(len(experiment.methods)), [method.name for method in experiment.methods])
        panel.set_title(world.name)
        panel.set_xlabel(f"{label(term)}, mean and 95 % interval")
        panel.grid(axis="x", alpha=0.3)
    figure.axes[0].invert_yaxis()
    path = results.folder / "plot.png"
    figure.savefig(path, dpi=150)
    return path
