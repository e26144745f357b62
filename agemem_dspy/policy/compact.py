"""The paper's tag format as a `dspy.Adapter`: about 140 prompt tokens for six tools.

A step is `<think>…</think>` (left out when empty), then `<tool_call>[{"name", "arguments"}]</tool_call>` or
`<answer>…</answer>`. Deviation 1: a missing closing tag, a single object in place of the array and text after the
step are accepted, and noted on the tape.

Retrieved memories are fenced by the toolkit, a line each. That they are data is said in the description of `context`,
which this format leaves out to save tokens: a policy of this size learns it from its training, not from a sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import dspy
from dspy.adapters.utils import get_annotation_name, parse_value
from dspy.utils.exceptions import AdapterParseError
from pydantic_core import to_jsonable_python

from agemem_dspy.policy.recorder import note
from agemem_dspy.signatures import Transcript, answer_fields

FORMAT = (
    'Reply with <tool_call>[{"name": tool, "arguments": {...}}]</tool_call> or <answer>text</answer>, nothing else.'
)


def render_step(reasoning: str, calls: Sequence[Mapping[str, Any]], answer: Mapping[str, Any] | None) -> str:
    """Return a step in tag form; `calls` are {"name", "arguments"} and win over `answer`."""
    think = f"<think>{reasoning}</think>" if reasoning else ""
    if calls:
        body = json.dumps([{"name": c["name"], "arguments": c["arguments"]} for c in calls], ensure_ascii=False)
        return f"{think}<tool_call>{body}</tool_call>"
    if answer is None:
        return think
    value: Any = next(iter(answer.values())) if len(answer) == 1 else dict(answer)
    text = value if isinstance(value, str) else json.dumps(to_jsonable_python(value), ensure_ascii=False)
    return f"{think}<answer>{text}</answer>"


def parse_step(text: str) -> tuple[str, list[dict[str, Any]], str | None, list[str]]:
    """Split a step into reasoning, calls, answer text and remarks.

    Raises:
        ValueError: neither tag is there, or the calls are not JSON objects with a name; says which.
    """
    thought = re.search(r"<think>(.*?)</think>", text, re.DOTALL)
    rest = text[thought.end() :] if thought else text
    reasoning = thought[1].strip() if thought else ""
    opening = re.search(r"<(tool_call|answer)>", rest)
    if opening is None:
        raise ValueError("no <tool_call> or <answer> tag")
    tag, body = opening[1], rest[opening.end() :]
    closing = f"</{tag}>"
    notes: list[str] = []
    calls: list[dict[str, Any]] = []
    answer = None
    if tag == "answer":
        answer, closed, after = body.partition(closing)
        answer = answer.strip()
    else:
        calls, end = _parse_calls(body, notes)
        before, closed, after = body[end:].partition(closing)
        after = before + after
    if not closed:
        notes.append(f"closing tag {closing} was missing")
    if after.strip():
        notes.append("text after the step was ignored")
    return reasoning, calls, answer, notes


def _parse_calls(body: str, notes: list[str]) -> tuple[list[dict[str, Any]], int]:
    """Read the calls at the start of `body`, whatever tags their texts hold; return them and where they end."""
    start = len(body) - len(body.lstrip())
    try:
        value, end = json.JSONDecoder().raw_decode(body, start)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"the text in <tool_call> is not JSON: {error.msg} at character {error.pos}") from error
    except UnicodeEncodeError as error:
        raise ValueError("the text in <tool_call> has half a surrogate pair; write the character itself") from error
    except RecursionError as error:
        raise ValueError("the text in <tool_call> is nested too deeply") from error
    if isinstance(value, dict):
        notes.append("a single call was not in an array")
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError("<tool_call> must hold a JSON array of calls")
    calls = []
    for call in value:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise ValueError('each call must be an object with "name" and "arguments"')
        arguments = call.get("arguments", {})
        if not isinstance(arguments, dict):
            raise ValueError(f'"arguments" of {call["name"]} must be an object')
        calls.append({"name": call["name"], "arguments": arguments})
    return calls, end


class CompactAdapter(dspy.ChatAdapter):
    """Renders an agent step as chat turns and tags; any other signature in plain lines.

    It is a `dspy.ChatAdapter`, the kind that DSPy's `GRPO` and `dspy.BootstrapFinetune` take, without its second try as
    JSON: a step that does not parse is the policy's own, and is scored.

    Demos are replayed as user and assistant turns before the conversation; a demo that lacks the input or the
    output, as DSPy's labelled ones do, is left out.
    """

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)

    def format(
        self, signature: type[dspy.Signature], demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Return the chat messages of one LM call."""
        if "tool_calls" not in signature.output_fields:
            return _format_plain(signature, demos, inputs)
        outputs = answer_fields(signature)
        lines = [signature.instructions, FORMAT, *_describe_answer(signature, outputs)]
        lines += ["Tools:", *(_describe(tool) for tool in inputs.get("tools") or [])]
        messages = [{"role": "system", "content": "\n".join(lines)}]
        for demo in demos:
            if "context" in demo and ("tool_calls" in demo or any(demo.get(name) is not None for name in outputs)):
                messages += _chat(Transcript.model_validate(demo["context"]))
                messages.append({"role": "assistant", "content": self._render(signature, demo)})
        return messages + _chat(inputs["context"])

    def format_assistant_message_content(
        self, signature: type[dspy.Signature], outputs: dict[str, Any], missing_field_message: str | None = None
    ) -> str:
        """Return the text that `parse` turns into `outputs`."""
        if "tool_calls" not in signature.output_fields:
            return "\n".join(str(outputs.get(name, missing_field_message)) for name in signature.output_fields)
        return self._render(signature, outputs)

    def _render(self, signature: type[dspy.Signature], outputs: Mapping[str, Any]) -> str:
        calls = dspy.ToolCalls.model_validate(outputs.get("tool_calls") or {"tool_calls": []}).tool_calls
        answer = {name: outputs.get(name) for name in answer_fields(signature)}
        given = any(value is not None for value in answer.values())
        rendered = [{"name": call.name, "arguments": call.args} for call in calls]
        return render_step(outputs.get("reasoning") or "", rendered, answer if given else None)

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Return the signature's output fields.

        Raises:
            AdapterParseError: the text is not in tag form; the message says what is wrong.
        """
        try:
            if "tool_calls" not in signature.output_fields:
                return _parse_answer(signature, list(signature.output_fields), completion.strip())
            names = answer_fields(signature)
            reasoning, calls, answer, notes = parse_step(completion)
            fields = dict.fromkeys(names) if answer is None else _parse_answer(signature, names, answer)
        except ValueError as error:
            raise AdapterParseError(
                adapter_name="CompactAdapter", signature=signature, lm_response=completion, message=str(error)
            ) from error
        for remark in notes:
            note(remark)
        named = [{"name": call["name"], "args": call["arguments"]} for call in calls]
        return {"reasoning": reasoning, "tool_calls": dspy.ToolCalls.from_dict_list(named), **fields}


def _parse_answer(signature: type[dspy.Signature], names: Sequence[str], text: str) -> dict[str, Any]:
    values: Any = {names[0]: text}
    if len(names) > 1:
        try:
            values = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            values = None
        if not isinstance(values, dict) or set(names) - set(values):
            raise ValueError(f"the answer must be a JSON object with {', '.join(names)}")
    fields = {}
    for name in names:
        try:
            fields[name] = parse_value(values[name], signature.output_fields[name].annotation)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} must be {_type(signature, name)}, not {str(values[name])[:80]!r}") from error
    return fields


def _type(signature: type[dspy.Signature], name: str) -> str:
    """Return an output's type as the model is told it; that it may be absent goes without saying."""
    annotation = signature.output_fields[name].annotation
    kinds = get_args(annotation) if type(None) in get_args(annotation) else (annotation,)
    return " or ".join(get_annotation_name(kind) for kind in kinds if kind is not type(None))


