"""What an experiment will cost, counted before anything is played: episodes, LM calls, prompt tokens.

Calls are counted as if each succeeded at once, tokens from the lengths of the texts, so both are estimates: a model
that fails and tries again costs more. In a world all steps are counted, so one that reaches the goal costs less.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import dspy

from agemem_dspy.bench.experiment import Contestant
from agemem_dspy.bench.folder import cells_of
from agemem_dspy.bench.runner import Bench
from agemem_dspy.memory.short_term import approximate_tokens
from agemem_dspy.policy.sources import KNOWN_MODELS
from agemem_dspy.programs.methods import Method
from agemem_dspy.programs.rivals.schema_manager import MESSAGES_PER_CALL

# Tokens of a prompt beside the conversation: instructions and tools, compact or as DSPy's chat adapter words them.
_COMPACT, _CHAT = 150, 900
_CALL = 40  # tokens that a tool call and its result leave in the context
_ACTIONS = 30  # steps of a world
_SEEN = 120  # tokens of what an action shows
_SHOWN = 3  # entries that are shown with the question
_NEAREST = 10  # entries that a manager compares a message with


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Episodes, LM calls and prompt tokens of one contestant in one world, or of its GRPO."""

    what: str
    episodes: int
    lm_calls: int
    prompt_tokens: int


def budget(bench: Bench) -> list[Cost]:
    """Return what is still to be trained and played in a run, a row each.

    Raises:
        DataError: a world's data cannot be read.
    """
    experiment = bench.experiment
    worlds = {world.name: world for world in experiment.worlds}
    methods = {method.name: method for method in experiment.methods}
    overhead = _COMPACT if experiment.model in (*KNOWN_MODELS, "tiny") else _CHAT
    played: dict[str, list[Cost]] = {}
    trained: dict[tuple[str, int], Cost] = {}
    for cell in cells_of(experiment):
        if bench.folder.finished(cell) is not None:
            continue
        method = methods[cell.method]
        key = (bench.taught_as(method), cell.seed) if method.phases else ("", cell.seed)
        if "grpo" in method.phases and key not in trained:
            recipe = experiment.recipe
            episodes = recipe.max_steps * recipe.tasks_per_step * recipe.num_generations
            what = f"GRPO of {key[0]}, seed {cell.seed}"
            trained[key] = _cost(what, method, bench.trainset(), episodes, overhead)
        what = f"{cell.world}: {cell.method}"
        examples = bench.examples(worlds[cell.world], method)
        played.setdefault(what, []).append(_cost(what, method, examples, len(examples), overhead))
    return [*trained.values(), *(_sum(rows) for rows in played.values())]


def _cost(what: str, method: Contestant, examples: Sequence[dspy.Example], episodes: int, overhead: int) -> Cost:
    """Count a number of episodes, each the mean of those of the examples."""
    prompts = [prompt_lengths(method, example) for example in examples]
    calls = statistics.fmean(len(one) for one in prompts)
    tokens = statistics.fmean(sum(one) + overhead * len(one) for one in prompts)
    return Cost(what=what, episodes=episodes, lm_calls=round(episodes * calls), prompt_tokens=round(episodes * tokens))


def prompt_lengths(method: Contestant, example: dspy.Example) -> list[int]:
    """Return the conversation's tokens in the prompt of each LM call of an episode."""
    messages = [approximate_tokens(text) for text in example.messages]
    distractors = [approximate_tokens(text) for text in example.distractors]
    question = approximate_tokens(str(example.get("question") or example.get("goal") or ""))
    mean = round(statistics.fmean(messages or [0]))
    clearing = [tokens + _CALL for tokens in distractors]
    building = list(accumulate(tokens + _CALL for tokens in messages))
    managed = _managed(method, messages, mean) + _managed(method, distractors, mean)
    recalled = _SHOWN * mean + question
    before: list[int] = []
    match method.method:
        case Method.NO_MEMORY:
            last = question
        case Method.FULL_CONTEXT:
            last = sum(messages) + sum(distractors) + question
        case Method.RAG:
            last = recalled
        case Method.AGEMEM:
            if method.tools == "long-term":
                clearing = list(accumulate(clearing))
            left = clearing[-1] if clearing else 0
            before, last = [*building, *clearing, left + question], left + recalled + _CALL
        case _ if method.options.get("short_term_tools"):
            before, last = [*managed, *clearing], (clearing[-1] if clearing else 0) + recalled
        case _:
            before, last = managed, sum(distractors) + recalled
    acting = range(_ACTIONS) if example.get("environment") else range(1)
    return [*before, *(last + taken * (_SEEN + _CALL) for taken in acting)]


def _managed(method: Contestant, messages: list[int], mean: int) -> list[int]:
    """Return the lengths of a manager's prompts over a stage's messages; entries are as long as the mean message."""
    if method.method in (Method.LANGMEM, Method.LANGMEM_PACKAGE):
        stretch = method.options.get("messages_per_call", MESSAGES_PER_CALL)
        parts = [messages[start : start + stretch] for start in range(0, len(messages), stretch)]
        return [sum(part) + len(part) * mean for part in parts]
    nearest = method.options.get("neighbours", _NEAREST)
    return [length for place, tokens in enumerate(messages) for length in (tokens, tokens + min(nearest, place) * mean)]


def _sum(rows: Sequence[Cost]) -> Cost:
    return Cost(
        what=rows[0].what,
        episodes=sum(row.episodes for row in rows),
        lm_calls=sum(row.lm_calls for row in rows),
        prompt_tokens=sum(row.prompt_tokens for row in rows),
    )
