"""The demonstrator: plays an example from its gold annotations, where no strong LM is at hand as teacher."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import dspy

from agemem_dspy.environments import make_environment
from agemem_dspy.errors import ConfigurationError, DataError
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.signatures import OPERATIONS, answer_fields


class Demonstrator(dspy.Module):
    """A teacher that knows the annotations: it stores, changes and forgets what the example says, filters every
    distractor by its own text, retrieves by the question and answers right. What needs a tool that the agent lacks, it
    leaves undone.

    Its episodes run through the student's own tools and context rules, so their traces are ones that the
    student could have produced.

    Args:
        student: the episode whose agent it stands in for.
        mistakes: share of the decisions that are careless: nothing is stored, changed, cleared away or looked up, or
            small talk is stored. What follows takes it into account (see `careless_outputs`).
        seed: of the mistakes, which are the same whenever an example is played.
        verbatim: entries repeat the message that states them in place of the gold content; a small model learns to
            copy sooner than to reword.

    Raises:
        ConfigurationError: another program than an episode, an answer that is not text, or `mistakes` outside [0, 1).
    """

    def __init__(
        self, student: ThreeStageEpisode, *, mistakes: float = 0.0, seed: int = 0, verbatim: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(student, ThreeStageEpisode):
            raise ConfigurationError(
                f"the demonstrator plays the tools of a ThreeStageEpisode; a {type(student).__name__} keeps its memory "
                "otherwise: give a teacher program, or compile it with GRPO alone"
            )
        if not 0 <= mistakes < 1:
            raise ConfigurationError(f"mistakes is a share from 0 to below 1, not {mistakes}")
        self.student, self.mistakes, self.seed, self.verbatim = student, mistakes, seed, verbatim
        outputs = student.agent.signature.output_fields
        typed = [name for name, info in outputs.items() if info.annotation is not str]
        if typed:
            raise ConfigurationError(
                f"the demonstrator writes text answers, but {typed[0]!r} is not text; give a teacher program instead"
            )

    def play(self, example: dspy.Example) -> dspy.Prediction:
        """Play one annotated example.

        Raises:
            DataError: the example lacks `operations`, or one that changes an entry which was never stored; or it is
                of a world, and `mistakes` were asked for.
            WorldError: the world's expert does not solve the episode.
        """
        episode = copy.deepcopy(self.student)
        if self.verbatim:
            example = _in_its_own_words(example)
        outputs = gold_outputs(example, self.student)
        if self.mistakes:
            source = random.Random(f"{self.seed} {example.get('id')}")
            (name,) = self.student.agent.signature.output_fields
            careless = careless_outputs(example, self.mistakes, source)
            outputs = ({name if key == "answer" else key: value for key, value in out.items()} for out in careless)
        outputs = within_tools(outputs, episode.agent.memory_tools, list(episode.agent.signature.output_fields))
        student = self.student.agent.step
        episode.agent.step = Script(outputs, student.signature, lm=student.lm, demos=student.demos)
        return episode(**example.inputs())


def _in_its_own_words(example: dspy.Example) -> dspy.Example:
    """Return the example with the contents of its gold operations replaced by the messages that state them.

    A message that asks for several operations keeps their gold contents: a copy of it for each would be a duplicate.
    """
    if "operations" not in example:
        return example
    turns = Counter(operation["turn"] for operation in example.operations)
    said: dict[str, str] = {}
    operations = []
    for operation in example.operations:
        changed = dict(operation)
        if "old" in changed:
            changed["old"] = said.get(changed["old"], changed["old"])
        if changed.get("content") and turns[operation["turn"]] == 1:
            changed["content"] = said[operation["content"]] = example.messages[operation["turn"]]
        operations.append(changed)
    support = [said.get(fact, fact) for fact in example.get("support") or ()]
    return example.copy(operations=operations, support=support)


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
    """Stands in for the step predictor and returns prepared outputs, one a call; `lm` and `demos` are for counting."""

    def __init__(
        self,
        outputs: Iterator[Mapping[str, Any]],
        signature: type[dspy.Signature],
        *,
        lm: Any = None,
        demos: Sequence[Any] = (),
    ) -> None:
        self.outputs, self.signature, self.lm, self.demos = outputs, signature, lm, demos

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
    if episode.stages == 3 and "environment" in example:
        yield from _in_world(example, episode)
    elif episode.stages == 3:
        query = episode.agent.task_text({name: example[name] for name in episode.agent.signature.input_fields})
        yield {"tool_calls": [{"name": "retrieve_memory", "args": {"query": query}}]}
        yield {name: str(example[name]) for name in names}


def within_tools(
    outputs: Iterator[dict[str, Any]], tools: Collection[str], names: Collection[str]
) -> Iterator[dict[str, Any]]:
    """Yield step outputs for an agent that has only some of the memory tools.

    A turn whose calls it cannot make ends without one; a question that it cannot look up is answered at once.

    Args:
        tools: the names of those that it has.
        names: the agent's output fields.
    """
    for output in outputs:
        calls = output.get("tool_calls", [])
        possible = [call for call in calls if call["name"] in tools or call["name"] not in OPERATIONS]
        if possible or not calls:
            yield {**output, "tool_calls": possible} if calls else output
        elif calls[0]["name"] != "retrieve_memory":
            yield dict.fromkeys(names, "ok")


def _in_world(example: dspy.Example, episode: ThreeStageEpisode) -> Iterator[dict[str, Any]]:
    """Yield the steps of stage 3 in a world: what is known is looked up, then the world's own expert acts."""
    with make_environment(example.environment, max_steps=episode.max_steps) as world:
        world.reset(example.seed)
        goal, actions = world.goal, world.solution()
    yield _call("retrieve_memory", query=goal)
    for action in actions[: episode.max_steps]:
        yield _call("act", action=action)
    if episode.carry_memory:
        yield _call("add_memory", content=f"{goal}: {'; '.join(actions)}")


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


