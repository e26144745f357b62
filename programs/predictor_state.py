"""A predictor as JSON: its wording, its demos with their types, its options.

DSPy's own state turns typed demo values into text, so a demo would not read back as it was. Here a value that is
not plain JSON is tagged with what it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import dspy
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.signatures import Transcript


def dump_predictor(predictor: dspy.Predict, *, name: str, fields: list[str]) -> dict[str, Any]:
    """Return a predictor as JSON; its LM is saved apart.

    Args:
        predictor: what to save.
        name: what it is called in its program, for messages.
        fields: the field names of a freshly built program's predictor, which are the ones that can be loaded.

    Raises:
        ConfigurationError: the signature has other fields, or a demo holds a value that cannot be saved.
    """
    if list(predictor.signature.fields) != fields:
        raise ConfigurationError(
            f"the predictor {name!r} has the fields {list(predictor.signature.fields)} where the program makes "
            f"{fields}; change the program's signature instead of the predictor's"
        )
    demos = enumerate(predictor.demos)
    return {
        "names": fields,
        "signature": predictor.signature.dump_state(),
        "demos": [_dump_demo(demo, predictor.signature, f"{name}.demos[{i}]") for i, demo in demos],
        "config": dict(predictor.config),
        "decisions": dict(predictor.fields),
    }


def load_predictor(predictor: dspy.Predict, state: Mapping[str, Any]) -> None:
    """Give a freshly built predictor the wording, demos and options that `dump_predictor` returned.

    Raises:
        ConfigurationError: the state is of other fields, or a demo does not fit its field's type.
    """
    if list(predictor.signature.fields) != state["names"]:
        raise ConfigurationError(
            f"the saved predictor has the fields {state['names']} and this version makes "
            f"{list(predictor.signature.fields)}; load it with the version that saved it, or compile again"
        )
    predictor.signature = predictor.signature.load_state(state["signature"])
    predictor.demos = [_load_demo(demo, predictor.signature) for demo in state["demos"]]
    predictor.config = dict(state["config"])
    predictor.fields = dict(state["decisions"])


def _dump_demo(demo: Any, signature: type[dspy.Signature], where: str) -> dict[str, Any]:
    values = {key: _dump_value(value, signature.fields.get(key), f"{where}[{key!r}]") for key, value in demo.items()}
    state: dict[str, Any] = {"values": values}
    if isinstance(demo, dspy.Example):
        state["inputs"] = sorted(demo.inputs().keys()) if demo._input_keys is not None else None
    return state


def _load_demo(state: Mapping[str, Any], signature: type[dspy.Signature]) -> Any:
    values = {key: _load_value(value, signature.fields.get(key), key) for key, value in state["values"].items()}
    if "inputs" not in state:
        return values
    example = dspy.Example(**values)
    return example if state["inputs"] is None else example.with_inputs(*state["inputs"])


def _dump_value(value: Any, info: Any, where: str) -> dict[str, Any]:
    """Return {kind: JSON}, where the kind says how to read it back."""
    if isinstance(value, Transcript):
        return {"transcript": value.messages}
    if isinstance(value, dspy.ToolCalls):
        return {"tool_calls": value.model_dump(mode="json")}
    if isinstance(value, list) and value and all(isinstance(one, dspy.Tool) for one in value):
        return {"tools": [{"name": tool.name, "desc": tool.desc, "args": tool.args} for tool in value]}
    if _is_json(value):
        return {"json": value}
    if info is not None:
        try:
            adapter = TypeAdapter(info.annotation)
            dumped = adapter.dump_python(value, mode="json")
            if adapter.validate_python(dumped) == value:
                return {"typed": dumped}
        except (PydanticSerializationError, ValidationError):
            pass  # refused below, with the place
    raise ConfigurationError(
        f"{where} holds a {type(value).__name__}, which cannot be saved; make it a string, number, list or dict, or a "
        "pydantic model that the signature declares"
    )


def _is_json(value: Any) -> bool:
    """Tell whether a value reads back from JSON as it was; an enum or a tuple does not."""
    if type(value) is list:
        return all(_is_json(one) for one in value)
    if type(value) is dict:
        return all(type(key) is str and _is_json(one) for key, one in value.items())
    return value is None or type(value) in (str, int, bool) or (type(value) is float and math.isfinite(value))


def _load_value(state: Mapping[str, Any], info: Any, name: str) -> Any:
    ((kind, value),) = state.items()
    match kind:
        case "transcript":
            return Transcript(messages=value)
        case "tool_calls":
            return dspy.ToolCalls.model_validate(value)
        case "tools":
            return [_shown_tool(**one) for one in value]
        case "typed" if info is not None:
            try:
                return TypeAdapter(info.annotation).validate_python(value)
            except ValidationError as error:
                raise ConfigurationError(
                    f"a demo's {name!r} does not fit its type any more ({error.errors()[0]['msg']}); bring the type "
                    "back or compile again"
                ) from error
    return value


def _shown_tool(name: str, desc: str | None, args: dict[str, Any]) -> dspy.Tool:
    """Return a tool that a demo shows to the model; nobody calls it."""
    return dspy.Tool(_not_callable, name=name, desc=desc, args=args, arg_types={})


def _not_callable(**arguments: Any) -> Any:
    raise ConfigurationError("this tool is part of a demo; it can be shown and not called")
