"""What decides how a program plays, as JSON: rows and weights of an earlier run are used again by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import dspy
from dspy.predict.predict import serialize_object

from agemem_dspy.programs.component_state import dump_embedder
from agemem_dspy.programs.program import Program
from agemem_dspy.signatures import MemoryOperation

_SECRETS = ("api_key", "api_secret", "token", "headers", "extra_headers")


def describe_program(program: dspy.Module) -> dict[str, Any]:
    """Return what each module of a program is made of, by its path; two programs that play alike are described alike.

    Where a module has no LM or adapter of its own, DSPy's configured one is described.
    """
    return {path: _describe_module(module) for path, module in program.named_sub_modules()}


def describe_lm(lm: Any) -> dict[str, Any] | None:
    """Return an LM's name and options, None for no LM; of one in this process also the digests of its weights."""
    if lm is None:
        return None
    options = {key: value for key, value in getattr(lm, "kwargs", {}).items() if key not in _SECRETS}
    described = {"model": getattr(lm, "model", type(lm).__qualname__), "options": options}
    digests = getattr(getattr(lm, "engine", None), "weights_sha256", None)  # a PolicyEngine; nothing here loads torch
    return described if digests is None else {**described, "weights": digests(lm.model)}


def describe_adapter(adapter: dspy.Adapter | None) -> dict[str, Any]:
    """Return an adapter's type and settings."""
    return {"type": type(adapter).__qualname__, **(_settings(adapter) if adapter is not None else {})}


def _describe_module(module: Any) -> dict[str, Any]:
    described: dict[str, Any] = {"type": type(module).__qualname__}
    if isinstance(module, dspy.Predict):  # its other attributes hold a random stage name and past traces
        return described | {
            "signature": module.signature.dump_state(),
            "types": {field: str(info.annotation) for field, info in module.signature.fields.items()},
            "config": module.config,
            "demos": [{key: serialize_object(value) for key, value in demo.items()} for demo in module.demos],
            "lm": describe_lm(module.lm or dspy.settings.lm),
        }
    if isinstance(module, Program):
        memory = getattr(module, "_memory", None)
        embedder = dump_embedder(getattr(module if memory is None else memory, "embedder", None))
        described["embedder"] = embedder and embedder["name"]
    if hasattr(module, "adapter"):
        described["adapter"] = describe_adapter(module.adapter or dspy.settings.adapter)
    parts = {name: _parts(value) for name, value in vars(module).items() if not name.startswith("_")}
    return described | _settings(module) | {name: part for name, part in parts.items() if part}


def _settings(one: Any) -> dict[str, Any]:
    """Return the public attributes that are plain values or configurations."""
    return {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in vars(one).items()
        if not name.startswith("_") and (isinstance(value, str | int | float | bool | tuple) or is_dataclass(value))
    }


def _parts(value: Any) -> Any:
    """Return what is told of the tools and operations that an attribute holds, None or nothing where it holds none."""
    if isinstance(value, Mapping):
        return {str(name): told for name, one in value.items() if (told := _told(one)) is not None}
    if isinstance(value, list | tuple):
        return [told for one in value if (told := _told(one)) is not None]
    return _told(value)


def _told(value: Any) -> dict[str, Any] | None:
    """Return what the model is told of a tool or an operation, None for anything else."""
    if isinstance(value, dspy.Tool):
        return {"name": value.name, "desc": value.desc, "args": value.args}
    return value.dump_state() if isinstance(value, MemoryOperation) else None
