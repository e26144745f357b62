"""The langmem package itself as a rival: its memory manager over our store, with DSPy's LM behind it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Optional

import dspy
from dspy.utils.exceptions import AdapterParseError, ContextWindowExceededError

from agemem_dspy.errors import MissingDependency
from agemem_dspy.policy.recorder import record
from agemem_dspy.programs.rivals.manager import ManagerSession
from agemem_dspy.programs.rivals.schema_manager import MemoryChanges, Replacement, SchemaManagerAgent
from agemem_dspy.programs.session import Play, first_line
from agemem_dspy.signatures import Transcript


class CallTools(dspy.Signature):
    """Follow the instructions in the conversation by calling tools, all of them at once."""

    context: Transcript = dspy.InputField(desc="instructions and conversation")
    tools: list[dspy.Tool] = dspy.InputField()
    reasoning: str = dspy.OutputField(desc="brief", default="")
    tool_calls: dspy.ToolCalls = dspy.OutputField(desc="calls to make", default=dspy.ToolCalls(tool_calls=[]))
    answer: Optional[str] = dspy.OutputField(desc="only when no tool is to be called", default=None)  # noqa: UP045


class LangMemAgent(SchemaManagerAgent):
    """Hands stretches of the conversation to langmem's manager, and carries out what it returns.

    Its LM calls are synchronous, also in `aforward`, and go through DSPy's adapter, so that any LM can make them. It
    cannot be saved into a folder.

    Args:
        options: see `SchemaManagerAgent`.

    Raises:
        MissingDependency: langmem is not installed.
    """

    def __init__(self, signature: str | type[dspy.Signature], **options: Any) -> None:
        super().__init__(signature, **options)
        if find_spec("langmem") is None:
            raise MissingDependency('the langmem rival needs langmem; run: pip install "agemem-dspy[langmem]"')
        self.manage = dspy.Predict(CallTools)

    def _changes(self, manager: ManagerSession, conversation: Sequence[str], memories: dict[str, str]) -> Play:
        yield from ()  # langmem calls the LM itself
        from langmem import create_memory_manager
        from langmem.knowledge.extraction import Memory

        chat = _chat_model(self.manage, manager)
        known = create_memory_manager(chat, enable_inserts=True, enable_updates=True, enable_deletes=True).invoke(
            {
                "messages": [{"role": "user", "content": text} for text in conversation],
                "existing": [(alias, Memory(content=content)) for alias, content in memories.items()],
            }
        )
        changes = MemoryChanges()
        for one in known:
            if one.id not in memories:
                if isinstance(one.content, Memory):
                    changes.inserts.append(one.content.content)
            elif not isinstance(one.content, Memory):
                changes.deletes.append(one.id)
            elif one.content.content != memories[one.id]:
                changes.updates.append(Replacement(memory_id=one.id, content=one.content.content))
        return changes


def _chat_model(predictor: dspy.Predict, manager: ManagerSession) -> Any:
    """Return LangChain's face of a predictor that calls tools."""
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.utils.function_calling import convert_to_openai_tool
    from langchain_core.utils.json_schema import dereference_refs

    class ChatModel(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "dspy"

        def bind_tools(self, tools: Sequence[Any], **options: Any) -> Any:
            return self.bind(tools=[convert_to_openai_tool(tool)["function"] for tool in tools])

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any) -> ChatResult:
            shown = [{"role": _ROLES[m.type], "kind": "message", "content": str(m.content)} for m in messages]
            offered = [_tool(dereference_refs(schema)) for schema in options.get("tools", ())]
            calls, error = [], None
            with record() as tape:
                try:
                    found = predictor(context=Transcript(messages=shown), tools=offered)
                    calls = [
                        {"name": c.name, "args": c.args, "id": uuid.uuid4().hex} for c in found.tool_calls.tool_calls
                    ]
                except (AdapterParseError, ContextWindowExceededError) as failure:
                    error = first_line(failure)
            text = "\n".join(message["content"] for message in shown)
            manager.record(text, {"calls": calls or None}, error, tape.completions)
            return ChatResult(generations=[ChatGeneration(message=AIMessage(content="", tool_calls=calls))])

    return ChatModel()


_ROLES = {"human": "user", "system": "user", "ai": "assistant", "tool": "tool"}


def _tool(schema: dict[str, Any]) -> dspy.Tool:
    arguments = schema.get("parameters", {}).get("properties", {})
    return dspy.Tool(_called_by_langmem, name=schema["name"], desc=schema.get("description", ""), args=arguments)


def _called_by_langmem(**_: Any) -> None:
    raise NotImplementedError("langmem carries out its own tools")
