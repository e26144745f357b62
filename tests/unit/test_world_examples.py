"""Examples of worlds: rules or an earlier episode to tell, AgentBoard's rows, and the demonstrator that plays them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from trajectories import make_event, make_trajectory

import agemem_dspy as am
from agemem_dspy.data import load_dataset, read_examples, world_examples, write_examples
from agemem_dspy.environments import make_environment
from agemem_dspy.errors import ConfigurationError, DataError, WorldError
from agemem_dspy.memory import HashEmbedder
from agemem_dspy.optimizers import BootstrapToolDemos
from agemem_dspy.optimizers.demonstrator import Demonstrator
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.progress import progress_rate, shows
from agemem_dspy.types import Outcome, StopReason, Trajectory

pytest.importorskip("minigrid", reason='the extra babyai is not installed: pip install -e ".[babyai]"')

LABELS = Path(__file__).resolve().parents[3] / "shared" / "data" / "agentboard"
needs_labels = pytest.mark.skipif(not LABELS.is_dir(), reason="AgentBoard's labels are not beside this checkout")
REWARD = am.TrajectoryReward()


def student(**options: Any) -> ThreeStageEpisode:
    memory = am.LongTermMemory.open(":memory:", embedder=HashEmbedder())
    return ThreeStageEpisode(AgeMemAgent("question -> answer", memory=memory, adapter=am.CompactAdapter()), **options)


def test_the_rules_of_a_world_are_what_stage_one_tells() -> None:
    one, two = world_examples("babyai:GoToLocal", [4, 9])
    with make_environment("babyai:GoToLocal") as world:
        world.reset(9)
        assert two.messages == two.facts == two.support == list(world.rules)
        assert two.goal == world.goal
    assert (two.id, two.environment, two.seed) == ("babyai:GoToLocal#9", "babyai:GoToLocal", 9)
    assert [(op["turn"], op["content"]) for op in two.operations] == list(enumerate(two.facts))
    assert set(two.inputs().keys()) == {"messages", "distractors", "environment", "seed"}
    assert len(one.distractors) == 5
    assert one.distractors != two.distractors
    assert world_examples("babyai:GoToLocal", [4])[0].toDict() == one.toDict()


def test_a_world_is_data_by_its_name() -> None:
    taken = load_dataset("babyai:GoToObjS6,GoToDoor@7", limit=3)
    assert [one.id for one in taken] == ["babyai:GoToObjS6#7", "babyai:GoToDoor#7", "babyai:GoToObjS6#8"]
    [same] = world_examples("babyai:GoToDoor", [7])
    assert taken[1].toDict() == same.toDict()
    assert len(load_dataset("babyai:GoToObjS6")) == 100


def test_worlds_that_are_no_data_are_refused() -> None:
    for spec, limit, error, said in (
        ("babyai:Nowhere", 1, ConfigurationError, "Nowhere"),
        ("babyai:GoToObjS6", 0, DataError, "limit"),
        ("zork:west", 1, DataError, "or a world: alfworld:<task>"),
    ):
        with pytest.raises(error, match=said):
            load_dataset(spec, limit=limit)
    with pytest.raises(DataError, match="only assistant data has difficulties"):
        load_dataset("babyai:GoToObjS6", difficulty="easy")


def test_an_earlier_episode_tells_the_way() -> None:
    [one] = world_examples("babyai:UnlockPickup", [3], knowledge="episode", n_distractors=0)
    assert one.messages == [
        "An earlier time the task was: pick up the blue box. It was done by: pick up green key 1; "
        "toggle green locked door 1; turn left; drop; pick up blue box 1."
    ]
    assert one.distractors == []


def test_what_cannot_be_told_is_an_error() -> None:
    with pytest.raises(DataError, match="unknown knowledge 'map': give 'rules' or 'episode'"):
        world_examples("babyai:GoToLocal", [0], knowledge="map")  # type: ignore[arg-type]
    with pytest.raises(WorldError, match="bot gives up on babyai:KeyInBox"):
        world_examples("babyai:KeyInBox", [7], knowledge="episode")
    with pytest.raises(ConfigurationError, match="a seed is 0 or more"):
        world_examples("babyai:GoToLocal", [-1])


def test_examples_of_worlds_are_read_as_they_were_written(tmp_path: Path) -> None:
    examples = world_examples("babyai:GoToLocal", range(3))
    path = write_examples(tmp_path / "worlds.jsonl", examples)
    read = read_examples(path)
    assert [one.toDict() for one in read] == [one.toDict() for one in examples]
    assert read[0].inputs().toDict() == examples[0].inputs().toDict()
    path.write_text(json.dumps({**examples[0].toDict(), "seed": "x"}), "utf-8")
    with pytest.raises(DataError, match=r"worlds.jsonl:1: seed: Input should be a valid integer"):
        read_examples(path)


# The demonstrator


@pytest.mark.parametrize(("level", "knowledge"), [("GoToLocal", "rules"), ("UnlockPickup", "episode")])
def test_the_demonstrator_remembers_and_acts(level: str, knowledge: Any) -> None:
    examples = world_examples(f"babyai:{level}", range(6), knowledge=knowledge, n_distractors=2)
    for example in examples:
        trajectory = Demonstrator(student()).play(example).trajectory
        terms = REWARD.terms(example, trajectory)
        assert trajectory.outcome.success
        assert (terms["task"], terms["storage"], terms["maintenance"], terms["penalty"]) == (1.0, 1.0, 1.0, 0.0)
        assert terms["relevance"] == 1.0
        assert terms["reward"] > 0.9


def test_a_way_that_is_too_long_ends_with_the_steps() -> None:
    [example] = world_examples("babyai:BlockedUnlockPickup", [7], n_distractors=0)
    trajectory = Demonstrator(student(max_steps=3)).play(example).trajectory
    assert (trajectory.stop_reason, trajectory.outcome.actions) == (StopReason.WORLD_ENDED, 3)
    assert not trajectory.outcome.success


def test_the_demonstrator_stores_the_way_where_memory_is_carried() -> None:
    [example] = world_examples("babyai:GoToLocal", [4], n_distractors=0)
    episode = student(carry_memory=True)
    Demonstrator(episode).play(example)
    assert [m.content for m in episode.agent.memory.all()][-1].startswith(f"{example.goal}: ")


def test_its_demos_hold_an_action() -> None:
    compiled = BootstrapToolDemos(REWARD).compile(
        student(), trainset=world_examples("babyai:GoToLocal", range(4), n_distractors=1)
    )
    called = {call.name for demo in compiled.agent.step.demos for call in demo["tool_calls"].tool_calls}
    assert {"act", "add_memory", "retrieve_memory", "filter_context"} <= called


def test_nobody_plays_carelessly_in_a_world() -> None:
    [example] = world_examples("babyai:GoToLocal", [4])
    with pytest.raises(DataError, match="'babyai:GoToLocal#4' is of a world.*leave out mistakes"):
        Demonstrator(student(), mistakes=0.5).play(example)


# AgentBoard


def row(**changes: Any) -> dict[str, Any]:
    made = {
        "id": 0,
        "task": "babyai",
        "goal": "go to the red ball",
        "subgoals": ["There is a red ball **", "There is a red ball ** right in front of you 1 steps away."],
        "difficulty": "easy",
        "additional_info": {"subtask": "BabyAI-GoToRedBallGrey-v0"},
    }
    return {**made, **changes}


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "board" / "test.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in rows) + "\n\n", "utf-8")
    return path


def test_a_row_becomes_the_episode_that_it_labels(tmp_path: Path) -> None:
    other = row(id=1, subgoals=["a **", "b **"], subgoals_1=["c **", "d **"])
    first, second = load_dataset(f"agentboard:{write(tmp_path, row(), other)}")
    assert (first.id, first.environment, first.seed) == ("babyai-0", "babyai:GoToRedBallGrey", 1234)
    assert (first.goal, first.difficulty, first.kind) == ("go to the red ball", "easy", "BabyAI-GoToRedBallGrey-v0")
    assert first.subgoals == [[label] for label in row()["subgoals"]]
    assert second.seed == 1235
    assert second.subgoals == [["a **", "c **"], ["b **", "d **"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{"], "test.jsonl:1: not JSON"),
        ([row(), row(subgoals="x")], "test.jsonl:2: subgoals: Input should be a valid list"),
        ([row(task="webshop")], "test.jsonl:1: task: 'webshop' is not read here; babyai, pddl and scienceworld"),
        ([row(task="pddl", additional_info={"subtask": "gripper"})], "row 1 of gripper, but .* holds 0 problems"),
    ],
)
def test_rows_that_cannot_be_read_name_their_place(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(f"agentboard:{write(tmp_path, *rows)}")


@needs_labels
def test_all_rows_of_babyai_are_read() -> None:
    examples = load_dataset(f"agentboard:{LABELS / 'babyai_test.jsonl'}")
    assert len({(one.environment, one.seed) for one in examples}) == 112
    assert {one.seed for one in examples} == {1234, 1235, 1236, 1237}
    assert [len(one.subgoals[0]) for one in examples if len(one.subgoals[0]) > 1] == [2, 2]  # doors "behind you"


@needs_labels
def test_all_rows_of_pddl_are_the_problems_that_they_label() -> None:
    examples = load_dataset(f"agentboard:{LABELS / 'pddl_test.jsonl'}")
    assert [one.environment.rpartition("/")[2] for one in examples[20:23]] == [
        "problem1.pddl",
        "problem10.pddl",
        "problem2.pddl",
    ]
    assert len(examples) == 60


@needs_labels
def test_labels_of_another_problem_are_refused(tmp_path: Path) -> None:
    rows = (LABELS / "pddl_test.jsonl").read_text("utf-8").splitlines()
    (tmp_path / "pddl").symlink_to(LABELS.parent / "pddl")
    with pytest.raises(DataError, match=r"test.jsonl:1: the labels .* are not of pddl:.*prob01.pddl"):
        load_dataset(f"agentboard:{write(tmp_path, rows[1], rows[0])}")


# The progress rate


def acted(*observations: str, success: bool = False, goal: str = "go to the red ball") -> Trajectory:
    from dataclasses import replace

    events = [replace(make_event("act", stage=3), observation=text) for text in observations]
    outcome = Outcome(environment="babyai:X", goal=goal, success=success, progress=float(success), actions=len(events))
    return replace(make_trajectory(*events), outcome=outcome)


FAR, NEAR = "There is a red ball 1 3 steps in front of you", "There is a red ball 1 right in front of you 1 steps away"
LABELLED = dspy.Example(goal="go to the red ball", subgoals=[[label] for label in row()["subgoals"]])


@pytest.mark.parametrize(
    ("observations", "rate"),
    [
        ([], 0.0),
        (["You see no objects. You are facing a wall 1 steps away."], 0.0),
        ([f"{FAR}. You are carrying nothing."], 0.5),
        ([f"{NEAR}."], 0.5),  # one label an observation, as in AgentBoard
        ([f"{NEAR}.", f"{NEAR}."], 1.0),
        (["There is a blue ball 1 right in front of you 1 steps away. There is a red ball 1 3 steps in front"], 0.5),
        ([f"{FAR}.", f"{FAR}."], 0.5),
    ],
)
def test_the_progress_rate_is_the_share_of_labels_that_were_seen(observations: list[str], rate: float) -> None:
    assert progress_rate(LABELLED, acted(*observations)) == rate


def test_a_goal_reached_is_all_of_it_and_labels_of_another_mission_count_nothing() -> None:
    assert progress_rate(LABELLED, acted(success=True)) == 1.0
    assert progress_rate(LABELLED, acted(f"{NEAR}.", f"{NEAR}.", goal="go to the green box")) == 0.0
    assert progress_rate(dspy.Example(), acted()) == 0.0
    assert progress_rate(LABELLED, make_trajectory()) == 0.0


def test_what_the_agent_says_itself_is_no_progress() -> None:
    """An impossible action is repeated in the answer to it."""
    from fakes import call, scripted_lm

    [example] = world_examples("babyai:GoToRedBallGrey", [1234], n_distractors=0)
    labelled = example.copy(messages=[], subgoals=LABELLED.subgoals)
    said = [call("act", action=f"{NEAR}.")] * 3 + ["hm", "hm"]
    with dspy.context(lm=scripted_lm(said)):
        trajectory = student()(**labelled.inputs()).trajectory
    assert NEAR in trajectory.events[0].observation
    assert progress_rate(labelled, trajectory) == 0.0


def test_one_of_the_alternatives_is_enough() -> None:
    example = dspy.Example(
        goal="open a door", subgoals=[["There is a red open door **", "There is a blue open door **"]]
    )
    assert (
        progress_rate(example, acted("There is a blue open door 1 right in front of you.", goal="open a door")) == 1.0
    )


def test_a_label_is_met_by_one_sentence() -> None:
    assert shows("You see it. There is a yellow box 1 right in front.", " There is a yellow box ")
    assert not shows("There is a red ball. It is 1 steps away.", "There is a red ball ** 1 steps away.")


@needs_labels
def test_the_experts_meet_the_labels_of_what_they_solve() -> None:
    """Four rows of five: the bot may take another way than the labels do."""
    met = []
    for example in load_dataset(f"agentboard:{LABELS / 'babyai_test.jsonl'}")[::4]:
        with make_environment(example.environment, max_steps=500) as world:
            world.reset(example.seed)
            try:
                seen = [world.step(action).observation.text for action in world.solution()]
            except WorldError:
                continue
            met.append(progress_rate(example, acted(*seen, goal=world.goal)))
    assert len(met) >= 24
    assert sum(met) / len(met) > 0.75
