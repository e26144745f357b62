"""`agemem chat`: talk to an agent whose memory outlives the conversation."""

from __future__ import annotations

import contextlib
import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from agemem_dspy.cli.guard import guard_events, guard_json, guard_line
from agemem_dspy.cli.memory import DEFAULT_WHERE, EmbedderOption, UserOption, WhereOption, open_memory, show_memories
from agemem_dspy.cli.models import ModelOption, model_errors
from agemem_dspy.cli.output import JsonFlag, Output, keeping, output
from agemem_dspy.cli.program import (
    ProgramOption,
    RoundsOption,
    TemperatureOption,
    TokensOption,
    TrustOption,
    chosen_program,
)
from agemem_dspy.errors import ConfigurationError, MemoryNotFound, MemoryStoreError
from agemem_dspy.types import OVERFLOW_GUARD

if TYPE_CHECKING:
    from agemem_dspy.memory.long_term import LongTermMemory
    from agemem_dspy.programs.agent import AgeMemAgent
    from agemem_dspy.types import Memory, ToolEvent

EXAMPLE = "Example: agemem chat --model openai/gpt-4o-mini --where memories/ --user ana"
COMMANDS = (
    "/memory lists what is remembered, /undo takes back what the last turn changed, /expire ID [TIME] lets a memory "
    "end, /quit ends"
)

# What a tool did, in the words of the display: (name of the list, how its line begins).
DEEDS = {
    "add_memory": ("stored", "+ stored"),
    "update_memory": ("changed", "~ changed"),
    "delete_memory": ("forgotten", "- forgot"),
    "retrieve_memory": ("retrieved", "? retrieved"),
}


CHANGES = ("add_memory", "update_memory", "delete_memory")
EDITS = ("filter_context", "summarize_context", OVERFLOW_GUARD)


