"""The replaceable parts of a program as JSON: its adapter, its embedder, the user's tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.cached_embedder import CachedEmbedder
from agemem_dspy.memory.embedder import HashEmbedder
from agemem_dspy.memory.embedder_names import as_embedder, is_named
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.programs.import_path import path_of, resolve
from agemem_dspy.types import Embedder

_ADAPTERS: Mapping[str, tuple[Any, tuple[str, ...]]] = {
    "CompactAdapter": (CompactAdapter, ()),
    "ChatAdapter": (
        dspy.ChatAdapter,
        ("use_native_function_calling", "use_json_adapter_fallback", "parallel_tool_calls"),
    ),
    "JSONAdapter": (dspy.JSONAdapter, ("use_native_function_calling", "parallel_tool_calls")),
}


def dump_adapter(adapter: dspy.Adapter) -> dict[str, Any]:
    """Return an adapter by name with its options.

    Raises:
        ConfigurationError: an adapter that is not known here, or an option that cannot be saved.
    """
    name = type(adapter).__name__
    known, options = _ADAPTERS.get(name, (None, ()))
    if type(adapter) is not known:
        raise ConfigurationError(f"the adapter {name} cannot be saved; use one of {', '.join(_ADAPTERS)}")
    if known is not CompactAdapter and adapter.native_response_types != known().native_response_types:
        raise ConfigurationError(f"the native_response_types of a {name} cannot be saved; leave them at their default")
    return {"name": name, "options": {option: getattr(adapter, option) for option in options}}


def load_adapter(state: Mapping[str, Any]) -> dspy.Adapter:
    """Return the adapter that `dump_adapter` described."""
    known, options = _ADAPTERS[state["name"]]
    return known(**{option: state["options"][option] for option in options})


def dump_embedder(embedder: Embedder | None) -> dict[str, Any] | None:
    """Return an embedder by name, None for the default one."""
    from agemem_dspy.memory.minilm import MiniLMEmbedder

    inner = embedder.inner if isinstance(embedder, CachedEmbedder) else embedder
    if inner is None or isinstance(inner, MiniLMEmbedder):
        return None
    dimension = inner.dimension if isinstance(inner, HashEmbedder) else None
    return {"name": inner.name, "hash_dimension": dimension, "by_name": is_named(inner)}


def load_embedder(state: Mapping[str, Any] | None) -> Embedder | None:
    """Return the embedder that `dump_embedder` described, None for the default one.

    Raises:
        ConfigurationError: it is none of the default one, a `HashEmbedder` and one that was made by its name.
        MemoryStoreError, MissingDependency, ModelError: it cannot be made by its name here; see `as_embedder`.
    """
    if state is None:
        return None
    if state.get("by_name"):
        return as_embedder(state["name"])
    if state["hash_dimension"] is None:
        raise ConfigurationError(
            f"the program was saved with the embedder {state['name']!r}, which only you can make; pass "
            "memory=LongTermMemory.open(…, embedder=…) with it"
        )
    return HashEmbedder(state["hash_dimension"])


def dump_tool(tool: dspy.Tool) -> dict[str, Any]:
    """Return a user's tool as the import path of its function and what the model is told of it.

    Raises:
        ConfigurationError: another process could not import the function.
    """
    path = path_of(tool.func)
    if path is None:
        raise ConfigurationError(
            f"the tool {tool.name!r} cannot be saved: its function is defined in a script, a notebook or another "
            "function, or is no function; move it to the top level of a module and import it"
        )
    return {"path": path, "name": tool.name, "desc": tool.desc, "args": tool.args, "arg_desc": tool.arg_desc}


def load_tool(state: Mapping[str, Any], *, trust_code: bool) -> dspy.Tool:
    """Return the tool that `dump_tool` described.

    Raises:
        ConfigurationError: code of the folder's choosing may not be called, or is not there.
    """
    if not trust_code:
        raise ConfigurationError(
            f"the program has the tool {state['name']!r}, which calls {state['path']!r}; pass trust_code=True if you "
            "trust the folder"
        )
    func = resolve(state["path"], what=f"the tool {state['name']!r}", trust_code=True)
    return dspy.Tool(func, name=state["name"], desc=state["desc"], args=state["args"], arg_desc=state["arg_desc"])