def _describe_answer(signature: type[dspy.Signature], names: Sequence[str]) -> list[str]:
    """Say what the answer holds, unless it is one plain text."""
    described = []
    for name in names:
        said = signature.output_fields[name].json_schema_extra["desc"]
        described.append(f"{name} ({_type(signature, name)}){'' if said in ('', f'${{{name}}}') else f': {said}'}")
    if len(names) > 1:
        return [f"The answer is a JSON object with {', '.join(described)}."]
    return [f"The answer is {described[0]}."] if described[0] != f"{names[0]} (str)" else []


def _describe(tool: dspy.Tool) -> str:
    arguments = (f"{name}?" if "default" in schema else name for name, schema in (tool.args or {}).items())
    return f"{tool.name}({', '.join(arguments)}): {tool.desc or ''}"


def _chat(transcript: Transcript) -> list[dict[str, Any]]:
    """Turn a transcript into chat turns; neighbours on the user's side are joined."""
    turns: list[dict[str, Any]] = []
    for message in transcript.messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        if role == "user" and turns and turns[-1]["role"] == "user":
            turns[-1]["content"] += f"\n{message['content']}"
        else:
            turns.append({"role": role, "content": message["content"]})
    return turns


def _format_plain(
    signature: type[dspy.Signature], demos: list[dict[str, Any]], inputs: Mapping[str, Any]
) -> list[dict[str, Any]]:
    def fields(values: Mapping[str, Any]) -> str:
        return "\n".join(f"{name}: {values[name]}" for name in signature.input_fields if name in values)

    if len(signature.output_fields) != 1:
        raise ValueError("the compact format writes one output field; use dspy.ChatAdapter for this signature")
    output = next(iter(signature.output_fields))
    messages = [{"role": "system", "content": f"{signature.instructions} Reply with the {output} alone."}]
    for demo in demos:
        if output in demo and fields(demo):
            messages.append({"role": "user", "content": fields(demo)})
            messages.append({"role": "assistant", "content": str(demo[output])})
    return [*messages, {"role": "user", "content": fields(inputs)}]