def careless_outputs(example: dspy.Example, mistakes: float, source: random.Random) -> Iterator[dict[str, Any]]:
    """Yield the step outputs of an episode in which a share of the decisions is careless.

    What follows a mistake takes it into account: a fact that was never stored is added when it changes, and is not
    known when asked for.
    """
    if "environment" in example:
        raise DataError(
            f"example {example.get('id', '?')!r} is of a world, where nobody plays carelessly; leave out mistakes"
        )
    done, unknown = {"answer": "ok"}, {"answer": "I don't know"}
    aliases: dict[str, str] = {}
    added = 0
    for turn, message in enumerate(example.messages):
        gold = next((op for op in example.operations if op["turn"] == turn), None)
        careless = source.random() < mistakes
        known = aliases.get(gold["old"]) if gold and "old" in gold else None
        if gold is None:
            added += careless
            yield _call("add_memory", content=message) if careless else done
        elif careless or (gold["tool"] == "delete_memory" and known is None):
            yield done
        elif gold["tool"] == "delete_memory":
            del aliases[gold["old"]]
            yield _call("delete_memory", memory_id=known, confirmation=True)
        elif known is not None:
            aliases[gold["content"]] = aliases.pop(gold["old"])
            yield _call("update_memory", memory_id=known, content=gold["content"])
        else:
            added += 1
            aliases[gold["content"]] = f"m{added}"
            yield _call("add_memory", content=gold["content"])
    for distractor in example.distractors:
        yield done if source.random() < mistakes else _call("filter_context", criteria=distractor)
    if source.random() < mistakes:
        yield unknown
        return
    yield _call("retrieve_memory", query=example.question)
    yield {"answer": example.answer} if all(fact in aliases for fact in example.support) else unknown


def _call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"tool_calls": [{"name": tool, "args": arguments}]}
