"""The evaluation's judge: an LM that scores answers and entries after a run, and how far it agrees with EM and F1.

It reads the rows, so that another judge costs its own calls and no episode is played again; its scores are kept in a
file of their own. The judge of the reward, if there is one, is the experiment's `reward_judge`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import numpy as np

from agemem_dspy.bench.experiment import slug
from agemem_dspy.journal import Journal
from agemem_dspy.programs.judges import JudgeAnswer, JudgeMemoryQuality, LMJudge

RIGHT = 0.5  # a score from here on counts as "right" where two scores are compared as verdicts


class RowJudge:
    """Scores rows: `judge` for the answer, `memory_judge` for the stored entries against the gold facts.

    Args:
        lm: whose judgement it is.
        threads: rows judged at once.
    """

    def __init__(self, lm: dspy.LM, *, threads: int = 8) -> None:
        self.threads = threads
        self.answer, self.memory = LMJudge(JudgeAnswer, lm=lm), LMJudge(JudgeMemoryQuality, lm=lm)

    def judge(
        self,
        rows: Sequence[Mapping[str, Any]],
        examples: Mapping[str, dspy.Example],
        file: Path,
        *,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        """Write the scores of rows to a file, those that it has left out.

        Args:
            rows: of one cell.
            examples: by id, for their gold facts.
            file: JSONL, a row an id.

        Raises:
            RewardError: the LM failed or gave no number in [0, 1]; what was judged is kept.
        """
        journal = Journal(file, resume=True)
        done = {row["id"] for row in journal.rows}
        waiting = [row for row in rows if row["id"] not in done]

        def one(row: Mapping[str, Any]) -> None:
            journal.append({"id": row["id"], **self._scores(row, examples[str(row["id"])])})

        with ThreadPoolExecutor(self.threads) as pool:
            futures = [pool.submit(one, row) for row in waiting]
            try:
                for count, future in enumerate(futures, start=len(done) + 1):
                    future.result()
                    progress(count, len(rows))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _scores(self, row: Mapping[str, Any], example: dspy.Example) -> dict[str, float]:
        scores = {}
        if row["gold"] is not None:  # else the task was not a question
            given = ", ".join(str(value) for value in (row["prediction"] or {}).values())
            asked = {"question": row["question"], "expected": str(row["gold"]), "answer": given}
            scores["judge"] = self.answer(**asked) if given else 0.0
        facts = list(example.get("facts") or ())
        if facts:
            scores["memory_judge"] = self.memory(entries=row["memories"], facts=facts) if row["memories"] else 0.0
        return scores


def judged_folder(run: Path, judge: str) -> Path:
    """Return where a judge's scores of a run are."""
    return run / "judged" / slug(judge)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far the judge agrees with another score over n answers.

    `kappa` is Cohen's, of the verdicts "at least 0.5"; `correlation` is Spearman's, of the scores. None where one of
    the two never varies, so that there is nothing to agree on.
    """

    n: int
    kappa: float | None
    correlation: float | None

    @classmethod
    def of(cls, judge: Sequence[float], other: Sequence[float]) -> Agreement:
        """Compare two scores of the same answers."""
        ours_N, theirs_N = np.asarray(judge, dtype=float), np.asarray(other, dtype=float)
        correlation = None
        if np.ptp(ours_N) > 0 and np.ptp(theirs_N) > 0:
            from scipy.stats import spearmanr  # takes a second to import

            correlation = float(spearmanr(ours_N, theirs_N).statistic)
        return cls(n=len(ours_N), kappa=_kappa(ours_N >= RIGHT, theirs_N >= RIGHT), correlation=correlation)


def _kappa(ours_N: Any, theirs_N: Any) -> float | None:
    """Return Cohen's kappa of two series of verdicts, None when chance alone explains everything."""
    observed = float(np.mean(ours_N == theirs_N))
    p, q = float(np.mean(ours_N)), float(np.mean(theirs_N))
    expected = p * q + (1 - p) * (1 - q)
    return None if expected == 1.0 else (observed - expected) / (1 - expected)
