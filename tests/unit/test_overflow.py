"""The overflow guard: prompts fit, the oldest goes first, what matters stays, and whose doing it was is plain."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, get_args

import dspy
import pytest
from dspy import lm15
from fakes import Reply, answer, call, scripted_lm
from fakes_memory import InMemoryStore
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_dspy.errors import ConfigurationError, ToolError
from agemem_dspy.memory import HashEmbedder, Message, ShortTermMemory
from agemem_dspy.optimizers import TrainerConfig
from agemem_dspy.optimizers.demonstrator import Demonstrator
from agemem_dspy.optimizers.samples import completions, grpo_samples
from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import local_lm
from agemem_dspy.policy.models import load
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.programs.overflow import OnOverflow, OverflowGuard, droppable
from agemem_dspy.programs.session import Session, run
from agemem_dspy.programs.window import as_shown
from agemem_dspy.terms import by_guard
from agemem_dspy.tools import MemoryToolkit
from agemem_dspy.types import Group, Stage, StopReason, ToolEvent, Trajectory

LONG = "the weather was mild and the train was late again today " * 10  # 110 words


class CharacterWindow:
    """A window over characters: a prompt costs 5, and each message its length plus 1."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def count(self, messages: Iterable[Message]) -> int:
        return 5 + sum(len(message.content) + 1 for message in messages)

    def refused(self, tokens: int) -> None:
        self.limit = min(self.limit, tokens * 3 // 4)


def desk(limit: int, mode: OnOverflow = "drop_oldest") -> tuple[OverflowGuard, ShortTermMemory, MemoryToolkit]:
    short = ShortTermMemory(len)
    kit = MemoryToolkit(InMemoryStore(HashEmbedder()), short)
    return OverflowGuard(mode, kit, CharacterWindow(limit)), short, kit  # type: ignore[arg-type]


def writes(text: str) -> Any:
    def summarize(conversation: str) -> Generator[Any, Any, str]:
        yield from ()
        return text

    return summarize


TURNS = st.lists(
    st.tuples(
        st.integers(1, 30),  # the user's message
        st.sampled_from([False, False, False, True]),  # pinned by the user
        st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=3),  # calls and results
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(TURNS, st.integers(10, 200), st.booleans(), st.sampled_from(["drop_oldest", "summarize"]), st.integers(0, 40))
def test_room_is_made_by_the_oldest_and_can_be_taken_back(
    turns: Any, limit: int, refused: bool, mode: OnOverflow, summary: int
) -> None:
    guard, context, kit = desk(limit, mode)
    opening = 0
    for length, pinned, calls in turns:
        opening = context.append(Message(role="user", content="u" * length, pinned=pinned)).id
        for called, result in calls:
            context.append(Message(role="assistant", content="c" * called, kind="call"))
            context.append(Message(role="tool", content="r" * result, kind="result"))
    before = context.messages
    units = droppable(before, opening)
    free = [message for unit in units for message in unit]
    tokens, smallest = guard.window.count(before), guard.window.count(m for m in before if m not in free)
    told = run(guard.make_room(opening, writes("s" * summary), refusal="too long" if refused else None))
    after = context.messages
    if after == before:
        assert kit.events == ()
        assert told == ("too long" if refused else None)
        assert tokens <= limit or not units or (smallest > guard.window.limit and not refused)
        return
    (event,) = kit.events
    assert told is None
    assert event.automatic
    assert (event.tokens_before, event.tokens_after) == (tokens, guard.window.count(after))
    assert event.tokens_after <= max(guard.window.limit, smallest)
    removed = [message for message in before if message not in after]
    assert event.contents == tuple(message.content for message in removed)
    assert removed == free[: len(removed)]  # the oldest, in whole units
    assert len(removed) in [sum(map(len, units[:count])) for count in range(1, len(units) + 1)]
    assert not any(message.pinned or message.id == opening for message in removed)
    assert [m for m in after if m.kind != "summary"] == [m for m in before if m not in removed]
    assert bool(event.detail) == (len(after) > len(before) - len(removed))
    restored = kit.undo_edit()
    assert context.messages == before
    assert (restored.tool, restored.automatic, restored.contents) == ("undo_edit", True, event.contents)


def conversation(guard_mode: OnOverflow = "drop_oldest", limit: int = 60) -> tuple[OverflowGuard, ShortTermMemory, int]:
    """Two former turns of 19 each, and 15 of the one that is being played, beside the prompt's 5: 58 in all."""
    guard, context, _ = desk(limit, guard_mode)
    for text in ("first turn", "other turn"):
        context.append(Message(role="user", content=text))
        context.append(Message(role="assistant", content="ok call", kind="call"))
    opening = context.append(Message(role="user", content="question", kind="question")).id
    context.append(Message(role="assistant", content="ask", kind="call"))
    context.append(Message(role="tool", content="x", kind="result"))
    return guard, context, opening


def test_former_turns_go_whole_then_calls_of_this_one_and_the_last_call_stays() -> None:
    _, context, opening = conversation()
    context.append(Message(role="assistant", content="more", kind="call"))
    units = [[message.content for message in unit] for unit in droppable(context.messages, opening)]
    assert units == [["first turn", "ok call"], ["other turn", "ok call"], ["ask", "x"]]


def test_a_turn_whose_message_was_filtered_away_is_still_this_turn() -> None:
    _, context, opening = conversation()
    context.unpin(opening)
    context.remove([opening])
    context.append(Message(role="assistant", content="more", kind="call"))
    units = [[message.content for message in unit] for unit in droppable(context.messages, opening)]
    assert units == [["first turn", "ok call"], ["other turn", "ok call"], ["ask", "x"]]


def test_room_is_made_to_three_quarters_so_that_the_next_calls_need_none() -> None:
    guard, context, opening = conversation(limit=54)  # without the first turn 39, which is below 40.5
    assert guard.window.count(context.messages) == 58
    assert run(guard.make_room(opening, writes(""))) is None
    assert guard.window.count(context.messages) == 39
    guard, context, opening = conversation(limit=45)  # 39 is above 33.75
    run(guard.make_room(opening, writes("")))
    assert context.texts() == ("question", "ask", "x")


def test_what_fits_is_left_alone() -> None:
    guard, context, opening = conversation(limit=58)
    before = context.messages
    assert run(guard.make_room(opening, writes("s"))) is None
    assert context.messages == before


def test_nothing_is_dropped_in_vain() -> None:
    """Where even the least is too long, the LM decides: the window of a remote one is not known."""
    guard, context, opening = conversation(limit=10)
    before = context.messages
    assert run(guard.make_room(opening, writes("s"))) is None
    assert context.messages == before
    assert run(guard.make_room(opening, writes("s"), refusal="8193 tokens")) is None
    assert context.texts() == ("question", "ask", "x")
    assert run(guard.make_room(opening, writes("s"), refusal="still")) == "still"


def test_error_touches_nothing() -> None:
    guard, context, opening = conversation("error", limit=57)
    before = context.messages
    assert run(guard.make_room(opening, writes("s"))) == (
        "the prompt has 58 tokens, 57 are allowed; clear the context earlier"
    )
    assert run(guard.make_room(opening, writes("s"), refusal="too long")) == "too long"
    assert context.messages == before


@pytest.mark.parametrize(
    ("text", "note"),
    [("", "was empty or could not be read"), ("s" * 40, "was too long"), (None, "give a smaller span")],
)
def test_messages_that_cannot_be_summarized_are_dropped_and_the_log_says_why(text: str | None, note: str) -> None:
    guard, context, opening = conversation("summarize", limit=54)

    def fails(conversation: str) -> Generator[Any, Any, str]:
        yield from ()
        raise ToolError("give a smaller span")

    run(guard.make_room(opening, fails if text is None else writes(text)))
    (event,) = guard.kit.events
    assert context.texts()[0] == "other turn"
    assert (event.observation, event.detail) == ("dropped 2 messages", "")
    assert note in event.notes[0]
    assert guard.kit.undo_edit().contents == ("first turn", "ok call")


# In a conversation


def make(**options: Any) -> AgeMemAgent:
    return AgeMemAgent("question -> answer", memory=InMemoryStore(HashEmbedder()), adapter=CompactAdapter(), **options)


def talk(agent: AgeMemAgent, script: Iterable[Reply], *said: str) -> tuple[Session, list[str]]:
    """Play some turns of one conversation; return it, and the prompts."""
    lm = scripted_lm(script)
    with dspy.context(lm=lm):
        session = agent.session(agent.memory)
        with agent.context():
            for number, text in enumerate(said):
                run(session.turn(Stage.REASON, number, text, must_answer=True))
    return session, lm.engine.prompts


def guards(session: Session) -> list[ToolEvent]:
    return [event for event in session.toolkit.events if by_guard(event)]


def test_a_long_conversation_goes_on_without_its_oldest_turns() -> None:
    agent = make(max_context_tokens=650)
    session, prompts = talk(agent, [answer(f"reply {n}") for n in range(6)], *(f"{n}: {LONG}" for n in range(6)))
    assert session.answer == {"answer": "reply 5"}
    assert session.stop_reason is StopReason.ANSWERED
    assert "5: the weather" in prompts[-1]
    assert "0: the weather" not in prompts[-1]
    assert max(step.prompt_tokens for step in session.steps) <= 650
    first, *_ = guards(session)
    assert first.automatic
    assert first.arguments == {"limit": 650}
    assert first.tokens_before > 650 >= first.tokens_after
    assert first.contents[0] == f"0: {LONG}"
    assert session.trajectory().context_tokens == session.steps[-1].prompt_tokens


def test_a_message_that_the_user_pinned_outlives_its_turn() -> None:
    agent = make(max_context_tokens=650)
    lm = scripted_lm([answer("ok")] * 6)
    with dspy.context(lm=lm), agent.context():
        session = agent.session(agent.memory)
        run(session.turn(Stage.REASON, 0, "Always be brief.", must_answer=True))
        kept = session.context.append(Message(role="user", content="house rule: no nuts"))
        session.context.pin(kept.id)
        for number in range(1, 6):
            run(session.turn(Stage.REASON, number, f"{number}: {LONG}", must_answer=True))
    assert guards(session)
    assert "house rule: no nuts" in lm.engine.prompts[-1]
    assert "Always be brief." not in lm.engine.prompts[-1]


def test_a_summary_by_the_lm_takes_the_place_of_the_oldest() -> None:
    agent = make(max_context_tokens=650, on_overflow="summarize")
    script = [answer("a"), answer("b"), answer("c"), "Mild weather, late train.", answer("d")]
    session, prompts = talk(agent, script, *(f"{n}: {LONG}" for n in range(4)))
    (event,) = guards(session)
    assert event.detail == "summary: Mild weather, late train."
    assert event.observation == f"summarized {len(event.contents)} messages"
    assert event.contents[0] == f"0: {LONG}"
    assert "Shorten the conversation" in prompts[3]
    assert f"user: 0: {LONG}" in prompts[3]
    assert session.context.texts()[0] == event.detail
    assert [step.kind for step in session.steps] == ["act", "act", "act", "guard", "act"]
    assert session.answer == {"answer": "d"}


def test_error_ends_the_turn_before_the_lm_is_asked() -> None:
    agent = make(max_context_tokens=650, on_overflow="error")
    session, prompts = talk(agent, [answer("a"), answer("b"), answer("c")], *(f"{n}: {LONG}" for n in range(4)))
    assert len(prompts) == 3
    assert session.stop_reason is StopReason.CONTEXT_OVERFLOW
    assert session.answer is None
    assert "650 are allowed" in (session.steps[-1].error or "")
    assert not session.steps[-1].parsed
    assert session.toolkit.events == ()


def test_an_lm_whose_window_is_smaller_than_thought_is_asked_again() -> None:
    script: list[Reply] = [answer("a"), lm15.ContextLengthError("9000 tokens exceed 8192"), answer("b"), answer("c")]
    session, prompts = talk(make(), script, *(f"{n}: {LONG}" for n in range(3)))
    assert [f"0: {LONG}" in prompt for prompt in prompts] == [True, True, False, False]
    first, second = guards(session)
    assert "9000 tokens exceed 8192" in first.notes[0]
    assert second.arguments == first.arguments  # what was learnt of the window holds
    assert len([step for step in session.steps if step.kind == "act"]) == 3


def test_the_limit_is_the_budget_or_the_window_less_the_completion(tmp_path: Path) -> None:
    engine = PolicyEngine(load(tiny(tmp_path, 700)))
    for budget, options, expected in ((9000, {}, 572), (9000, {"max_tokens": 50}, 650), (300, {}, 300)):
        agent = make(max_context_tokens=budget)
        agent.set_lm(local_lm(engine).copy(**{"max_tokens": None, **options}))
        assert agent.session(agent.memory).window.limit == expected
    agent.step.config = {"max_tokens": 600}
    assert agent.session(agent.memory).window.limit == 100


@pytest.mark.parametrize("mode", ["drop", "", None])
def test_a_mode_that_does_not_exist_is_refused(mode: Any) -> None:
    with pytest.raises(ConfigurationError, match="on_overflow must be one of drop_oldest, summarize, error"):
        make(on_overflow=mode)
    assert [make(on_overflow=one).on_overflow for one in get_args(OnOverflow)] == ["drop_oldest", "summarize", "error"]


# With a local policy


def tiny(folder: Path, window: int) -> Path:
    texts = [call("add_memory", content="the weather was mild"), answer("x"), LONG]
    return tiny_llama(folder / "tiny", corpus=texts, hidden=32, layers=2, heads=2, vocab_size=320, max_positions=window)


@pytest.mark.parametrize("adapter", [CompactAdapter(), dspy.ChatAdapter(), dspy.JSONAdapter()])
def test_the_count_of_a_prompt_is_the_number_of_its_tokens(tmp_path: Path, adapter: dspy.Adapter) -> None:
    agent = AgeMemAgent("question -> answer", memory=InMemoryStore(HashEmbedder()), adapter=adapter, max_rounds=2)
    agent.memory.add("the train was late")
    agent.step.demos = [{"context": "[user] Hi.", "tool_calls": None, "answer": "Hello.", "reasoning": ""}]
    agent.set_lm(local_lm(PolicyEngine(load(tiny(tmp_path, 8192))), max_tokens=4))
    session = agent.session(agent.memory)
    with agent.context():
        run(session.turn(Stage.REASON, 0, "Was the train late?", recall=True, must_answer=True))
        for step in session.steps:
            assert step.completion is not None
            shown = [Message(**message) for message in step.context]
            assert session.window.count(shown) == len(step.completion.prompt_ids)


def rollouts(folder: Path, mode: OnOverflow, count: int) -> tuple[ThreeStageEpisode, PolicyEngine, list[Trajectory]]:
    """Episodes of an untrained policy whose window is soon full."""
    engine = PolicyEngine(load(tiny(folder, 800)))
    episode = ThreeStageEpisode(make(max_rounds=2, on_overflow=mode))
    episode.set_lm(local_lm(engine, temperature=1.0, max_tokens=8))
    said = [" ".join(LONG.split()[: 30 + n]) for n in range(3)]
    played = [episode(messages=said, distractors=said, question="Was it late?").trajectory for _ in range(count)]
    return episode, engine, played


@pytest.mark.parametrize("mode", ["drop_oldest", "summarize"])
def test_an_episode_with_a_guard_is_trained_on_the_prompts_that_were_served(tmp_path: Path, mode: OnOverflow) -> None:
    episode, engine, played = rollouts(tmp_path, mode, 2)
    session = episode.agent.session(episode.agent.memory)
    taped = completions(Group(task="t", trajectories=tuple(played), rewards=(0.0, 1.0), terms=({}, {})))
    for trajectory, own in zip(played, taped, strict=True):
        assert trajectory.stop_reason is not StopReason.CONTEXT_OVERFLOW
        events = [event for event in trajectory.events if by_guard(event)]
        assert {event.stage for event in events} >= {Stage.CONSTRUCT, Stage.CONTROL}
        acts = [step for step in trajectory.steps if step.kind == "act"]
        written = [step for step in trajectory.steps if step.kind == "guard"]
        assert bool(written) == (mode == "summarize")
        assert [completion for _, completion in own] == [step.completion for step in acts]
        for step in acts:
            assert step.completion is not None
            assert len(step.completion.prompt_ids) + 8 <= engine.context_length
            with episode.agent.context():
                prompt = CompactAdapter().format(
                    episode.agent.step.signature, [], session.window.inputs(Message(**m) for m in step.context)
                )
            assert tuple(engine.render(prompt).tolist()) == step.completion.prompt_ids
    group = Group(task="t", trajectories=tuple(played), rewards=(0.0, 1.0), terms=({}, {}))
    samples = [sample for own_samples in grpo_samples([group], "token") for sample in own_samples]
    assert [tuple(s.prompt_ids.tolist()) for s in samples] == [c.prompt_ids for own in taped for _, c in own]
    found = PolicyTrainer(engine, TrainerConfig(lora_r=2, lora_alpha=2)).logprobs(samples)
    expected = [logprob for sample in samples for logprob in sample.logprobs.tolist()]
    assert found.tolist() == pytest.approx(expected, abs=2e-4)  # of the sampler: the same tokens before each of them


def test_the_demonstrator_keeps_to_the_students_window(tmp_path: Path) -> None:
    episode = ThreeStageEpisode(make())
    episode.set_lm(local_lm(PolicyEngine(load(tiny(tmp_path, 900))), max_tokens=16))
    said = [f"{n}: {' '.join(LONG.split()[:40])}" for n in range(5)]
    operations = [{"turn": n, "tool": "add_memory", "content": f"{n}: {LONG}"[:60]} for n in range(5)]
    example = dspy.Example(
        id="x", messages=said, distractors=[], question="Was it late?", answer="yes", operations=operations
    ).with_inputs("messages", "distractors", "question")
    trajectory = Demonstrator(episode).play(example).trajectory
    assert any(by_guard(event) for event in trajectory.events)
    assert max(step.prompt_tokens for step in trajectory.steps) + 16 <= 900
    assert as_shown(Message(role="user", content=said[-1])) in trajectory.steps[4].context
