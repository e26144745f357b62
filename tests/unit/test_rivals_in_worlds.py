"""The rivals act in BabyAI: with what each remembers, in the same loop, measured in the same way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import dspy
import pytest
from fakes import call, scripted_lm
from program_contract import sensible
from tiny_episodes import TRAINER, TokenReward

import agemem_dspy as am
from agemem_dspy.data import world_examples
from agemem_dspy.environments import make_environment
from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers import GRPOConfig, StepwiseGRPO
from agemem_dspy.paths import file_sha256
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import local_lm
from agemem_dspy.policy.models import load
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.programs.methods import Method, build_method

RIVALS = [method for method in Method if "package" not in method.value and method is not Method.AGEMEM]


@pytest.fixture(scope="module")
def known() -> dspy.Example:
    """An episode whose way to the goal is told in stage 1."""
    [one] = world_examples("babyai:GoToLocal", [4], knowledge="episode", n_distractors=1)
    return one


def by_heart(prompt: str) -> str:
    """Do what the prompt tells was done an earlier time; who was not told stands in front of a wall."""
    if "act(action)" not in prompt:
        return sensible(prompt)
    told = re.search(r"It was done by: (.*?)\.", prompt)
    way = told[1].split("; ") if told else []
    done = prompt.count('"action"')
    return call("act", action=way[done] if done < len(way) else "fly")


@pytest.mark.parametrize("method", RIVALS)
def test_who_remembers_the_way_goes_it(method: Method, known: dspy.Example, tmp_path: Path) -> None:
    program = build_method(method, adapter=am.CompactAdapter())
    program.set_lm(scripted_lm(by_heart))
    result = am.evaluate(program, [known], am.TrajectoryReward(), log_dir=tmp_path, name="rows")
    with make_environment(known.environment) as world:
        world.reset(known.seed)
        way = world.solution()
    (row,) = result.rows
    if method is Method.NO_MEMORY:
        assert (row["success"], row["actions"], row["calls"]["act"]) == (0.0, 30, {"attempted": 30, "ok": 0})
    else:
        assert (row["success"], row["progress_rate"], row["actions"]) == (1.0, 1.0, len(way))
        assert row["calls"]["act"] == {"attempted": len(way), "ok": len(way)}
    assert row["task"] == row["success"]


def test_who_has_no_memory_tools_is_told_of_none(known: dspy.Example) -> None:
    program = build_method(Method.NO_MEMORY, "question -> answer", adapter=am.CompactAdapter())
    program.set_lm(lm := scripted_lm(by_heart))
    program(**known.inputs())
    assert lm.engine.prompts[0].startswith("Do the task by acting, one action at a time")
    assert "memory" not in lm.engine.prompts[0]


@pytest.mark.parametrize("method", RIVALS)
def test_a_tiny_local_model_acts_with_every_method(
    method: Method, known: dspy.Example, tmp_path_factory: pytest.TempPathFactory
) -> None:
    corpus = ["Ana lives in Rome", "go to the red ball"]
    folder = tiny_llama(tmp_path_factory.mktemp("tiny"), corpus=corpus, vocab_size=300, max_positions=4096)
    program = build_method(method, adapter=am.CompactAdapter())
    program.set_lm(local_lm(PolicyEngine(load(folder)), max_tokens=6))
    trajectory = program(**known.inputs()).trajectory
    assert trajectory.outcome.goal == known.goal
    assert all(step.completion is not None for step in trajectory.steps)  # so that GRPO can train on it


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_grpo_trains_how_a_rival_acts(known: dspy.Example, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path, corpus=["go to the red ball"], vocab_size=300, max_positions=4096)
    program = build_method(Method.RAG, adapter=am.CompactAdapter())
    program.set_lm(local_lm(PolicyEngine(load(folder)), max_tokens=6))
    config = GRPOConfig(max_steps=1, tasks_per_step=1, num_generations=2, beta=0.0)
    compiled = StepwiseGRPO(TokenReward(), config=config, trainer=TRAINER).compile(program, trainset=[known])
    assert "@grpo-" in compiled.actor.step.lm.model


def test_with_short_term_tools_the_actor_has_them_too(known: dspy.Example) -> None:
    prompts: list[str] = []

    def filtering(prompt: str) -> str:
        prompts.append(prompt)
        if "act(action)" in prompt and '"criteria"' not in prompt:
            return call("filter_context", criteria=known.distractors[0])
        return by_heart(prompt) if "act(action)" in prompt or "<answer>" not in prompt else call("nothing")

    program = build_method(Method.MEM0, adapter=am.CompactAdapter(), short_term_tools=True, max_rounds=1)
    program.set_lm(scripted_lm(filtering))
    trajectory = program(**known.inputs()).trajectory
    assert [event.ok for event in trajectory.events if event.tool == "filter_context"] == [True]
    assert trajectory.outcome.success
    assert known.distractors[0] not in trajectory.context


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"question": "?"}, "a world states the task itself.*leave out question"),
        ({"environment": None}, "a seed belongs to an environment"),
        ({"environment": "zork:west"}, "unknown world 'zork:west'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_before_anything_is_stored(
    known: dspy.Example, inputs: dict[str, Any], said: str
) -> None:
    program = build_method(Method.MEM0, adapter=am.CompactAdapter())
    program.set_lm(scripted_lm([]))
    with pytest.raises(ConfigurationError, match=said):
        program(**{**known.inputs(), **inputs})


def test_a_rival_from_before_there_were_worlds_is_loaded(tmp_path: Path) -> None:
    """Its folder has no predictors of the actor's: they share the LM of the others."""
    program = build_method(Method.RAG, adapter=am.CompactAdapter())
    program.set_lm(dspy.LM("openai/gpt-4o-mini", api_key="none"))
    program.save(tmp_path)
    state = json.loads((tmp_path / "program.json").read_text("utf-8"))
    state["predictors"] = {"respond": state["predictors"]["respond"]}
    (tmp_path / "program.json").write_text(json.dumps(state), "utf-8")
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    manifest["files"]["program.json"] = file_sha256(tmp_path / "program.json")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    assert am.load(tmp_path).get_lm().model == "openai/gpt-4o-mini"
