"""The demonstrator: plays an example from its gold annotations, where no strong LM is at hand as teacher."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import dspy

from agemem_dspy.errors import ConfigurationError, DataError
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.signatures import answer_fields


class Demonstrator(dspy.Module):
    """A teacher that knows the annotations: it stores, changes and forgets what the example says, filters every
    distractor by its own text, retrieves by the question and answers right.

    Its episodes run through the student's own tools and context rules, so their traces are ones that the
    student could have produced.

    Args:
        student: the episode whose agent it stands in for.
    """

    def __init__(self, student: ThreeStageEpisode) -> None:
        super().__init__()
        self.student = student
        outputs = student.agent.signature.output_fields
        typed = [name for name, info in outputs.items() if info.annotation is not str]
        if typed:
            raise ConfigurationError(
                f"the demonstrator writes text answers, but {typed[0]!r} is not text; give a teacher program instead"
            )

    def play(self, example: dspy.Example) -> dspy.Prediction:
        """Play one annotated example.

        Raises:
            DataError: the example lacks `operations`, or one that changes an entry which was never stored.
        """
        episode = copy.deepcopy(self.student)
        episode.agent.step = Script(gold_outputs(example, self.student), episode.agent.step.signature)
        return episode(**example.inputs())


def chosen_teacher(teacher: Any, student: ThreeStageEpisode) -> dspy.Module:
    """Return the teacher to play with: the one given, alone or as DSPy's BetterTogether lists it, or a `Demonstrator`.

    Raises:
        ConfigurationError: several were given.
    """
    teachers = teacher if isinstance(teacher, list) else [teacher]
    if len(teachers) != 1:
        raise ConfigurationError(f"give one teacher, not {len(teachers)}")
    return teachers[0] or Demonstrator(student)


class Script:
    """Stands in for the step predictor and returns prepared outputs, one a call."""

    def __init__(self, outputs: Iterator[Mapping[str, Any]], signature: type[dspy.Signature]) -> None:
        self.outputs, self.signature, self.lm = outputs, signature, None

    def __call__(self, **inputs: Any) -> dspy.Prediction:
        output = next(self.outputs, None)
        if output is None:
            raise DataError("the gold annotations do not finish this episode; check its operations")
        calls = dspy.ToolCalls.from_dict_list(list(output.get("tool_calls", [])))
        empty = dict.fromkeys(answer_fields(self.signature))
        return dspy.Prediction(**{"reasoning": "", **empty, **output, "tool_calls": calls})


def gold_outputs(example: dspy.Example, episode: ThreeStageEpisode) -> Iterator[dict[str, Any]]:
    """Yield the step outputs of a perfect episode, in order."""
    if "operations" not in example:
        raise DataError(f"example {example.get('id', '?')!r} has no gold `operations`; the demonstrator needs them")
    names = list(episode.agent.signature.output_fields)
    done = dict.fromkeys(names, "ok")
    aliases: dict[str, str] = {}
    for turn in range(len(example.messages)):
        calls = [_gold_call(op, aliases, example) for op in example.operations if op["turn"] == turn]
        yield {"tool_calls": calls} if calls else done
    for distractor in example.distractors if episode.stages >= 2 else ():
        yield {"tool_calls": [{"name": "filter_context", "args": {"criteria": distractor}}]}
    if episode.stages == 3:
        query = episode.agent.task_text({name: example[name] for name in episode.agent.signature.input_fields})
        yield {"tool_calls": [{"name": "retrieve_memory", "args": {"query": query}}]}
        yield {name: str(example[name]) for name in names}


def _gold_call(operation: Mapping[str, Any], aliases: dict[str, str], example: dspy.Example) -> dict[str, Any]:
    """Turn a gold operation into a tool call; aliases count up as entries are added."""
    tool = operation["tool"]
    if tool == "add_memory":
        aliases[operation["content"]] = f"m{len(set(aliases.values())) + 1}"
        return {"name": tool, "args": {"content": operation["content"]}}
    alias = aliases.get(operation["old"])
    if alias is None:
        raise DataError(f"example {example.get('id', '?')!r}: {tool} of {operation['old']!r}, which was never stored")
    if tool == "delete_memory":
        return {"name": tool, "args": {"memory_id": alias, "confirmation": True}}
    aliases[operation["content"]] = alias
    return {"name": tool, "args": {"memory_id": alias, "content": operation["content"]}}
