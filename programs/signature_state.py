"""A task's signature as JSON: its fields where their types are plain, else the import path of its class."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

import dspy
from dspy.signatures.signature import make_signature
from pydantic_core import PydanticUndefined

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.programs.import_path import path_of, resolve

_PLAIN: Mapping[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "bytes": bytes,
    "list": list,
    "dict": dict,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "None": type(None),
    "Any": Any,
    "...": ...,
}
_TYPING = ("List", "Dict", "Tuple", "Set", "FrozenSet")  # kept apart from list, dict…: adapters may print them apart


class _NotPlain(Exception):
    """A type that is no builtin and no generic of builtins."""


def dump_signature(signature: type[dspy.Signature]) -> dict[str, Any]:
    """Return a signature as JSON.

    Raises:
        ConfigurationError: a type is not plain and the class cannot be imported by another process.
    """
    state: dict[str, Any] = {
        "name": signature.__name__,
        "instructions": signature.instructions,
        "fields": [],
    }
    culprit = ""
    try:
        for name, info in signature.fields.items():
            culprit = name
            field = {"name": name, "type": _dump_type(info.annotation), "extra": dict(info.json_schema_extra)}
            if not info.is_required():
                field["default"] = info.default
            state["fields"].append(field)
        state = json.loads(json.dumps(state))
        rebuilt = _build(state)
        same = {name for name, info in signature.fields.items() if repr(info) == repr(rebuilt.fields[name])}
        culprit = next((name for name in signature.fields if name not in same), "")
        if not culprit:
            return state
    except (_NotPlain, TypeError, ValueError):
        pass  # JSON cannot hold the field, so the class itself is needed: its path is saved below
    path = path_of(signature)
    if path is None:
        raise ConfigurationError(
            f"the signature {signature.__name__} cannot be saved: its field {culprit!r} is more than a plain type, and "
            "the class is defined in a script, a notebook or a function; move the class into a module and import it"
        )
    return {"path": path, "names": list(signature.fields)}


def load_signature(state: Mapping[str, Any], *, trust_code: bool) -> type[dspy.Signature]:
    """Return the signature that `dump_signature` described.

    Raises:
        ConfigurationError: its class cannot be imported, or has other fields now.
    """
    if "path" not in state:
        return _build(state)
    found = resolve(state["path"], what=f"the signature {state['path']!r}", trust_code=trust_code)
    if not (isinstance(found, type) and issubclass(found, dspy.Signature)):
        raise ConfigurationError(f"{state['path']!r} is not a dspy.Signature any more; save the program again")
    task: Any = found  # the type checker sees no fields on a signature's class
    names = list(task.fields)
    if names != state["names"]:
        raise ConfigurationError(
            f"the signature {state['path']!r} has the fields {names} now and had {state['names']} when "
            "the program was saved; bring them back or compile again"
        )
    return task  # type: ignore[no-any-return]


def _build(state: Mapping[str, Any]) -> type[dspy.Signature]:
    fields: dict[str, Any] = {}
    for field in state["fields"]:
        make = dspy.InputField if field["extra"]["__dspy_field_type"] == "input" else dspy.OutputField
        info = make(default=field.get("default", PydanticUndefined))
        info.json_schema_extra = dict(field["extra"])
        fields[field["name"]] = (_load_type(field["type"]), info)
    signature: Any = make_signature(fields, state["instructions"], state["name"])
    for field in state["fields"]:  # DSPy takes marks of its own away while it builds
        signature.fields[field["name"]].json_schema_extra = dict(field["extra"])
    return signature  # type: ignore[no-any-return]


def _dump_type(annotation: Any) -> Any:
    """Return a type's name, or {"of": what, "args": […]} for a generic."""
    for name, plain in _PLAIN.items():
        if annotation is plain:
            return name
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        if all(value is None or isinstance(value, str | int) for value in arguments):
            return {"of": "Literal", "args": list(arguments)}
    elif origin is Union or origin is types.UnionType:
        return {"of": "Union" if origin is Union else "|", "args": [_dump_type(one) for one in arguments]}
    elif _is_builtin_generic(annotation, origin) or _is_typing_generic(annotation):
        return {"of": annotation.__name__, "args": [_dump_type(one) for one in arguments]}
    raise _NotPlain


def _is_builtin_generic(annotation: Any, origin: Any) -> bool:
    return isinstance(annotation, types.GenericAlias) and _PLAIN.get(annotation.__name__) is origin


def _is_typing_generic(annotation: Any) -> bool:
    return getattr(annotation, "__module__", "") == "typing" and getattr(annotation, "__name__", "") in _TYPING


def _load_type(state: Any) -> Any:
    if isinstance(state, str):
        return _PLAIN[state]
    if state["of"] == "Literal":
        return Literal[tuple(state["args"])]
    arguments = tuple(_load_type(one) for one in state["args"])
    if state["of"] == "Union":
        return Union[arguments]  # noqa: UP007 - built at run time
    if state["of"] == "|":
        union = arguments[0]
        for one in arguments[1:]:
            union = union | one
        return union
    generic = getattr(typing, state["of"]) if state["of"] in _TYPING else _PLAIN[state["of"]]
    return generic[arguments] if arguments else generic