def chat(
    model: ModelOption = None,
    where: WhereOption = DEFAULT_WHERE,
    user: UserOption = "default",
    embedder: EmbedderOption = None,
    program: ProgramOption = None,
    trust_code: TrustOption = False,
    max_rounds: RoundsOption = None,
    max_tokens: TokensOption = None,
    temperature: TemperatureOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Talk to an agent; after each turn see what it stored, changed, forgot and retrieved.

    Lines are read from the terminal or from a pipe. /memory lists what is remembered, /undo takes back what the last
    turn changed, /expire ID [TIME] lets a memory end at a time or now, /quit ends. What expires meanwhile is said.
    Where the conversation no longer fits the model, its oldest part is dropped, and said so.
    With --json every turn is one JSON object on a line.
    """
    with output(as_json) as out:
        player = chosen_program(
            model=model,
            program=program,
            trust_code=trust_code,
            max_rounds=max_rounds,
            max_tokens=max_tokens,
            temperature=temperature,
        )
        if not hasattr(player, "agent"):
            raise ConfigurationError(
                f"the program in {program} is a baseline, which keeps no memory; chat needs an agent"
            )
        kept = f"the conversation is over; its memories are kept in {where}"
        with open_memory(where, user, embedder, create=True) as memory, keeping(kept):
            out.note(f"{memory.count()} memories of {user!r} in {where}; {COMMANDS}")
            _Conversation(player.agent, memory, out).hold(_lines(out))


class _Conversation:
    """Turns of one agent over one store; a context in which nothing makes room any more begins anew."""

    def __init__(self, agent: AgeMemAgent, memory: LongTermMemory, out: Output) -> None:
        self.agent, self.memory, self.out = agent, memory, out
        self.session = agent.session(memory)
        self.turns = 0
        self.changed: list[str] = []  # the memories that the last turn changed, in order
        self.edits = 0  # how often the last turn removed messages from the context
        self.ending = {one.id: one.expires_at for one in memory.all() if one.expires_at}  # what will expire

    def hold(self, lines: Iterable[str]) -> None:
        """Answer every line until there is none or /quit."""
        for line in lines:
            text = line.strip()
            if text == "/quit":
                return
            self._tell_expired()
            if text == "/memory":
                self._list()
            elif text == "/undo":
                self._undo()
            elif text.split()[:1] == ["/expire"]:
                self._expire(*text.split()[1:])
            elif text.startswith("/"):
                self.out.note(f"there is no command {text.split()[0]}; {COMMANDS}")
            elif text:
                self._answer(text)

    def _list(self) -> None:
        memories = self.memory.all()
        show_memories(self.out, memories)
        if not memories:
            self.out.say("nothing is remembered")
        self.out.result({"memories": [{"id": m.id, "content": m.content} for m in memories]})

    def _undo(self) -> None:
        undone = []
        for memory_id, changes in reversed(Counter(self.changed).items()):
            memory = self.memory.undo(memory_id, changes=changes, by={"tool": "/undo"})
            self._note_end(memory_id, memory)
            content = None if memory is None else memory.content
            undone.append({"id": memory_id, "content": content})
            self.out.say(f"  < undone: {content or 'it is no longer remembered'}", "dim")
        restored = [content for _ in range(self.edits) for content in self.session.toolkit.undo_edit().contents]
        for content in restored:
            self.out.say(f"  < back in the conversation: {content}", "dim")
        if not undone and not restored:
            self.out.say("the last turn changed nothing")
        self.changed, self.edits = [], 0
        self.out.result({"undone": undone, "restored": restored})

    def _expire(self, start: str = "", moment: str = "", *more: str) -> None:
        """Let the memory whose id begins so end at a time, now when none is given; `/undo` takes it back."""
        from agemem_dspy.memory.checks import now

        try:
            known = [one for one in self.memory.all() if start and one.id.startswith(start)]
            if len(known) != 1 or more:
                raise MemoryStoreError("say /expire ID or /expire ID TIME, with an id as /memory lists it")
            [memory] = known
            by = {"tool": "/expire", **memory.provenance.by()}
            memory = self.memory.update(memory.id, memory.content, expires_at=moment or now(), by=by)
        except MemoryStoreError as error:
            self.out.note(f"error: {error}")
            self.out.result({"error": str(error)})
            return
        self.changed, self.edits = [memory.id], 0
        self._note_end(memory.id, memory)
        self.out.say(f"  ~ until {memory.expires_at}: {memory.content}", "dim")
        self.out.result({"ends": {"id": memory.id, "content": memory.content, "expires_at": memory.expires_at}})
        self._tell_expired()

    def _note_end(self, memory_id: str, memory: Memory | None) -> None:
        """Remember when a memory that was changed will expire, or that it will not."""
        self.ending.pop(memory_id, None)
        if memory is not None and memory.expires_at:
            self.ending[memory_id] = memory.expires_at

    def _tell_expired(self) -> None:
        """Say what has expired since the last line, as it was at the end."""
        from agemem_dspy.memory.checks import now

        gone = []
        for memory_id in [one for one, moment in self.ending.items() if moment <= now()]:
            del self.ending[memory_id]
            with contextlib.suppress(MemoryNotFound):  # purged meanwhile
                last = self.memory.history(memory_id)[-1]
                if last.live:
                    gone.append({"id": memory_id, "content": last.content})
                    self.out.say(f"  × expired: {last.content}", "dim")
        if gone:
            self.out.result({"expired": gone})

    def _answer(self, text: str) -> None:
        from agemem_dspy.programs.session import run
        from agemem_dspy.types import Stage, StopReason

        self.turns += 1
        seen = len(self.session.toolkit.events)
        try:
            with self.agent.context(), model_errors():
                run(self.session.turn(Stage.REASON, self.turns, text, recall=True, must_answer=True))
        except MemoryStoreError as error:  # this line cannot be searched or stored; the next one may
            self.out.note(f"error: {error}")
            self.out.result({"turn": self.turns, "message": text, "error": str(error)})
            return
        finally:
            events = self.session.toolkit.events[seen:]
            self.changed = [event.memory_ids[0] for event in events if event.ok and event.tool in CHANGES]
            self.edits = sum(event.ok and event.tool in EDITS for event in events)
        answer = self.session.answer or {}
        deeds, guarded = describe_deeds(events), guard_events(events)
        for event in guarded:
            self.out.say(f"  / {guard_line(event)}", "dim")
        for kind, begins in (*DEEDS.values(), ("failed", "! failed")):
            for entry in deeds[kind]:
                was = f"   (was: {entry['was']})" if entry.get("was") else ""
                self.out.say(f"  {begins}: {entry['content']}{was}", "red" if kind == "failed" else "dim")
        for name, value in answer.items():
            self.out.say(f"agent> {value}" if len(answer) == 1 else f"agent> {name}: {value}", "bold")
        if not answer:
            self.out.say(f"agent> (no answer: {self.session.stop_reason.value.replace('_', ' ')})", "yellow")
        deeds["guard"] = [guard_json(event) for event in guarded]
        self.out.result({"turn": self.turns, "message": text, "answer": answer or None, **deeds})
        if self.session.stop_reason is StopReason.CONTEXT_OVERFLOW:
            self.out.note("the conversation no longer fits the model; it begins anew, the memories stay")
            self.session, self.edits = self.agent.session(self.memory), 0


def describe_deeds(events: Iterable[ToolEvent]) -> dict[str, list[dict[str, Any]]]:
    """Sort a turn's events into stored, changed, forgotten, retrieved and failed; the contents of each.

    A memory that was retrieved twice in a turn is named once; filter and summarize touch no memory.
    """
    deeds: dict[str, list[dict[str, Any]]] = {name: [] for name, _ in (*DEEDS.values(), ("failed", ""))}
    for event in events:
        if not event.ok:
            deeds["failed"].append({"tool": event.tool, "content": event.error or ""})
        elif event.tool in DEEDS:
            name = DEEDS[event.tool][0]
            for memory_id, content in zip(event.memory_ids, event.contents, strict=True):
                entry = {"id": memory_id, "content": content}
                if event.tool == "update_memory":
                    entry["was"] = event.detail
                if entry not in deeds[name]:
                    deeds[name].append(entry)
    return deeds


def _lines(out: Output) -> Iterator[str]:
    """Yield what the user types, with a prompt where a person sits, until the input ends."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a stray byte in a pipe is no reason to lose a conversation
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):  # absent on Windows
        import readline  # noqa: F401 - gives input() its arrow keys and history
    while True:
        try:
            yield out.notes.input("you> ")
        except EOFError:
            return
