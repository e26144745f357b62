"""MemoryToolkit: binds the six operations to one long-term and one short-term memory.

Every call, good or bad, becomes one `ToolEvent` in an append-only log. A call that is malformed or
impossible changes nothing and is answered by an observation that says how to mend it.
Deviations from the paper: 1. the task's question and the message that issued a call are never summarized
or filtered away; 2. ids are shown as short aliases (m1, m2, …); 3. a filter that matches nothing is a failed
call; 4. the paper's tool names and argument spellings are accepted as aliases and noted; 5. a retrieved memory
is one line, whatever it holds (see `memory.fence`); 6. an ADD of what is stored already, word for word, is a failed
call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dspy
from pydantic import ValidationError

from agemem_dspy.errors import (
    ConfigurationError,
    MemoryDuplicate,
    MemoryRejected,
    MemoryStoreError,
    ToolError,
    WorldError,
)
from agemem_dspy.memory.checks import checked_metadata, checked_text
from agemem_dspy.memory.embedder import similarity
from agemem_dspy.memory.fence import fenced
from agemem_dspy.memory.filters import checked_where
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.short_term import Edit, Message, ShortTermMemory, summary_message
from agemem_dspy.signatures import (
    OPERATIONS,
    TOOL_ALIASES,
    MemoryOperation,
    argument_model,
    canonical_call,
    tool_from_signature,
)
from agemem_dspy.types import OVERFLOW_GUARD, UNDO_EDIT, Memory, Provenance, Stage, ToolEvent

READ_TOOLS = frozenset({"retrieve_memory"})


@dataclass(frozen=True, slots=True)
class Invoke:
    """A request to whoever drives the toolkit: call a user's tool, or `Stored`, and send its result back."""

    call: dspy.Tool | Stored
    inputs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """What reaches the long-term store; awaited, it lets the event loop go on meanwhile."""

    store: LongTermMemory
    work: Callable[..., Any]

    def __call__(self, **inputs: Any) -> Any:
        return self.work(**inputs)

    async def acall(self, **inputs: Any) -> Any:
        return await self.store.awaited(partial(self.work, **inputs))


# Writes a summary; a generator, since whoever drives the toolkit makes its LM call.
Summarizer = Callable[[str], Generator[Any, Any, str]]


@dataclass(frozen=True, slots=True)
class _Outcome:
    observation: str
    memory_ids: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    detail: str = ""


