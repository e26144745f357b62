"""Two runs, or two methods of one, paired question by question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agemem_dspy.bench.report import Grid, interval, label, p_value
from agemem_dspy.bench.results import BenchResults
from agemem_dspy.errors import ConfigurationError
from agemem_dspy.results import EvaluationResult, PairedTest


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One measure of two methods in one world; `test` is of ours minus theirs."""

    world: str
    ours: str
    theirs: str
    measure: str
    test: PairedTest


def compare(one: str, other: str, measures: tuple[str, ...] = ()) -> list[Comparison]:
    """Pair what two runs share.

    Args:
        one, other: the folder of a run, of which every method that both have is compared; or FOLDER#METHOD, and then
            that method is compared with the other side's.
        measures: which; the primary measure of the first run when left out.

    Raises:
        RunError: no run is there.
        ConfigurationError: a method or measure is not there, they share no world, or not the same questions.
    """
    ours, theirs = _Side(one), _Side(other)
    found = []
    for world in dict.fromkeys(world for world, _ in ours.results.pooled):
        for mine, yours in _pairs(ours.methods(world), theirs.methods(world), both=ours.method or theirs.method):
            left, right = ours.result(world, mine), theirs.result(world, yours)
            for measure in measures or (ours.results.experiment.primary,):
                test = left.paired_test(right, measure)
                found.append(Comparison(world=world, ours=mine, theirs=yours, measure=measure, test=test))
    if not found:
        raise ConfigurationError(f"{one} and {other} share no world and method; name methods, such as {one}#AgeMem")
    return found


def grid(found: list[Comparison], title: str) -> Grid:
    """Return comparisons as a table."""
    rows = [
        (
            f"{one.world}: {one.ours}" + (f" − {one.theirs}" if one.theirs != one.ours else ""),
            label(one.measure), str(one.test.n), interval(one.test.gain, signed=True), p_value(one.test),
        )
        for one in found
    ]  # fmt: skip
    return Grid(title=title, header=("", "measure", "n", "gain", "p"), rows=tuple(rows), main=frozenset({3}))


class _Side:
    """A run, and the one method of it that is meant, if one is named."""

    def __init__(self, address: str) -> None:
        folder, _, method = address.partition("#")
        self.results, self.method = BenchResults.load(Path(folder)), method or None
        known = {name for _, name in self.results.pooled}
        if self.method is not None and self.method not in known:
            raise ConfigurationError(f"{folder} has no method {method!r}; it has {', '.join(sorted(known))}")

    def methods(self, world: str) -> list[str]:
        """Name the methods that are meant and were played in a world."""
        played = [name for place, name in self.results.pooled if place == world]
        return [name for name in played if self.method in (None, name)]

    def result(self, world: str, method: str) -> EvaluationResult:
        """Return a method's result over its seeds."""
        return self.results.pooled[world, method]


def _pairs(ours: list[str], theirs: list[str], *, both: str | None) -> list[tuple[str, str]]:
    """Pair methods by name; those that are named on one side at least, with all of the other."""
    if both is None:
        return [(name, name) for name in ours if name in theirs]
    return [(mine, yours) for mine in ours for yours in theirs]
