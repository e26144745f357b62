"""LM judges: one typed signature for each judged term, and the callable that asks it.

A judge is injected into `TrajectoryReward` by name, for instance
`TrajectoryReward(answer_judge=LMJudge(JudgeAnswer))`. A judge that fails or answers with
anything but a number in [0, 1] is a `RewardError`, never a score.
"""

from __future__ import annotations

import math
from typing import Any

import dspy

from agemem_dspy.errors import ConfigurationError, RewardError


class JudgeAnswer(dspy.Signature):
    """Judge whether the answer says the same as the expected answer.

    Give 1 for the same meaning in any wording, 0 for another or no answer, and a number between
    for a partly right one. When the expected answer is that it is not known, only an answer that
    says so is right. Several accepted answers are separated by " | ".
    """

    question: str = dspy.InputField()
    expected: str = dspy.InputField(desc="the right answer")
    answer: str = dspy.InputField(desc="the answer to judge")
    score: float = dspy.OutputField(desc="a number from 0 to 1")


class JudgeUsefulness(dspy.Signature):
    """Judge how useful a stored memory entry is.

    Give 1 if it states one of the facts worth storing, correctly and so that it can be read
    alone, 0 if it is chatter, wrong or out of date, and a number between for a partial one.
    """

    entry: str = dspy.InputField(desc="the stored entry")
    facts: list[str] = dspy.InputField(desc="the facts that were worth storing")
    score: float = dspy.OutputField(desc="a number from 0 to 1")


class JudgeRelevance(dspy.Signature):
    """Judge how much a retrieved memory entry helps to answer the question, from 0 to 1."""

    question: str = dspy.InputField()
    entry: str = dspy.InputField(desc="the retrieved entry")
    score: float = dspy.OutputField(desc="a number from 0 to 1")


class JudgeMemoryQuality(dspy.Signature):
    """Judge how well the stored entries, taken together, hold the facts.

    Give 1 if every fact is stored correctly and nothing else is, 0 if none is; take marks off for
    missing or wrong facts, duplicates and chatter.
    """

    entries: list[str] = dspy.InputField(desc="everything that is stored")
    facts: list[str] = dspy.InputField(desc="the facts that should be stored")
    score: float = dspy.OutputField(desc="a number from 0 to 1")


class LMJudge:
    """Ask an LM for the `score` of a judging signature; usable as any judge of `TrajectoryReward`.

    Raises:
        ConfigurationError: the signature has no output named `score`.
    """

    def __init__(self, signature: type[dspy.Signature], *, lm: dspy.LM | None = None) -> None:
        if list(signature.output_fields) != ["score"]:
            raise ConfigurationError(
                f"{signature.__name__} has the outputs {list(signature.output_fields)}; a judge needs exactly 'score'"
            )
        self.lm = lm
        self.predict = dspy.Predict(signature)
        self._asks = signature.__name__

    @property
    def name(self) -> str:
        """Name the signature and the LM, which both decide the score."""
        lm = self.lm or dspy.settings.lm
        return f"{self._asks} of {lm.model if lm is not None else 'no LM'}"

    def __call__(self, **inputs: Any) -> float:
        """Return the score in [0, 1] of the signature's inputs.

        Raises:
            RewardError: the LM failed, or its score is no number in [0, 1]; names the judge.
        """
        options = {} if self.lm is None else {"lm": self.lm}
        try:
            score = float(self.predict(**inputs, **options).score)
        except Exception as error:
            raise RewardError(f"judge {self.name} failed: {type(error).__name__}: {error}") from error
        if not math.isfinite(score) or not 0.0 <= score <= 1.0:
            raise RewardError(f"judge {self.name} gave the score {score}; it must be a number from 0 to 1")
        return score


class JudgedScore:
    """Score answers by a judge, beside the reward: for `evaluate(scores={"judge": JudgedScore(judge)})`."""

    def __init__(self, judge: LMJudge) -> None:
        self.judge = judge

    @property
    def name(self) -> str:
        """Return the judge's name."""
        return self.judge.name

    def __call__(self, example: Any, answer: str) -> float:
        """Return the judge's score in [0, 1].

        Raises:
            RewardError: the LM failed, or its score is no number in [0, 1].
        """
        return self.judge(question=str(example.question), expected=str(example.answer), answer=answer)
