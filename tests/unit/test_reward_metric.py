"""The reward as a DSPy metric: weights, judges, saving, feedback."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM
from trajectories import (
    ADD,
    AIRPORT,
    DIET,
    OLD_DIET,
    PIN,
    LetterEmbedder,
    add,
    delete,
    honest_trajectory,
    make_example,
    make_step,
    make_trajectory,
    retrieve,
)

from agemem_dspy.errors import ConfigurationError, RewardError
from agemem_dspy.programs.judges import JudgeAnswer, JudgeMemoryQuality, JudgeRelevance, JudgeUsefulness, LMJudge
from agemem_dspy.rewards import CONTEXT_TERMS, MEMORY_TERMS, RewardWeights, TrajectoryReward
from agemem_dspy.types import ToolEvent


def terms(*events: ToolEvent, example: Any = None, **changes: Any) -> dict[str, float]:
    return TrajectoryReward().terms(example or make_example(), make_trajectory(*events, **changes))


def test_the_reward_is_the_weighted_sum_of_its_terms() -> None:
    weights = RewardWeights(task=0.5, context=0.3, memory=0.2)
    trajectory = make_trajectory(add(AIRPORT), answer=None, tokens=9000)
    found = TrajectoryReward(weights).terms(make_example(), trajectory)
    context = sum(found[name] for name in CONTEXT_TERMS) / 3
    memory = sum(found[name] for name in MEMORY_TERMS) / 3
    assert found["reward"] == pytest.approx(0.5 * -1 + 0.3 * context + 0.2 * memory - 1.5)
    assert (found["task"], found["answer"], found["penalty"]) == (-1.0, 0.0, -1.5)


def test_answer_only_ignores_memory_and_needs_no_labels() -> None:
    example = dspy.Example(question="q", answer="Lisbon").with_inputs("question")
    reward = TrajectoryReward("answer_only")
    assert reward.terms(example, make_trajectory())["reward"] == 1.0
    with pytest.raises(RewardError, match="has no 'facts'.*answer_only"):
        TrajectoryReward().terms(example, make_trajectory())


@pytest.mark.parametrize(
    "weights",
    [{"task": 1.0}, {"task": -1.0, "context": 1.0, "memory": 1.0}, {"task": math.nan, "context": 0.5, "memory": 0.5}],
)
def test_weights_off_the_simplex_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"normalized|finite"):
        RewardWeights(**weights)


def test_weights_are_normalised() -> None:
    assert RewardWeights.normalized(task=2, context=1, memory=1) == RewardWeights(task=0.5, context=0.25, memory=0.25)
    with pytest.raises(ConfigurationError, match="at least one"):
        RewardWeights.normalized(task=0, context=0, memory=0)
    with pytest.raises(ConfigurationError, match="unknown reward profile 'best'; use paper, answer_only"):
        TrajectoryReward("best")  # type: ignore[arg-type]


def test_the_metric_speaks_to_evaluators_bootstrappers_and_gepa() -> None:
    reward, example = TrajectoryReward(), make_example()
    good = dspy.Prediction(answer="Lisbon", trajectory=honest_trajectory())
    bad = dspy.Prediction(answer="Porto", trajectory=make_trajectory(answer="Porto"))
    assert reward(example, good) == pytest.approx(0.98889, abs=1e-4)
    assert bool(reward(example, good, [])) is True
    assert bool(reward(example, bad, [])) is False
    assert bool(TrajectoryReward(bootstrap_threshold=-2)(example, bad, [])) is True
    assert reward(example, bad, []) == reward(example, bad) != 0  # a number too: GEPA adds it up
    assert bool(copy.deepcopy(TrajectoryReward(bootstrap_threshold=-2)(example, bad, []))) is True
    judged = reward(example, bad, [], pred_name="agent.step", pred_trace=[])
    assert judged.score == reward(example, bad)
    assert 'expected "Lisbon"' in judged.feedback


def test_a_prediction_without_a_trajectory_says_what_to_use() -> None:
    with pytest.raises(RewardError, match="ThreeStageEpisode"):
        TrajectoryReward()(make_example(), dspy.Prediction(answer="Lisbon"))


def test_a_saved_reward_comes_back_and_a_judged_one_cannot_be_saved() -> None:
    embedder = LetterEmbedder()
    reward = TrajectoryReward("answer_only", embedder=embedder, bootstrap_threshold=0.7)
    state = json.loads(json.dumps(reward.dump()))
    assert TrajectoryReward.load(state, embedder=embedder).dump() == reward.dump()
    with pytest.raises(ConfigurationError, match="embedder 'letters', not None"):
        TrajectoryReward.load(state)
    with pytest.raises(ConfigurationError, match="no saved reward"):
        TrajectoryReward.load({"weights": {"speed": 1.0}})
    with pytest.raises(ConfigurationError, match="relevance_judge cannot be saved"):
        TrajectoryReward(relevance_judge=lambda *, question, entry: 1.0).dump()


def test_judges_replace_the_lexical_terms() -> None:
    asked: list[dict[str, Any]] = []

    def judge(**inputs: Any) -> float:
        asked.append(inputs)
        return 0.25

    reward = TrajectoryReward(answer_judge=judge, usefulness_judge=judge, relevance_judge=judge, memory_judge=judge)
    found = reward.terms(make_example(), make_trajectory(add(AIRPORT), retrieve(AIRPORT)))
    assert [found[name] for name in ("task", "answer", "storage", "relevance", "memory_quality")] == [0.25] * 5
    assert [sorted(one) for one in asked] == [
        ["answer", "expected", "question"],
        ["entry", "facts"],
        ["entry", "question"],
        ["entries", "facts"],
    ]


@pytest.mark.parametrize("name", ["answer_judge", "usefulness_judge", "relevance_judge", "memory_judge"])
@pytest.mark.parametrize("outcome", [math.nan, 1.5, "high", RuntimeError("no network")])
def test_a_judge_that_fails_stops_the_run_with_its_name(name: str, outcome: Any) -> None:
    def judge(**_: Any) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    options: dict[str, Any] = {name: judge}
    with pytest.raises(RewardError, match=name) as caught:
        TrajectoryReward(**options).terms(make_example(), make_trajectory(add(AIRPORT), retrieve(AIRPORT)))
    assert caught.value.__cause__ is not None


def test_a_broken_label_names_its_term() -> None:
    with pytest.raises(RewardError, match="reward term '.*' failed: KeyError: 'turn'"):
        terms(example=make_example(operations=[{"tool": ADD}]))


@pytest.mark.parametrize(
    ("signature", "inputs"),
    [
        (JudgeAnswer, {"question": "q", "expected": "a", "answer": "b"}),
        (JudgeUsefulness, {"entry": "e", "facts": ["f"]}),
        (JudgeRelevance, {"question": "q", "entry": "e"}),
        (JudgeMemoryQuality, {"entries": ["e"], "facts": ["f"]}),
    ],
)
def test_an_lm_judge_returns_the_score_it_reads(signature: type[dspy.Signature], inputs: dict[str, Any]) -> None:
    assert LMJudge(signature, lm=DummyLM([{"score": "0.75"}]))(**inputs) == 0.75


def test_a_reward_names_the_lm_that_judges() -> None:
    def judged(lm: dspy.LM | None) -> Any:
        return TrajectoryReward(answer_judge=LMJudge(JudgeAnswer, lm=lm)).describe()["judges"]["answer_judge"]

    assert judged(dspy.LM("openai/small")) == "JudgeAnswer of openai/small"
    with dspy.context(lm=dspy.LM("openai/large")):
        assert judged(None) == "JudgeAnswer of openai/large"


@pytest.mark.parametrize("said", ["very good", "7", "nan"])
def test_an_lm_judge_without_a_usable_score_is_an_error(said: str) -> None:
    judge = LMJudge(JudgeRelevance, lm=DummyLM([{"score": said}] * 3))
    with pytest.raises(RewardError, match="JudgeRelevance"):
        judge(question="q", entry="e")


def test_feedback_says_what_went_wrong_and_where() -> None:
    trajectory = make_trajectory(
        add(AIRPORT, key="1"),
        add("my " + AIRPORT, key="4"),
        add("nice weather"),
        add(OLD_DIET, key="2", turn=1),
        delete("9", "x", ok=False),
        retrieve("nice weather"),
        answer="Porto",
        context=["The weather was wild today."],
        steps=(make_step(parsed=False, error="no tool call in the reply"),),
    )
    said = TrajectoryReward()(make_example(), dspy.Prediction(trajectory=trajectory), pred_name="x").feedback
    for line in (
        'The answer was "Porto"; expected "Lisbon".',
        f'A fact was not stored in stage 1: "{DIET}"; message 3 stated it: "I changed my mind, my diet is now vegan.".',
        f'An entry repeats what another one already holds: "my {AIRPORT}".',
        'An entry carries no fact worth keeping: "nice weather".',
        f'An entry is out of date and was left as it was: "{OLD_DIET}".',
        f'An update was missed at message 3: "{OLD_DIET}" should have become "{DIET}".',
        f'A delete was missed at message 4: "{PIN}" should have been removed.',
        'A distractor stayed in the context (filter_context removes it): "The weather was wild today.".',
        f'did not find "{AIRPORT}": it was stored, so ask for it by its own words.',
        'A call to delete_memory failed at stage 1, turn 1: "no such id; use one that was shown".',
        'A step could not be read at stage 1, turn 1: "no tool call in the reply".',
    ):
        assert line in said


def test_feedback_on_an_honest_trajectory_complains_of_nothing() -> None:
    said = TrajectoryReward()(make_example(), dspy.Prediction(trajectory=honest_trajectory()), pred_name="x").feedback
    assert said.startswith('The answer was right: "Lisbon".\nScores: task 1.00')


def test_dspy_evaluate_takes_the_metric_as_it_is() -> None:
    def program(**_: Any) -> dspy.Prediction:
        return dspy.Prediction(trajectory=honest_trajectory())

    scored = dspy.Evaluate(devset=[make_example()] * 2, metric=TrajectoryReward(), num_threads=1)(program)
    assert scored.score == pytest.approx(98.89, abs=0.01)


def test_a_judging_signature_needs_a_score() -> None:
    with pytest.raises(ConfigurationError, match="exactly 'score'"):
        LMJudge(dspy.Signature("question -> answer"))
