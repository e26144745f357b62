"""Small real parts for tests of programs and policies: an LM that answers from a script, an embedder that counts.

Memory backends have fakes of their own in `fakes_memory.py` and `fakes_qdrant.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import dspy
import numpy as np
from dspy import lm15
from numpy.typing import NDArray

from agemem_dspy.memory import HashEmbedder
from agemem_dspy.policy.compact import render_step

# What an LM may do when asked: write a text, call tools natively [(name, arguments), …], or fail.
Reply = str | list[tuple[str, dict[str, Any]]] | Exception


class ScriptedEngine:
    """A DSPy engine that gives prepared replies in order, or asks a function of the prompt for each.

    `prompts` holds what was asked, one text a call; `requests` the requests themselves.
    """

    def __init__(self, replies: Iterable[Reply] | Callable[[str], Reply], *, native_tools: bool = False) -> None:
        self._reply = replies if callable(replies) else _in_order(iter(replies))
        self.supports_function_calling = native_tools
        self.requests: list[lm15.Request] = []
        self.prompts: list[str] = []
        self._lock = threading.Lock()

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Give the next reply."""
        system = request.system if isinstance(request.system, str) else "".join(p.text for p in request.system or ())
        prompt = "\n".join([system, *(message.text or "" for message in request.messages)])
        with self._lock:
            self.requests.append(request)
            self.prompts.append(prompt)
            reply = self._reply(prompt)
        if isinstance(reply, Exception):
            raise reply
        parts: list[Any] = [lm15.TextPart(reply)] if isinstance(reply, str) else []
        if not isinstance(reply, str):
            parts = [lm15.ToolCallPart(id=f"call{i}", name=name, input=args) for i, (name, args) in enumerate(reply)]
        return lm15.Response(
            id=None,
            model=request.model,
            message=lm15.Message.assistant(parts),
            finish_reason="stop" if isinstance(reply, str) else "tool_call",
            usage=lm15.Usage(input_tokens=1, output_tokens=1, total_tokens=2),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> ScriptedEngine:
        return self


class AsyncScriptedEngine:
    """The awaited face of a `ScriptedEngine`."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine

    async def complete(self, request: lm15.Request) -> lm15.Response:
        """Give the next reply."""
        return self.engine.complete(request)

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncScriptedEngine:
        return self


def scripted_lm(replies: Iterable[Reply] | Callable[[str], Reply], *, native_tools: bool = False) -> dspy.LM:
    """Return an LM that answers from a script; its `engine.prompts` are what it was asked."""
    engine = ScriptedEngine(replies, native_tools=native_tools)
    return dspy.LM("scripted/lm", engine=engine, async_engine=AsyncScriptedEngine(engine), cache=False, num_retries=0)


def _in_order(replies: Iterator[Reply]) -> Callable[[str], Reply]:
    def following(prompt: str) -> Reply:
        for reply in replies:
            return reply
        raise AssertionError(f"the script has no reply left for:\n{prompt}")

    return following


def calls(*named: tuple[str, Mapping[str, Any]], think: str = "") -> str:
    """Write a step of tool calls in the compact format."""
    return render_step(think, [{"name": name, "arguments": arguments} for name, arguments in named], None)


def call(tool: str, **arguments: Any) -> str:
    """Write a step of one tool call in the compact format."""
    return calls((tool, arguments))


def answer(text: str) -> str:
    """Write an answer in the compact format."""
    return render_step("", [], {"answer": text})


class CountingEmbedder:
    """A `HashEmbedder` that keeps each batch it was asked for."""

    def __init__(self) -> None:
        self.inner = HashEmbedder()
        self.name, self.dimension = self.inner.name, self.inner.dimension
        self.batches: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the hashed rows, (n, dimension)."""
        self.batches.append(list(texts))
        return self.inner.embed(texts)


class AngleEmbedder:
    """Reads a text's direction from its first word, in degrees: "60 small talk" has the cosine 0.5 with "0 it"."""

    name = "angles"
    dimension = 2

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, (n, 2)."""
        radians = np.deg2rad([float(text.split()[0]) for text in texts])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
