"""What an evaluation found: one row a question, means with 95 % bootstrap intervals, paired gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agemem_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.table import Table

_RESAMPLES, _CONFIDENCE, _SEED = 2000, 0.95, 0
_FLIPS = 9999
_MOST_DRAWN = 1_000_000  # values in memory at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and its 95 % percentile bootstrap interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Bootstrap the mean of n values with 2000 resamples and a fixed seed; n = 1 has no width.

        Raises:
            ConfigurationError: there are no values.
        """
        if not values:
            raise ConfigurationError("an interval needs at least one value")
        values_N = np.asarray(values, dtype=np.float64)
        mean = float(values_N.mean())
        if np.ptp(values_N) == 0.0:
            return cls(mean=mean, low=mean, high=mean)
        generator = np.random.default_rng(_SEED)
        at_once = max(1, _MOST_DRAWN // len(values_N))
        sizes = [min(at_once, _RESAMPLES - done) for done in range(0, _RESAMPLES, at_once)]
        means_R = np.concatenate([generator.choice(values_N, size=(k, len(values_N))).mean(axis=1) for k in sizes])
        tail = 100 * (1 - _CONFIDENCE) / 2
        low, high = np.percentile(means_R, [tail, 100 - tail])
        return cls(mean=mean, low=float(low), high=float(high))

    def as_dict(self) -> dict[str, float]:
        """Return {"mean", "low", "high"}."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """A mean difference over n shared questions, its bootstrap interval, and the p-value of "there is none".

    `p_value` is two-sided, by flipping the signs of the differences: all 2^n ways, or 9999 at random.
    """

    gain: Interval
    p_value: float
    n: int

    @classmethod
    def of(cls, differences: Sequence[float]) -> PairedTest:
        """Test n differences.

        Raises:
            ConfigurationError: there are none.
        """
        gain = Interval.of(differences)
        if not any(differences) or len(differences) == 1:
            return cls(gain=gain, p_value=1.0, n=len(differences))
        from scipy.stats import permutation_test  # takes a second to import

        found = permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=_FLIPS, vectorized=True, rng=_SEED
        )
        return cls(gain=gain, p_value=float(found.pvalue), n=len(differences))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """The rows of one evaluation, in the order of the data set.

    A term is any numeric column: the reward's terms, `reward`, `answer`, `memory_quality`,
    `parse_rate`, `tool_success`, `prompt_tokens`, `completion_tokens`, `steps`, `tool_calls`,
    `seconds`. A row where a term does not apply (no tool call, so no success rate) is left out.
    """

    name: str
    rows: tuple[Mapping[str, Any], ...]

    @property
    def terms(self) -> tuple[str, ...]:
        """Name every numeric column, in the order of the rows."""
        names = dict.fromkeys(name for row in self.rows for name, value in row.items() if _is_number(value))
        return tuple(names)

    def values(self, term: str) -> dict[str, float]:
        """Map the id of each row to its value of a term.

        Raises:
            ConfigurationError: no row has the term.
        """
        found = {str(row["id"]): float(row[term]) for row in self.rows if _is_number(row.get(term))}
        if not found:
            raise ConfigurationError(f"evaluation {self.name!r} has no term {term!r}; it has {', '.join(self.terms)}")
        return found

    def mean(self, term: str) -> float:
        """Return the mean of a term."""
        return self.interval(term).mean

    def interval(self, term: str) -> Interval:
        """Return the mean of a term with its 95 % bootstrap interval."""
        return Interval.of(list(self.values(term).values()))

    def paired_gain(self, other: EvaluationResult, term: str) -> Interval:
        """Return the mean of (ours - theirs) over the same questions, resampled by question.

        Raises:
            ConfigurationError: the two evaluations do not have the term for the same questions.
        """
        return Interval.of(self._differences(other, term))

    def paired_test(self, other: EvaluationResult, term: str) -> PairedTest:
        """Return `paired_gain` with a p-value.

        Raises:
            ConfigurationError: as for `paired_gain`.
        """
        return PairedTest.of(self._differences(other, term))

    @classmethod
    def pooled(cls, name: str, runs: Sequence[EvaluationResult]) -> EvaluationResult:
        """Return one evaluation of several runs of the same questions: every term is a question's mean over the runs.

        Its intervals resample questions, each with its mean over the runs.

        Raises:
            ConfigurationError: the runs do not have the same questions.
        """
        by_id = [{str(row["id"]): row for row in run.rows} for run in runs]
        if len({frozenset(rows) for rows in by_id}) != 1:
            raise ConfigurationError(f"the runs of {name!r} have different questions; play the same in each")
        rows = []
        for key, row in by_id[0].items():
            same = [run[key] for run in by_id]
            terms = dict.fromkeys(term for one in same for term, value in one.items() if _is_number(value))
            means = {term: _mean([one[term] for one in same if _is_number(one.get(term))]) for term in terms}
            tools = sorted({tool for one in same for tool in one.get("calls", {})})
            counts = {
                tool: {
                    kind: _mean([one.get("calls", {}).get(tool, {}).get(kind, 0) for one in same])
                    for kind in ("attempted", "ok")
                }
                for tool in tools
            }
            rows.append({"id": row["id"], "kind": row.get("kind"), **means, "calls": counts})
        return cls(name=name, rows=tuple(rows))

    def _differences(self, other: EvaluationResult, term: str) -> list[float]:
        ours, theirs = self.values(term), other.values(term)
        if ours.keys() != theirs.keys():
            unpaired = sorted(ours.keys() ^ theirs.keys())
            raise ConfigurationError(
                f"{self.name!r} and {other.name!r} do not share {len(unpaired)} questions ({', '.join(unpaired[:3])}); "
                "a paired gain needs both over the same split"
            )
        return [ours[key] - theirs[key] for key in ours]

    def by_kind(self) -> dict[str, EvaluationResult]:
        """Return the rows of each kind of question, by name; empty where the data knows no kinds."""
        kinds = sorted({row["kind"] for row in self.rows if row.get("kind") is not None})
        return {
            kind: EvaluationResult(name=kind, rows=tuple(row for row in self.rows if row.get("kind") == kind))
            for kind in kinds
        }

    def summary(self) -> dict[str, Any]:
        """Return {"n", term: {"mean", "low", "high"}, "calls": {tool: {"attempted", "ok"}}, "kinds"} as JSON.

        "kinds" holds the same of each kind of question, less calls and kinds.
        """
        kinds = {kind: result._means() for kind, result in self.by_kind().items()}
        return {**self._means(), "calls": self.calls(), "kinds": kinds}

    def _means(self) -> dict[str, Any]:
        return {"n": len(self.rows)} | {term: self.interval(term).as_dict() for term in self.terms}

    def calls(self) -> dict[str, dict[str, float]]:
        """Return the mean calls of each tool per question, attempted and successful."""
        tools = sorted({tool for row in self.rows for tool in row.get("calls", {})})
        return {
            tool: {
                kind: sum(row.get("calls", {}).get(tool, {}).get(kind, 0) for row in self.rows) / len(self.rows)
                for kind in ("attempted", "ok")
            }
            for tool in tools
        }

    def table(self) -> Table:
        """Return a rich table: one line a term, with mean and interval."""
        from rich.table import Table  # only who shows a table pays for rich

        table = Table(title=f"{self.name} (n = {len(self.rows)})")
        table.add_column("term")
        for column in ("mean", "95 % low", "95 % high"):
            table.add_column(column, justify="right")
        for term in self.terms:
            found = self.interval(term)
            table.add_row(term, *(_shown(number) for number in (found.mean, found.low, found.high)))
        return table

    def kinds_table(self, terms: Sequence[str]) -> Table | None:
        """Return a rich table of some terms: one line a kind of question; None where there are not two kinds."""
        from rich.table import Table

        kinds = self.by_kind()
        if len(kinds) < 2:
            return None
        table = Table("kind", title=f"{self.name} by kind of question")
        for column in ("n", *terms):
            table.add_column(column, justify="right")
        for kind, result in kinds.items():
            found = [result.interval(term) for term in terms]
            means = [f"{_shown(one.mean)} [{_shown(one.low)}, {_shown(one.high)}]" for one in found]
            table.add_row(kind, str(len(result.rows)), *means)
        return table


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3f}"
