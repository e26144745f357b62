"""DSPy's own evaluator and optimizers take the episode and the reward as they are."""

from __future__ import annotations

import itertools
import json
import logging
import re
from pathlib import Path
from typing import Any

import dspy
import pytest
from fakes import Reply, answer, call, scripted_lm
from fakes_memory import InMemoryStore
from trajectories import make_example

from agemem_dspy.memory import HashEmbedder
from agemem_dspy.optimizers.bootstrap import BootstrapToolDemos
from agemem_dspy.optimizers.grpo_config import GRPOConfig
from agemem_dspy.optimizers.stepwise_grpo import StepwiseGRPO
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import local_lm
from agemem_dspy.policy.models import load
from agemem_dspy.policy.recorder import record
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import TrajectoryReward

REWARD = TrajectoryReward()
TOLD = "Be exact."
GOLD: list[Reply] = [
    call("add_memory", content="home airport: Lisbon"),
    call("add_memory", content="diet: vegetarian"),
    call("update_memory", memory_id="m2", content="diet: vegan"),
    answer("ok"),
    call("filter_context", criteria="The weather was wild today."),
    call("retrieve_memory", query="What is my home airport?"),
    answer("Lisbon"),
]


def make(adapter: dspy.Adapter | None = None, **options: Any) -> ThreeStageEpisode:
    memory = InMemoryStore(HashEmbedder())
    return ThreeStageEpisode(
        AgeMemAgent("question -> answer", memory=memory, adapter=adapter or CompactAdapter(), **options)
    )


