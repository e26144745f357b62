"""What every program must do that plays three-stage episodes: subclass the class, give it its fixture.

A subclass of `EpisodeContract` provides `make`, which builds the program for a signature, rendering with the
`CompactAdapter` over hashed embeddings, and may override `replies`, what a sensible LM says to each of its prompts.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15
from fakes import answer, call, scripted_lm
from trajectories import make_example

import agemem_dspy as am
from agemem_dspy import environments
from agemem_dspy.errors import ConfigurationError
from agemem_dspy.ledger import Ledger
from agemem_dspy.rewards import TrajectoryReward
from agemem_dspy.types import Outcome, StopReason, Trajectory

MESSAGES = ["I live in Rome.", "My cat is called Tito.", "I work as a baker."]
CHATTER = ["The tram was late."]
INPUTS: dict[str, Any] = {"messages": MESSAGES, "distractors": CHATTER, "question": "Where do I live?"}


def sensible(prompt: str) -> str:
    """Answer as a sensible LM would: facts are the message, each is added, the answer is in the prompt or not."""
    asked = re.search(r"Reply with the (\w+) alone", prompt)
    match asked and asked[1]:
        case "facts":
            text = prompt.rpartition("message: ")[2]
            return json.dumps([] if text in CHATTER else [text])
        case "decisions":
            facts = json.loads(prompt.rpartition("facts: ")[2].partition("\nmemories: ")[0])
            return json.dumps([{"operation": "ADD", "content": fact} for fact in facts])
        case "note":
            return json.dumps({"keywords": ["home"], "tags": ["life"], "context": "The user tells of themselves."})
        case "evolution":
            nearest = json.loads(prompt.rpartition("nearest: ")[2])
            return json.dumps({"links": list(nearest)[:1], "neighbours": []})
        case "changes":
            said = json.loads(prompt.rpartition("conversation: ")[2].partition("\nmemories: ")[0])
            return json.dumps({"inserts": [text for text in said if text not in CHATTER]})
    text = "Rome" if "Rome" in prompt.replace("Where do I live?", "") else "I don't know"
    return answer(text) if "<answer>" in prompt else text


class EpisodeContract:
    """What `evaluate`, the rewards and the optimizers rely on."""

    replies: Callable[[str], Any] = staticmethod(sensible)
    knows = True  # whether it is shown what was said, so that it can answer
    can_be_saved = True

    @pytest.fixture
    def make(self) -> Callable[..., Any]:
        raise NotImplementedError

    @pytest.fixture
    def program(self, make: Callable[..., Any]) -> Any:
        made = make("question -> answer")
        made.set_lm(scripted_lm(type(self).replies))
        return made

    def test_an_episode_ends_in_the_answer_and_its_trajectory(self, program: Any) -> None:
        prediction = program(**INPUTS)
        trajectory = prediction.trajectory
        assert isinstance(trajectory, Trajectory)
        assert prediction.answer == ("Rome" if self.knows else "I don't know")
        assert trajectory.answer == {"answer": prediction.answer}
        assert trajectory.stop_reason is StopReason.ANSWERED
        assert len(trajectory.steps) >= 1
        assert all(step.parsed and step.error is None for step in trajectory.steps)
        assert trajectory.context_tokens > 0

    def test_the_log_is_whole_and_replays_to_what_is_stored(self, program: Any) -> None:
        trajectory = program(**INPUTS).trajectory
        assert [event.index for event in trajectory.events] == list(range(len(trajectory.events)))
        stages = [int(event.stage) for event in trajectory.events]
        assert stages == sorted(stages)
        live = {entry.memory_id: entry.content for entry in Ledger.of(trajectory).entries if entry.content is not None}
        assert live == {memory.id: memory.content for memory in trajectory.memories}

    def test_every_episode_starts_from_an_empty_store(self, program: Any) -> None:
        program(**INPUTS)
        assert program(messages=[], question="Who?").trajectory.memories == ()

    def test_episodes_do_not_meet_in_threads(self, program: Any) -> None:
        said = [{**INPUTS, "messages": [f"I live in Rome {n}."]} for n in range(8)]
        with ThreadPoolExecutor(8) as pool:
            played = list(pool.map(lambda inputs: program(**inputs).trajectory, said))
        for inputs, trajectory in zip(said, played, strict=True):
            own = (inputs["messages"][0], *CHATTER)
            assert all(any(text in memory.content for text in own) for memory in trajectory.memories)

    def test_in_a_world_it_acts_step_by_step_on_what_it_remembers(
        self, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(environments.WORLDS, "test", ("fakes_world", "Counter"))
        replies = type(self).replies
        lm = scripted_lm(lambda prompt: call("act", action="more") if "act(action)" in prompt else replies(prompt))
        program = make("question -> answer")
        program.set_lm(lm)
        inputs = {"messages": MESSAGES, "distractors": CHATTER, "environment": "test:three", "seed": 0}
        trajectory = program(**inputs).trajectory
        assert trajectory.outcome == Outcome(
            environment="test:three", goal="Count to three.", success=True, progress=1.0, actions=3
        )
        assert (trajectory.stop_reason, trajectory.answer) == (StopReason.WORLD_ENDED, None)
        assert [event.observation for event in trajectory.events if event.tool == "act"] == [
            "1", "2", "3 The goal is reached.",
        ]  # fmt: skip
        acting = [prompt for prompt in lm.engine.prompts if "act(action)" in prompt]
        assert [MESSAGES[0] in prompt for prompt in acting] == [self.knows] * 3
        program.set_lm(scripted_lm(replies))
        assert [m.content for m in trajectory.memories] == [m.content for m in program(**INPUTS).trajectory.memories]

    def test_replies_that_cannot_be_read_are_no_answer_and_no_crash(self, make: Callable[..., Any]) -> None:
        program = make("question -> floors: int")
        program.set_lm(scripted_lm(lambda prompt: "<answer>many</answer>" if "<answer>" in prompt else "many"))
        prediction = program(**INPUTS)
        assert prediction.floors is None
        assert prediction.trajectory.answer is None
        assert prediction.trajectory.stop_reason in (StopReason.ROUND_LIMIT, StopReason.UNREADABLE)
        assert any(step.error for step in prediction.trajectory.steps)

    def test_a_prompt_that_does_not_fit_is_an_overflow(self, make: Callable[..., Any]) -> None:
        program = make("question -> answer")
        program.set_lm(scripted_lm(lambda prompt: lm15.ContextLengthError("too long")))
        trajectory = program(**INPUTS).trajectory
        assert (trajectory.stop_reason, trajectory.answer) == (StopReason.CONTEXT_OVERFLOW, None)

    def test_an_lm_that_fails_stops_the_episode(self, make: Callable[..., Any]) -> None:
        program = make("question -> answer")
        program.set_lm(scripted_lm(lambda prompt: ZeroDivisionError("broken")))
        with pytest.raises(dspy.LMError, match="broken"):
            program(**INPUTS)

    def test_the_awaited_call_does_the_same(self, program: Any) -> None:
        awaited = asyncio.run(program.acall(**INPUTS)).trajectory
        played = program(**INPUTS).trajectory
        assert awaited.answer == played.answer
        assert [memory.content for memory in awaited.memories] == [memory.content for memory in played.memories]
        assert [step.kind for step in awaited.steps] == [step.kind for step in played.steps]

    def test_the_reward_and_the_evaluation_take_it(self, program: Any, tmp_path: Path) -> None:
        examples = [make_example(id=str(n), **INPUTS, answer="Rome") for n in range(2)]
        result = am.evaluate(program, examples, TrajectoryReward(), log_dir=tmp_path, num_threads=2)
        assert result.mean("answer") == float(self.knows)
        again = am.evaluate(program, examples, TrajectoryReward(), log_dir=tmp_path)
        assert again.rows == result.rows

    def test_a_copy_is_a_program_of_its_own(self, program: Any) -> None:
        copied = copy.deepcopy(program)
        copied.set_lm(scripted_lm(lambda prompt: ZeroDivisionError("the copy's")))
        assert program(**INPUTS).trajectory.answer is not None

    def test_a_task_with_a_name_of_the_episodes_own_is_refused(self, make: Callable[..., Any]) -> None:
        with pytest.raises(ConfigurationError, match="rename the .*input.* 'messages'"):
            make("messages -> answer")

    def test_it_is_saved_and_loaded(self, program: Any, tmp_path: Path) -> None:
        if not self.can_be_saved:
            with pytest.raises(ConfigurationError, match="cannot be saved"):
                program.save(tmp_path / "saved")
            return
        program.set_lm(dspy.LM("openai/gpt-4o-mini", api_key="none"))
        program.save(tmp_path / "saved")
        loaded = am.load(tmp_path / "saved", lm=scripted_lm(type(self).replies))
        assert type(loaded) is type(program)
        assert {name: p.signature.dump_state() for name, p in loaded.named_predictors()} == {
            name: p.signature.dump_state() for name, p in program.named_predictors()
        }
        assert loaded(**INPUTS).answer == ("Rome" if self.knows else "I don't know")
