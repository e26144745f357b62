"""The baselines see what they may see, and return what an episode returns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15
from trajectories import make_example

from agemem_dspy import CompactAdapter, NoMemoryAgent, RetrieveOnlyAgent, TrajectoryReward, evaluate
from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.embedder import HashEmbedder
from agemem_dspy.types import Stage, StopReason

MESSAGES = ["I live in Rome.", "My cat is called Tito.", "I work as a baker."]


class Replies:
    """An engine that answers with a function of the prompt and keeps the prompts."""

    def __init__(self, reply: Callable[[str], str]) -> None:
        self.reply, self.prompts = reply, list[str]()

    def complete(self, request: lm15.Request) -> lm15.Response:
        prompt = "\n".join([str(request.system or ""), *(str(message.text) for message in request.messages)])
        self.prompts.append(prompt)
        message = lm15.Message.assistant([lm15.TextPart(self.reply(prompt))])
        return lm15.Response(
            id=None, model=request.model, message=message, finish_reason="stop", usage=lm15.Usage(0, 0, 0)
        )


class AsyncReplies(Replies):
    """The awaited face of `Replies`."""

    async def complete(self, request: lm15.Request) -> lm15.Response:  # type: ignore[override]
        return super().complete(request)


def lm(reply: Callable[[str], str]) -> tuple[dspy.LM, Replies]:
    engine = Replies(reply)
    both = {"engine": engine, "async_engine": AsyncReplies(reply)}
    return dspy.LM("scripted/replies", cache=False, num_retries=0, **both), engine


def chat(**fields: str) -> str:
    return "\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()) + "\n[[ ## completed ## ]]"


def retrieve_only(signature: Any = "question -> answer", **options: Any) -> RetrieveOnlyAgent:
    return RetrieveOnlyAgent(signature, embedder=HashEmbedder(), **options)


def test_no_memory_sees_the_question_alone() -> None:
    model, engine = lm(lambda prompt: "a guess")
    agent = NoMemoryAgent("question -> answer", adapter=CompactAdapter())
    agent.set_lm(model)
    pred = agent(messages=MESSAGES, distractors=["Nice weather."], question="Where do I live?")
    assert pred.answer == "a guess"
    assert "Where do I live?" in engine.prompts[0]
    assert not any(text in engine.prompts[0] for text in [*MESSAGES, "Nice weather."])
    trajectory = pred.trajectory
    assert (trajectory.events, trajectory.memories) == ((), ())
    assert trajectory.answer == {"answer": "a guess"}
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert trajectory.context == ("Where do I live?",)
    (step,) = trajectory.steps
    assert (step.stage, step.parsed, step.kind) == (Stage.REASON, True, "act")


def test_retrieve_only_shows_the_nearest_messages_and_logs_what_it_did() -> None:
    model, engine = lm(lambda prompt: "Tito" if "Tito" in prompt else "?")
    agent = retrieve_only(top_k=1, adapter=CompactAdapter())
    agent.set_lm(model)
    pred = agent(messages=MESSAGES, distractors=["Nice weather."], question="How is my cat called?")
    assert pred.answer == "Tito"
    assert MESSAGES[1] in engine.prompts[0]
    assert MESSAGES[0] not in engine.prompts[0]
    assert "Nice weather." not in engine.prompts[0]
    trajectory = pred.trajectory
    assert [event.tool for event in trajectory.events] == [*["add_memory"] * 3, "retrieve_memory"]
    assert [event.turn for event in trajectory.events] == [0, 1, 2, 0]
    assert [int(event.stage) for event in trajectory.events] == [1, 1, 1, 3]
    assert all(event.ok for event in trajectory.events)
    assert [memory.content for memory in trajectory.memories] == MESSAGES
    assert trajectory.events[-1].contents == (MESSAGES[1],)
    assert trajectory.context == (MESSAGES[1], "How is my cat called?")


def test_every_call_starts_from_an_empty_store() -> None:
    model, _ = lm(lambda prompt: "x")
    agent = retrieve_only(adapter=CompactAdapter())
    agent.set_lm(model)
    agent(messages=MESSAGES, question="Who?")
    again = agent(messages=[], question="Who?")
    assert again.trajectory.memories == ()
    assert again.trajectory.events[-1].contents == ()


def test_a_blank_message_is_a_failed_add_and_no_crash() -> None:
    model, _ = lm(lambda prompt: "x")
    agent = retrieve_only(adapter=CompactAdapter())
    agent.set_lm(model)
    events = agent(messages=["  ", "I live in Rome."], question="Where?").trajectory.events
    assert [event.ok for event in events] == [False, True, True]


@pytest.mark.parametrize("make", [NoMemoryAgent, retrieve_only])
def test_several_inputs_and_outputs_of_any_type(make: Callable[..., Any]) -> None:
    model, engine = lm(lambda prompt: chat(city="Rome", floors="3"))
    agent = make("question, hint: str -> city, floors: int")
    agent.set_lm(model)
    pred = agent(messages=MESSAGES, question="Where do I live?", hint="Italy")
    assert (pred.city, pred.floors) == ("Rome", 3)
    assert pred.trajectory.answer == {"city": "Rome", "floors": 3}
    assert pred.trajectory.context[-1] == "question: Where do I live?\nhint: Italy"
    with pytest.raises(ConfigurationError, match="missing \\['hint'\\]"):
        agent(messages=[], question="Where?")
    assert len(engine.prompts) == 1


@pytest.mark.parametrize("make", [NoMemoryAgent, retrieve_only])
def test_a_reply_that_cannot_be_read_is_no_answer_and_no_crash(make: Callable[..., Any]) -> None:
    model, _ = lm(lambda prompt: chat(city="Rome", floors="many"))
    agent = make("question -> city, floors: int", adapter=dspy.ChatAdapter(use_json_adapter_fallback=False))
    agent.set_lm(model)
    pred = agent(messages=[], question="Where?")
    assert (pred.city, pred.floors) == (None, None)
    assert pred.trajectory.answer is None
    assert pred.trajectory.stop_reason is StopReason.ROUND_LIMIT
    assert not pred.trajectory.steps[0].parsed
    assert pred.trajectory.steps[0].error


@pytest.mark.parametrize("make", [NoMemoryAgent, retrieve_only])
def test_a_prompt_that_does_not_fit_is_an_overflow(make: Callable[..., Any]) -> None:
    def refuse(prompt: str) -> str:
        raise lm15.ContextLengthError("too long")

    model, _ = lm(refuse)
    agent = make("question -> answer", adapter=CompactAdapter())
    agent.set_lm(model)
    trajectory = agent(messages=[], question="Where?").trajectory
    assert (trajectory.stop_reason, trajectory.answer) == (StopReason.CONTEXT_OVERFLOW, None)


@pytest.mark.parametrize("make", [NoMemoryAgent, retrieve_only])
def test_an_lm_that_fails_is_no_answer_of_the_agent(make: Callable[..., Any]) -> None:
    def fail(prompt: str) -> str:
        raise ZeroDivisionError("broken")

    agent = make("question -> answer", adapter=CompactAdapter())
    agent.set_lm(lm(fail)[0])
    with pytest.raises(dspy.LMError, match="broken"):
        agent(messages=[], question="Where?")


@pytest.mark.parametrize("make", [NoMemoryAgent, retrieve_only])
def test_the_awaited_call_does_the_same(make: Callable[..., Any]) -> None:
    agent = make("question -> answer", adapter=CompactAdapter())
    agent.set_lm(lm(lambda prompt: f"{'Rome' in prompt}")[0])
    inputs = {"messages": MESSAGES, "question": "Where do I live?"}
    assert asyncio.run(agent.acall(**inputs)).trajectory.answer == agent(**inputs).trajectory.answer


def test_the_reward_and_the_evaluation_take_both(tmp_path: Path) -> None:
    example = make_example()
    means = {}
    for agent in (NoMemoryAgent("question -> answer"), retrieve_only()):
        agent.set_lm(lm(lambda prompt: chat(answer="Lisbon" if "Lisbon" in prompt else "Oslo"))[0])
        result = evaluate(agent, [example], TrajectoryReward(), log_dir=tmp_path, name=type(agent).__name__)
        means[type(agent)] = {term: result.mean(term) for term in ("answer", "storage", "relevance")}
    assert means[NoMemoryAgent] == {"answer": 0.0, "storage": 0.0, "relevance": 0.0}
    assert means[RetrieveOnlyAgent]["answer"] == 1.0
    assert means[RetrieveOnlyAgent]["storage"] > 0
    assert means[RetrieveOnlyAgent]["relevance"] > 0


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="top_k must be between 1 and 100"):
        retrieve_only(top_k=0)
    with pytest.raises(ConfigurationError, match="max_context_tokens"):
        NoMemoryAgent("question -> answer", max_context_tokens=0)
    for make in (NoMemoryAgent, retrieve_only):
        with pytest.raises(ConfigurationError, match="rename the input 'messages'"):
            make("messages -> answer")