class MemoryToolkit:
    """The tools of one episode. Not thread-safe: one episode, one toolkit.

    Args:
        long_term: where add, update, delete and retrieve work.
        short_term: what summarize and filter edit.
        operations: the six signatures whose wording the tools carry; the shipped ones by default.
        tools: further tools of the user's, each with a name of its own.
        filter_threshold: theta_f, the cosine from which a message matches the criteria of a filter.
        log: a toolkit of the same episode whose event log this one writes to; a log of its own when left out.

    `stage`, `turn` and `round` are set by the episode and stamped on every event.

    Raises:
        ConfigurationError: two tools share a name.
    """

    def __init__(
        self,
        long_term: LongTermMemory,
        short_term: ShortTermMemory,
        *,
        operations: Mapping[str, MemoryOperation] | None = None,
        tools: Iterable[dspy.Tool] = (),
        filter_threshold: float = 0.6,
        log: MemoryToolkit | None = None,
    ) -> None:
        self.long_term, self.short_term = long_term, short_term
        self.filter_threshold = filter_threshold
        self.stage, self.turn, self.round = Stage.REASON, 0, 0
        self._events: list[ToolEvent] = [] if log is None else log._events
        self._alias_of: dict[str, str] = {}
        self._id_of: dict[str, str] = {}
        self._source = Provenance(role="user", channel="conversation", trust="trusted")
        if operations is None:
            operations = {name: MemoryOperation(signature) for name, signature in OPERATIONS.items()}
        self._arguments = {name: argument_model(op.signature) for name, op in operations.items()}
        self._own = {name: tool_from_signature(name, op.signature, _driven) for name, op in operations.items()}
        self._users: dict[str, dspy.Tool] = {}
        for tool in tools:
            self.offer(tool)

    @property
    def tools(self) -> list[dspy.Tool]:
        """All tools as `dspy.Tool`s, memory first."""
        return [*self._own.values(), *self._users.values()]

    def offer(self, tool: dspy.Tool) -> None:
        """Add one more tool, from the next step on.

        Raises:
            ConfigurationError: another tool has its name.
        """
        if tool.name.lower() in {*TOOL_ALIASES, OVERFLOW_GUARD, UNDO_EDIT} or tool.name in self._users:
            raise ConfigurationError(f"rename the tool {tool.name!r}: another tool has that name")
        self._users[tool.name] = tool

    def withdraw(self, name: str) -> None:
        """Take back a tool that was offered."""
        del self._users[name]

    @property
    def memory_tools(self) -> frozenset[str]:
        """The names of the six memory tools."""
        return frozenset(self._own)

    @property
    def events(self) -> tuple[ToolEvent, ...]:
        """The log so far, oldest first; it only grows."""
        return tuple(self._events)

    def alias(self, memory: Memory) -> str:
        """Return the short id under which the agent knows a memory."""
        return self._alias(memory.id)

    def _alias(self, memory_id: str) -> str:
        alias = self._alias_of.setdefault(memory_id, f"m{len(self._alias_of) + 1}")
        self._id_of[alias] = memory_id  # anew, when a deleted one was restored
        return alias

    def recall(self, query: str, top_k: int) -> Generator[Any, Any, ToolEvent]:
        """Retrieve on the system's behalf (stage 1), as `run`; the event is marked automatic and earns nothing."""
        before = self.short_term.tokens
        outcome = yield self._request(self._retrieve, query=query, top_k=top_k, where={})
        return self._log("retrieve_memory", {"query": query, "top_k": top_k}, before, outcome, automatic=True)

    def run(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        call_message: int | None = None,
        summarize: Summarizer | None = None,
        notes: tuple[str, ...] = (),
    ) -> Generator[Any, Any, ToolEvent]:
        """Execute one call as a generator: it yields what a driver must do (`Invoke`, LM calls) and returns the event.

        Args:
            name: a tool's name or the paper's name for it.
            arguments: as the policy wrote them.
            call_message: id of the message that issued the call; it cannot be filtered or summarized.
            summarize: writes the summary of a conversation; needed for `summarize_context` alone.
            notes: the parser's remarks, kept on the event.
        """
        before = self.short_term.tokens
        tool, values, renamed = (name, dict(arguments), []) if name in self._users else canonical_call(name, arguments)
        notes = (*notes, *renamed)
        try:
            outcome = yield from self._dispatch(tool, values, summarize, call_message)
        except ToolError as error:
            return self._log(tool, arguments, before, _Outcome(f"error: {error}"), error=str(error), notes=notes)
        return self._log(tool, arguments, before, outcome, notes=notes)

    def reject(self, error: str) -> ToolEvent:
        """Log a step that was not a call at all, and tell the agent."""
        before = self.short_term.tokens
        return self._log("", {}, before, _Outcome(f"error: {error}"), error=error)

    def guarded(self, edit: Edit, *, tokens: tuple[int, int], limit: int, notes: tuple[str, ...] = ()) -> ToolEvent:
        """Log that the system made room in the context; the event is marked automatic and earns nothing.

        Args:
            edit: what was taken out, and the summary that was put in its place, if any.
            tokens: of the prompt before and after.
            limit: which the prompt would have exceeded.
        """
        contents, summary = tuple(m.content for m in edit.removed), edit.added.content if edit.added else ""
        outcome = _Outcome(f"{'summarized' if summary else 'dropped'} {len(contents)} messages", (), contents, summary)
        arguments = {"limit": limit}
        return self._log(OVERFLOW_GUARD, arguments, tokens[0], outcome, after=tokens[1], automatic=True, notes=notes)

    def undo_edit(self) -> ToolEvent:
        """Take back the last change of the context, whoever made it.

        It is a program's or a user's doing, never the policy's, and marked automatic.

        Raises:
            ToolError: nothing was changed since the context was last cleared.
        """
        before = self.short_term.tokens
        contents = tuple(message.content for message in self.short_term.undo().removed)
        outcome = _Outcome(f"put back {len(contents)} messages", (), contents)
        return self._log(UNDO_EDIT, {}, before, outcome, automatic=True)

    def _dispatch(
        self, name: str, arguments: dict[str, Any], summarize: Summarizer | None, call_message: int | None
    ) -> Generator[Any, Any, _Outcome]:
        if name in self._users:
            return (yield from self._invoke(self._users[name], arguments))
        if name not in self._own:
            raise ToolError(f"there is no tool {name!r}; use one of {', '.join(t.name for t in self.tools)}")
        try:
            values: Any = self._arguments[name].model_validate(arguments)
        except ValidationError as error:
            first = error.errors()[0]
            where, takes = ".".join(str(part) for part in first["loc"]), ", ".join(self._own[name].args)
            raise ToolError(f"{name}: argument {where!r}: {first['msg'].lower()}; it takes {takes}") from error
        match name:
            case "summarize_context":
                return (yield from self._summarize(values.span, summarize, call_message))
            case "filter_context":
                filtered: _Outcome = yield self._request(
                    self._filter, criteria=values.criteria, call_message=call_message
                )
                return filtered
        try:
            outcome: _Outcome = yield self._request(self._long_term, name=name, values=values)
        except MemoryRejected as error:  # what a guard refuses is the policy's mistake, a guard that fails is not
            raise ToolError(f"{name}: {error}") from error
        return outcome

    def _request(self, work: Callable[..., Any], **inputs: Any) -> Invoke:
        return Invoke(Stored(self.long_term, work), inputs)

    def _long_term(self, name: str, values: Any) -> _Outcome:
        store = self.long_term
        match name:
            case "add_memory":
                kind = _text(values.memory_type, "memory_type")
                content, labels = _text(values.content, "content"), _labels(values.metadata)
                try:
                    added = store.add(content, labels, kind, by=self._maker(name), unique=True)
                except MemoryDuplicate as error:
                    there = f", as {self._alias(error.id)}" if error.id else ""
                    raise ToolError(f"nothing was added: that is stored already{there}") from error
                return _Outcome(f"added {self.alias(added)}", (added.id,), (added.content,))
            case "update_memory":
                old = self._stored(values.memory_id)
                content, labels = _text(values.content, "content"), _labels(values.metadata)
                new = store.update(old.id, content, labels, by=self._maker(name))
                return _Outcome(f"updated {self.alias(new)}", (new.id,), (new.content,), old.content)
            case "delete_memory":
                gone = self._stored(values.memory_id)
                if not values.confirmation:
                    raise ToolError("nothing was deleted: set confirmation to true to delete")
                store.delete(gone.id, by=self._maker(name))
                del self._id_of[values.memory_id]
                return _Outcome(f"deleted {values.memory_id}", (gone.id,), (gone.content,), gone.content)
            case _:
                if not 1 <= values.top_k <= 100:
                    raise ToolError("top_k must be between 1 and 100")
                where = _admitted(checked_where, values.metadata_filter)
                return self._retrieve(_text(values.query, "query"), values.top_k, where)

    def _maker(self, tool: str) -> dict[str, Any]:
        """Return what an entry's history says of a change: the tool, where it was called, what was said before it."""
        told = (m.content for m in reversed(self.short_term.messages) if m.kind in ("message", "question"))
        said = next(told, "").replace("\x00", "").encode(errors="ignore").decode()
        where = {"tool": tool, "stage": int(self.stage), "turn": self.turn, "round": self.round, "said": said}
        return {**where, **self._source.by()}

    def _retrieve(self, query: str, top_k: int, where: Mapping[str, Any]) -> _Outcome:
        found = self.long_term.search(query, top_k=top_k, where=dict(where) or None)
        for memory in found:
            if memory.provenance.trust == "untrusted":
                self._source = replace(memory.provenance, channel="memory")
        lines = [f"{self.alias(memory)}: {fenced(memory.content)}" for memory in found]
        text = "\n".join(lines) if lines else "no memories found"
        return _Outcome(text, tuple(m.id for m in found), tuple(m.content for m in found))

    def _stored(self, alias: str) -> Memory:
        try:
            return self.long_term.get(self._id_of[alias])
        except KeyError as error:  # never shown, or removed since
            known = ", ".join(list(self._id_of)[-10:]) or "none yet: add or retrieve first"
            raise ToolError(f"there is no memory {alias!r}; known ids: {known}") from error

    def _removable(self, call_message: int | None) -> list[Message]:
        return [m for m in self.short_term.messages if not m.pinned and m.id != call_message]

    def _summarize(
        self, span: str, summarize: Summarizer | None, call_message: int | None
    ) -> Generator[Any, Any, _Outcome]:
        messages = self._removable(call_message)
        if span != "all":
            if not re.fullmatch(r"0*[1-9][0-9]{0,8}", span, re.ASCII):
                raise ToolError('span must be "all" or a number of messages, such as "3"')
            messages = messages[-int(span) :]
        if not messages:
            raise ToolError("there is nothing to summarize")
        conversation = "\n".join(f"{m.role}: {m.content}" for m in messages)
        if summarize is None:
            raise ConfigurationError("summarize_context needs an LM call: pass summarize= to MemoryToolkit.run")
        summary = yield from summarize(conversation)
        if not summary:
            raise ToolError("the summary was empty; nothing was replaced")
        self.short_term.replace([m.id for m in messages], summary_message(summary))
        return _Outcome(f"summarized {len(messages)} messages", (), tuple(m.content for m in messages), summary)

    def _filter(self, criteria: str, call_message: int | None) -> _Outcome:
        messages = self._removable(call_message)
        criteria = _text(criteria, "criteria")
        scores = similarity(self.long_term.embedder, criteria, [m.content for m in messages]).tolist()
        matching = [m for m, score in zip(messages, scores, strict=True) if score >= self.filter_threshold]
        if not matching:
            raise ToolError("no message matches the criteria; nothing was removed")
        self.short_term.remove([m.id for m in matching])
        return _Outcome(f"removed {len(matching)} messages", (), tuple(m.content for m in matching))

    def _invoke(self, tool: dspy.Tool, arguments: dict[str, Any]) -> Generator[Any, Any, _Outcome]:
        # What the agent writes from now on may be the tool's words: nobody vouches for them.
        self._source = Provenance(role="tool", channel=f"tool {tool.name}", trust="untrusted")
        try:
            result = yield Invoke(tool, arguments)
            return _Outcome(result if isinstance(result, str) else json.dumps(result, default=str, ensure_ascii=False))
        except (ToolError, WorldError):  # the policy's mistake in the tool's own words; a world's failure is ours
            raise
        except Exception as error:  # a user's tool may raise anything; the agent is told
            raise ToolError(f"{tool.name} failed: {error}") from error

    def _log(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        before: int,
        outcome: _Outcome,
        *,
        after: int | None = None,
        error: str | None = None,
        automatic: bool = False,
        notes: tuple[str, ...] = (),
    ) -> ToolEvent:
        event = ToolEvent(
            index=len(self._events),
            stage=self.stage,
            turn=self.turn,
            round=self.round,
            tool=tool,
            arguments=dict(arguments),
            ok=error is None,
            observation=outcome.observation,
            error=error,
            memory_ids=outcome.memory_ids,
            contents=outcome.contents,
            detail=outcome.detail,
            tokens_before=before,
            tokens_after=self.short_term.tokens if after is None else after,
            automatic=automatic,
            notes=notes,
        )
        self._events.append(event)
        return event


def _admitted(check: Callable[..., Any], *arguments: Any) -> Any:
    """Run a store's check of its input now, where a refusal is the policy's mistake."""
    try:
        return check(*arguments)
    except MemoryStoreError as error:
        raise ToolError(str(error)) from error


def _text(value: str, argument: str) -> str:
    return str(_admitted(checked_text, value, argument)).strip()


def _labels(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_admitted(checked_metadata, metadata))


def _driven(**arguments: Any) -> Any:
    raise ConfigurationError("memory tools act on an episode: call them through MemoryToolkit.run")