def examples(count: int) -> list[dspy.Example]:
    return [make_example(id=f"q{n}") for n in range(count)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> PolicyEngine:
    texts = [str(reply) for reply in GOLD] + make_example().messages
    return PolicyEngine(load(tiny_llama(tmp_path_factory.mktemp("tiny"), corpus=texts, hidden=32, vocab_size=400)))


# Evaluate


def test_evaluate_scores_episodes_with_the_reward() -> None:
    program = make()
    with dspy.context(lm=scripted_lm(GOLD + GOLD)):
        outcome = dspy.Evaluate(devset=examples(2), metric=REWARD, num_threads=1)(program)
    example, prediction, score = outcome.results[0]
    assert score == REWARD.terms(example, prediction.trajectory)["reward"] > 0.8
    assert outcome.score == pytest.approx(100 * score, abs=0.01)


def test_evaluate_runs_a_local_policy_in_sixteen_threads(tiny: PolicyEngine) -> None:
    program = make(max_rounds=1)
    program.set_lm(local_lm(tiny, max_tokens=6))
    before = tiny.counts.calls
    outcome = dspy.Evaluate(devset=examples(16), metric=REWARD, num_threads=16)(program)
    assert len({score for _, _, score in outcome.results}) == 1  # greedy, so all alike
    assert tiny.counts.calls - before == 16 * 6
    assert all(step.completion for _, prediction, _ in outcome.results for step in prediction.trajectory.steps)


# Prompt optimizers


def shown(program: ThreeStageEpisode, adapter: dspy.Adapter) -> list[str]:
    """Return the prompts of an episode that only answers."""
    lm = scripted_lm(lambda prompt: answer("x") + '\n[[ ## answer ## ]]\n"x"')
    with dspy.context(lm=lm, adapter=adapter):
        program(messages=["hello"], distractors=[], question="Where?")
    return list(lm.engine.prompts)


@pytest.mark.parametrize("adapter", [CompactAdapter(), dspy.ChatAdapter()])
def test_bootstrap_few_shot_takes_demos_from_good_episodes(adapter: dspy.Adapter, tmp_path: Path) -> None:
    script = GOLD
    if isinstance(adapter, dspy.ChatAdapter):
        step, compact = make().agent.step.signature, CompactAdapter()
        script = [adapter.format_assistant_message_content(step, compact.parse(step, str(reply))) for reply in GOLD]
    poor: list[Reply] = ["[[ ## answer ## ]]\nlost<answer>lost</answer>"] * 6
    optimizer = dspy.BootstrapFewShot(metric=TrajectoryReward(bootstrap_threshold=0.7), max_bootstrapped_demos=1)
    program = make(adapter)
    with dspy.context(lm=scripted_lm(poor + script)):
        compiled = optimizer.compile(program, trainset=examples(2))
    demos = compiled.agent.step.demos
    bootstrapped = [demo for demo in demos if demo.get("augmented")]
    assert len(bootstrapped) == 1
    assert "context" in bootstrapped[0]
    assert len(demos) > 1  # the labelled ones, which no adapter can show as a step
    assert program.agent.step.demos == []

    prompts = shown(compiled, adapter)
    assert len(prompts[0]) > len(shown(program, adapter)[0])
    compiled.save(tmp_path / "program.json")
    again = make(adapter)
    again.load(tmp_path / "program.json")
    assert shown(again, adapter) == prompts


def test_bootstrap_few_shots_own_threshold_counts() -> None:
    optimizer = dspy.BootstrapFewShot(metric=REWARD, metric_threshold=0.99, max_labeled_demos=0)
    with dspy.context(lm=scripted_lm(GOLD)):
        compiled = optimizer.compile(make(), trainset=examples(1))
    assert compiled.agent.step.demos == []


def test_gepa_rewrites_the_steps_instructions(caplog: pytest.LogCaptureFixture) -> None:
    """The student answers right only when told to be exact; the reflection says so."""
    reflection = scripted_lm(lambda prompt: json.dumps({"new_instruction": TOLD}))
    program = make()
    program.set_lm(scripted_lm(obedient))
    optimizer = dspy.GEPA(
        metric=REWARD, max_metric_calls=12, reflection_lm=reflection, reflection_minibatch_size=1, num_threads=1, seed=0
    )
    with caplog.at_level(logging.WARNING):
        compiled = optimizer.compile(program, trainset=examples(2), valset=examples(2))
    assert compiled.agent.step.signature.instructions == TOLD
    assert program.agent.step.signature.instructions != TOLD
    assert "score returned by the metric with pred_name is different" not in caplog.text
    assert all("The answer was" in prompt and "A fact was not stored" in prompt for prompt in reflection.engine.prompts)
    played = compiled(**make_example().inputs())
    assert played.answer == "Lisbon"


def filling(prompt: str) -> str:
    """Fill every field that a prompt of DSPy's chat format asks for."""
    names = dict.fromkeys(re.findall(r"\[\[ ## (\w+) ## \]\]", prompt))
    return "\n".join(f"[[ ## {name} ## ]]\n{TOLD}" for name in names)


def obedient(prompt: str) -> str:
    """Answer right only when told to be exact."""
    return answer("Lisbon" if TOLD in prompt else "Porto")


def test_miprov2_chooses_the_instructions_that_score() -> None:
    """With Optuna 5, which it does not name among the versions it knows."""
    program, policy = make(), scripted_lm(obedient)
    program.set_lm(policy)
    optimizer = dspy.MIPROv2(
        metric=REWARD,
        prompt_model=scripted_lm(filling),
        task_model=policy,
        auto=None,
        num_candidates=3,
        max_bootstrapped_demos=0,
        max_labeled_demos=0,
        num_threads=1,
        seed=1,
    )
    compiled = optimizer.compile(program, trainset=examples(2), valset=examples(2), num_trials=4, minibatch=False)
    assert compiled.agent.step.signature.instructions == TOLD
    assert program.agent.step.signature.instructions != TOLD
    assert compiled(**make_example().inputs()).answer == "Lisbon"


def test_simba_learns_a_rule_from_episodes_that_differ() -> None:
    """The policy wavers, so that there is a better and a worse trajectory to compare."""
    question = make_example().question
    wavering = itertools.chain([answer("Lisbon")], itertools.repeat(answer("Porto")))

    def policy(prompt: str) -> str:
        return answer("Lisbon") if TOLD in prompt else next(wavering) if question in prompt else answer("ok")

    program = make()
    program.set_lm(scripted_lm(policy))
    optimizer = dspy.SIMBA(
        metric=REWARD,
        bsize=1,
        num_candidates=2,
        max_steps=1,
        max_demos=0,
        prompt_model=scripted_lm(advising),
        num_threads=1,
    )
    compiled = optimizer.compile(program, trainset=examples(1), seed=0)
    assert TOLD in compiled.agent.step.signature.instructions
    assert TOLD not in program.agent.step.signature.instructions


def advising(prompt: str) -> str:
    """Fill the fields of SIMBA's advice, whose last one maps modules to texts."""
    names = dict.fromkeys(re.findall(r"\[\[ ## (\w+) ## \]\]", prompt))
    advice = json.dumps({"agent.step": TOLD})
    return "\n".join(f"[[ ## {name} ## ]]\n{advice if name == 'module_advice' else TOLD}" for name in names)


# Weights


@pytest.mark.parametrize("prompts", ["bootstrap", "gepa"])
def test_better_together_goes_back_to_prompts_after_weights(tiny: PolicyEngine, prompts: str) -> None:
    program = make(max_rounds=2)
    program.set_lm(local_lm(tiny, max_tokens=6))
    p = BootstrapToolDemos(REWARD, max_demos=1, num_threads=1)
    if prompts == "gepa":
        reflection = scripted_lm(lambda prompt: json.dumps({"new_instruction": TOLD}))
        p = dspy.GEPA(metric=REWARD, max_metric_calls=4, reflection_lm=reflection, num_threads=1, seed=0)
    config = GRPOConfig(num_generations=2, tasks_per_step=1, max_steps=1, num_threads=2)
    optimizer = dspy.BetterTogether(metric=REWARD, p=p, w=StepwiseGRPO(REWARD, config=config))
    keep = {"p": {"valset": None}} if prompts == "bootstrap" else None  # or demos of no use would be dropped
    compiled = optimizer.compile(
        program, trainset=examples(2), valset=examples(1), strategy="p -> w -> p", optimizer_compile_args=keep
    )
    assert not compiled.flag_compilation_error_occurred
    tried = {candidate["strategy"]: candidate["program"] for candidate in compiled.candidate_programs}
    assert set(tried) == {"", "p", "p -> w", "p -> w -> p"}
    assert tried["p -> w -> p"].get_lm().model == tried["p -> w"].get_lm().model != tiny.name


def test_better_together_compiles_prompts_then_weights(tiny: PolicyEngine) -> None:
    program = make(max_rounds=2)
    lm = local_lm(tiny, max_tokens=6)
    program.set_lm(lm)
    optimizer = dspy.BetterTogether(
        metric=REWARD,
        p=BootstrapToolDemos(REWARD, max_demos=2, num_threads=1),
        w=StepwiseGRPO(REWARD, config=GRPOConfig(num_generations=2, tasks_per_step=1, max_steps=1, num_threads=2)),
    )
    compiled = optimizer.compile(
        program,
        trainset=examples(2),
        valset=examples(1),
        strategy="p -> w",
        optimizer_compile_args={"p": {"valset": None}},  # or the demos, no use to random weights, would be dropped
    )
    assert not compiled.flag_compilation_error_occurred
    tried = {candidate["strategy"]: candidate["program"] for candidate in compiled.candidate_programs}
    assert set(tried) == {"", "p", "p -> w"}
    trained = tried["p -> w"].get_lm()
    assert trained.model.startswith(f"{tiny.name}@grpo-")
    assert trained.engine is tiny
    assert len(tried["p"].agent.step.demos) == len(tried["p -> w"].agent.step.demos) == 2
    assert tried[""].get_lm().model == tried["p"].get_lm().model == tiny.name
    assert program.get_lm() is lm
    for candidate in tried.values():
        with record() as tape:
            candidate.agent.step(context={"messages": [{"role": "user", "content": "hi"}]}, tools=[])
        assert tape.completions[0].model == candidate.get_lm().model


def test_a_compiled_program_survives_dspys_own_saving(tiny: PolicyEngine, tmp_path: Path) -> None:
    program = make(max_rounds=1)
    program.set_lm(local_lm(tiny, max_tokens=6))
    config = GRPOConfig(num_generations=2, tasks_per_step=1, max_steps=1, num_threads=2)
    compiled = StepwiseGRPO(REWARD, config=config).compile(program, trainset=examples(1))
    compiled.save(tmp_path / "program.json")
    again = make(max_rounds=1)
    again.load(tmp_path / "program.json", allow_unsafe_lm_state=True)
    assert again.agent.step.lm.engine is again.agent.summarize.lm.engine is tiny
    found, expected = ([s.completion for s in p(**make_example().inputs()).trajectory.steps] for p in (again, compiled))
    assert [(one.model, one.prompt_ids, one.completion_ids) for one in found] == [
        (one.model, one.prompt_ids, one.completion_ids) for one in expected
    ]


def test_a_local_lm_needs_no_launching(tiny: PolicyEngine) -> None:
    lm = local_lm(tiny)
    lm.launch()
    lm.kill()
    assert lm("hi")
