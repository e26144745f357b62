"""BootstrapToolDemos: few-shot demos for the step predictor, drawn evenly from tools and stages.

DSPy's BootstrapFewShot keeps one demo a predictor an example; with one step predictor and six tools that starves
tools. Here demos come from trajectories over a reward threshold, one (stage, tool) after the other.
"""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import dspy
from dspy.teleprompt import Teleprompter

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.demonstrator import chosen_teacher
from agemem_dspy.optimizers.rollouts import Played, map_threads, play, play_all
from agemem_dspy.optimizers.tracking import Tracked
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import TrajectoryReward
from agemem_dspy.signatures import Transcript, answer_fields
from agemem_dspy.types import Step


class BootstrapToolDemos(Tracked, Teleprompter):
    """Put demonstrated steps into the prompt.

    Args:
        metric: scores trajectories.
        threshold: least reward of a trajectory that demos are taken from.
        max_demos: most demos in the prompt.
        max_examples: most training examples that the teacher plays.
        num_threads: episodes played at once.
        seed: of the choice among equally good demos.

    After `compile`, `traces` holds the teacher's successful episodes; the warm start learns from them.
    """

    def __init__(
        self,
        metric: TrajectoryReward,
        *,
        threshold: float = 0.7,
        max_demos: int = 6,
        max_examples: int = 32,
        num_threads: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if max_demos < 1 or max_examples < 1:
            raise ConfigurationError("max_demos and max_examples must be at least 1")
        self.metric, self.threshold = metric, threshold
        self.max_demos, self.max_examples = max_demos, max_examples
        self.num_threads, self.seed = num_threads, seed
        self.traces: list[Played] = []

    def compile(
        self,
        student: ThreeStageEpisode,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | list[dspy.Module] | None = None,
        valset: Sequence[dspy.Example] | None = None,
    ) -> ThreeStageEpisode:
        """Return a copy of the student with demos.

        Args:
            teacher: plays the training examples; the `Demonstrator` when left out.
            valset: when given, demos are kept only if the student's mean reward on it does not fall.

        Raises:
            ConfigurationError: an empty training set, or no trajectory over the threshold.
        """
        if not trainset:
            raise ConfigurationError("the training set is empty; pass at least one example")
        self.log_params()
        examples = list(trainset)[: self.max_examples]
        played = play_all(chosen_teacher(teacher, student), examples, self.metric, num_threads=self.num_threads)
        self.traces = [p for p in played if p.terms["reward"] >= self.threshold]
        if not self.traces:
            best = max(p.terms["reward"] for p in played)
            raise ConfigurationError(
                f"no trajectory reached the threshold {self.threshold} (best {best:.2f}); lower it, or change teacher"
            )
        compiled = copy.deepcopy(student)
        compiled.agent.step.demos = self._select(answer_fields(student.agent.step.signature))
        if valset:
            # One pool for both: a local engine then samples twice as many episodes together.
            pairs = [(program, example) for program in (student, compiled) for example in valset]
            scores = map_threads(
                lambda pair: play(pair[0], pair[1], self.metric).terms["reward"], pairs, self.num_threads
            )
            if sum(scores[len(valset) :]) < sum(scores[: len(valset)]):
                compiled.agent.step.demos = list(student.agent.step.demos)
        compiled._compiled = True
        return compiled

    def _select(self, outputs: Sequence[str]) -> list[dict[str, Any]]:
        """Take demos from the best trajectories, going round the (stage, tool) strata until full."""
        strata: dict[tuple[int, str], list[Step]] = defaultdict(list)
        traces = random.Random(self.seed).sample(self.traces, len(self.traces))
        for trace in sorted(traces, key=lambda p: -round(p.terms["reward"], 2)):
            for step in trace.trajectory.steps:
                if step.kind == "act" and step.parsed and all(event.ok for event in step.events):
                    calls = step.output["tool_calls"]
                    strata[int(step.stage), calls[0]["name"] if calls else "answer"].append(step)
        demos: list[dict[str, Any]] = []
        keys = sorted(strata, key=lambda key: (key[1] == "answer" and key[0] < 3, key))
        while len(demos) < self.max_demos and any(strata.values()):
            for key in keys:
                if strata[key] and len(demos) < self.max_demos:
                    demos.append(as_demo(strata[key].pop(0), outputs))
        return demos


def as_demo(step: Step, outputs: Sequence[str]) -> dict[str, Any]:
    """Return a step as a demo of the step predictor: the question, the messages since the agent last spoke, its output.

    Every one of the task's `outputs` is there, None beside tool calls: adapters call a missing one "not supplied",
    which a model would copy. The tools are left out, since every prompt lists them anyway.
    """
    last = max((i for i, m in enumerate(step.context) if m["role"] == "assistant"), default=-1)
    shown = [dict(m) for i, m in enumerate(step.context) if i > last or m["kind"] == "question"]
    calls = [{"name": call["name"], "args": call["arguments"]} for call in step.output["tool_calls"]]
    return {
        "augmented": True,
        "context": Transcript(messages=shown),
        "reasoning": step.output["reasoning"],
        "tool_calls": dspy.ToolCalls.from_dict_list(calls),
        **{name: (step.output["answer"] or {}).get(name) for name in outputs},
    }
