"""Acting and remembering in one loop: three stages with a world in the third, BabyAI's or one that counts."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15
from fakes import Reply, answer, call, calls, scripted_lm
from fakes_world import Counter

import agemem_dspy as am
from agemem_dspy import environments
from agemem_dspy.data import world_examples
from agemem_dspy.environments import StepResult, make_environment
from agemem_dspy.errors import ConfigurationError, WorldError
from agemem_dspy.evaluation import evaluate
from agemem_dspy.feedback import explain
from agemem_dspy.memory import HashEmbedder
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.types import Outcome, Stage, StopReason, Trajectory

REWARD = am.TrajectoryReward()
RULE = "Say 'more' three times."
MORE = call("act", action="more")
GIVE_UP = answer("I give up")


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(environments.WORLDS, "test", ("fakes_world", "Counter"))


def make(signature: str = "question -> answer", **options: Any) -> ThreeStageEpisode:
    memory = am.LongTermMemory.open(":memory:", embedder=HashEmbedder())
    agent = AgeMemAgent(signature, memory=memory, adapter=am.CompactAdapter())
    return ThreeStageEpisode(agent, **options)


def play(script: Iterable[Reply], episode: ThreeStageEpisode | None = None, **inputs: Any) -> Trajectory:
    given = {"messages": [], "environment": "test:three", **inputs}
    with dspy.context(lm=scripted_lm(script)):
        played: Trajectory = (episode or make())(**given).trajectory
    return played


def test_stage_three_states_the_task_and_ends_with_the_world() -> None:
    script = [call("add_memory", content=RULE), answer("ok"), call("retrieve_memory", query="count"), MORE, MORE, MORE]
    trajectory = play(script, messages=[RULE], distractors=["Nice day."], seed=5)
    assert trajectory.outcome == Outcome(
        environment="test:three", goal="Count to three.", success=True, progress=1.0, actions=3
    )
    assert trajectory.stop_reason is StopReason.WORLD_ENDED
    assert trajectory.answer is None
    asked = next(step for step in trajectory.steps if step.stage is Stage.REASON).context[-1]
    assert (asked["kind"], asked["content"]) == ("question", "Count to three.\nzero\nYou can: more.")
    acts = [event for event in trajectory.events if event.tool == "act"]
    assert [event.observation for event in acts] == ["1", "2", "3 The goal is reached."]
    assert all(event.ok and event.stage is Stage.REASON for event in acts)


def test_acting_is_offered_in_stage_three_beside_the_six() -> None:
    lm = scripted_lm([call("act", action="more"), answer("ok"), answer("ok"), MORE, MORE, MORE])
    with dspy.context(lm=lm):
        trajectory = make()(messages=["hi"], distractors=["ho"], environment="test:three").trajectory
    assert ["act(action): " in prompt for prompt in lm.engine.prompts] == [False] * 3 + [True] * 3
    assert "there is no tool 'act'" in trajectory.events[1].observation
    assert trajectory.outcome.actions == 3


def test_an_action_that_there_is_not_is_a_failed_call_that_names_the_others() -> None:
    trajectory = play([call("act", action="jump"), call("act"), call("act", action=3), MORE, GIVE_UP])
    jump, nothing, number, _ = trajectory.events
    assert not jump.ok
    assert jump.observation == "error: Nothing happens: 'jump' is not possible here. You can: more."
    assert (nothing.ok, number.ok) == (False, False)
    assert trajectory.outcome.actions == 2  # a call that is malformed is no action
    assert trajectory.outcome.progress == pytest.approx(1 / 3)


def test_several_calls_in_a_step_stop_at_the_end_of_the_world() -> None:
    more = ("act", {"action": "more"})
    trajectory = play([calls(more, more), calls(more, more)])
    assert [event.ok for event in trajectory.events] == [True, True, True, False]
    assert "the episode is over" in trajectory.events[-1].observation
    assert (trajectory.outcome.success, trajectory.outcome.actions) == (True, 3)


def test_an_answer_ends_the_episode_early() -> None:
    trajectory = play([MORE, GIVE_UP])
    assert (trajectory.stop_reason, trajectory.answer) == (StopReason.ANSWERED, {"answer": "I give up"})
    assert (trajectory.outcome.success, trajectory.outcome.actions) == (False, 1)


def test_a_world_has_its_own_steps_beside_the_agents_rounds() -> None:
    look = call("retrieve_memory", query="count")
    trajectory = play([look] * 5 + [call("act", action="x")] * 4, make(max_steps=4))
    assert trajectory.stop_reason is StopReason.WORLD_ENDED
    assert trajectory.events[-1].observation.startswith("error: Nothing happens")
    assert (trajectory.outcome.success, trajectory.outcome.actions) == (False, 4)
    assert play([look] * 9, make(max_steps=4)).stop_reason is StopReason.ROUND_LIMIT


@pytest.mark.parametrize(
    ("script", "stop"),
    [
        ([lm15.ContextLengthError("full")], StopReason.CONTEXT_OVERFLOW),
        ([answer("ok"), lm15.ContextLengthError("full")], StopReason.CONTEXT_OVERFLOW),
        ([answer("ok"), "hm", "hm"], StopReason.UNREADABLE),
    ],
)
def test_who_never_acted_has_an_outcome_and_the_reward_of_no_answer(script: list[Reply], stop: StopReason) -> None:
    trajectory = play(script, messages=["hi"])
    assert trajectory.stop_reason is stop
    assert (trajectory.outcome.actions, trajectory.outcome.progress) == (0, 0.0)
    assert REWARD.terms(dspy.Example(facts=[], key_items=[]), trajectory)["task"] == -1.0


def test_fewer_stages_have_no_outcome() -> None:
    assert play([answer("ok")], make(stages=1), messages=["hi"]).outcome is None


def test_a_failing_world_stops_the_run() -> None:
    class Broken(Counter):
        def _act(self, action: str) -> StepResult | None:
            raise WorldError("the backend of test:three is gone")

    environments.WORLDS["test"] = (__name__, "Broken")  # type: ignore[index] - put back by the fixture
    globals()["Broken"] = Broken
    with pytest.raises(WorldError, match="the backend of test:three is gone"):
        play([MORE])


def test_aforward_plays_what_forward_plays() -> None:
    script = [MORE, call("act", action="x"), MORE, MORE]

    async def awaited() -> Any:
        return await make().acall(messages=[], environment="test:three", seed=1)

    with dspy.context(lm=scripted_lm(script)):
        trajectory = asyncio.run(awaited()).trajectory
    assert trajectory.outcome == play(script, seed=1).outcome
    assert trajectory.outcome.success


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        ("question -> answer", {"question": "?"}, "a world states the task itself.*leave out question"),
        ("question, day -> answer", {}, r"to an agent with one input: this one takes \['question', 'day'\]"),
        ("question -> answer", {"environment": None, "seed": 3, "question": "?"}, "a seed belongs to an environment"),
        ("question -> answer", {"environment": "zork:west"}, "unknown world 'zork:west'"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_before_the_first_lm_call(
    signature: str, inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        play([], make(signature), **inputs)


@pytest.mark.parametrize("name", ["environment", "seed"])
def test_names_that_the_episode_needs_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"rename the agent's input '{name}'"):
        make(f"{name} -> answer")


def test_no_steps_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_steps must be 1 or more, not 0"):
        make(max_steps=0)


# The reward of a world


def example(**labels: Any) -> dspy.Example:
    given = {"messages": [RULE], "distractors": [], "environment": "test:three", "seed": 0, "id": "one"}
    gold = {"facts": [RULE], "support": [RULE], "key_items": [], "operations": []}
    return dspy.Example(**{**given, **gold, **labels}).with_inputs("messages", "distractors", "environment", "seed")


def test_the_progress_is_r_task_and_giving_up_costs_as_it_does_elsewhere() -> None:
    stored = call("add_memory", content=RULE)
    won = REWARD.terms(example(), play([stored, call("retrieve_memory", query="say"), MORE, MORE, MORE],
                                       messages=[RULE]))  # fmt: skip
    assert (won["task"], won["answer"], won["penalty"], won["storage"], won["relevance"]) == (1.0, 1.0, 0.0, 1.0, 1.0)
    third = REWARD.terms(example(), play([answer("ok"), MORE, GIVE_UP], messages=[RULE]))
    assert (third["task"], third["penalty"], third["storage"]) == (pytest.approx(1 / 3), 0.0, 0.0)
    lost = REWARD.terms(example(), play([answer("ok"), MORE, "hm", "hm"], messages=[RULE]))
    assert (lost["task"], lost["penalty"]) == (pytest.approx(1 / 3), -1.0)
    out_of_steps = REWARD.terms(example(), play([answer("ok"), MORE, MORE], make(max_steps=2), messages=[RULE]))
    assert (out_of_steps["task"], out_of_steps["penalty"]) == (pytest.approx(2 / 3), 0.0)


def test_the_feedback_says_what_came_of_it() -> None:
    won, lost = play([MORE, MORE, MORE]), play([call("act", action="jump"), MORE, GIVE_UP])
    assert explain(example(), won, {}).startswith('The goal "Count to three." was reached, in 3 actions.')
    told = explain(example(), lost, {})
    assert told.startswith('The goal "Count to three." was not reached, 33% of it was (answered), in 2 actions.')
    assert "A call to act failed at stage 3, turn 1: \"Nothing happens: 'jump' is not possible" in told


def test_an_evaluation_counts_successes_progress_and_actions() -> None:
    script = [answer("ok"), MORE, MORE, MORE, answer("ok"), MORE, call("act", action="jump"), GIVE_UP]
    episode = make()
    episode.set_lm(scripted_lm(script))
    result = evaluate(episode, [example(), example(id="two")], REWARD)
    assert list(result.values("success").values()) == [1.0, 0.0]
    assert list(result.values("progress_rate").values()) == [1.0, pytest.approx(1 / 3)]
    assert list(result.values("actions").values()) == [3.0, 2.0]
    assert result.calls()["act"] == {"attempted": 2.5, "ok": 2.0}


# Memory that outlives an episode


def test_an_episode_starts_empty_unless_memory_is_carried() -> None:
    script = [MORE, MORE, MORE]
    kept = make()
    kept.agent.memory.add(RULE)
    assert play(script, kept).memories == ()
    carrying = make(carry_memory=True)
    carrying.agent.memory.add(RULE)
    assert [one.content for one in play([*script, answer("ok")], carrying).memories] == [RULE]


def test_after_the_end_the_agent_may_store_what_it_learned() -> None:
    lm = scripted_lm([MORE, MORE, MORE, call("add_memory", content="saying 'more' counts")])
    episode = make(carry_memory=True)
    with dspy.context(lm=lm):
        trajectory = episode(messages=[], environment="test:three").trajectory
    assert (
        "The goal was reached after 3 actions. Store what will help another time: Count to three."
        in (lm.engine.prompts[-1])
    )
    assert "act(action)" not in lm.engine.prompts[-1]
    assert [one.content for one in episode.agent.memory.all()] == ["saying 'more' counts"]
    assert trajectory.stop_reason is StopReason.WORLD_ENDED
    assert trajectory.context_tokens == trajectory.steps[-2].prompt_tokens
    assert (trajectory.steps[-1].stage, trajectory.steps[-1].turn) == (Stage.REASON, 1)


@pytest.mark.parametrize("carry_memory", [True, False])
def test_the_second_visit_knows_what_the_first_one_was_told(carry_memory: bool) -> None:
    """An agent that stores what it is told, does what it remembers, and gives up else; in BabyAI."""

    def policy(prompt: str) -> str:
        if "Store what will help" in prompt:
            return answer("it is stored")
        if f"m1: {told}" in prompt:
            return call("act", action=way[prompt.count('"action"')])
        if prompt.endswith(told):
            return call("add_memory", content=told)
        if prompt.endswith(f"You can: {', '.join(admissible)}."):
            return call("retrieve_memory", query=goal)
        return answer("I don't know")

    [one] = world_examples("babyai:UnlockPickup", [3], knowledge="episode", n_distractors=0)
    [told], goal = one.messages, one.goal
    with make_environment(one.environment) as world:
        admissible, way = world.reset(one.seed).admissible, world.solution()
    episode = make(carry_memory=carry_memory)
    lm = scripted_lm(policy)
    with dspy.context(lm=lm):
        first = episode(**one.inputs()).trajectory
        second = episode(**one.inputs().copy(messages=[])).trajectory
    assert (first.outcome.success, second.outcome.success) == (True, carry_memory)
    assert first.outcome.actions == len(way)
    assert [memory.content for memory in second.memories] == [told] * carry_memory


def test_training_refuses_memory_that_is_carried() -> None:
    from agemem_dspy.optimizers import BootstrapToolDemos

    with pytest.raises(ConfigurationError, match="each needs an empty memory.* without carry_memory"):
        BootstrapToolDemos(REWARD).compile(make(carry_memory=True), trainset=[example()])


def test_the_settings_of_an_episode_are_saved(tmp_path: Path) -> None:
    make(carry_memory=True, max_steps=12).save(tmp_path / "program")
    loaded = am.load(tmp_path / "program")
    assert (loaded.stages, loaded.max_steps, loaded.carry_memory) == (3, 12, True)


def test_a_folder_from_before_there_were_worlds_is_loaded(tmp_path: Path) -> None:
    make(stages=2).save(tmp_path)
    program = tmp_path / "program.json"
    state = json.loads(program.read_text("utf-8"))
    del state["max_steps"], state["carry_memory"]
    program.write_text(json.dumps(state), "utf-8")
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    manifest["files"]["program.json"] = hashlib.sha256(program.read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    loaded = am.load(tmp_path)
    assert (loaded.stages, loaded.max_steps, loaded.carry_memory) == (2, 30, False)
