"""WarmStart: a short supervised LoRA training on successful traces, before reinforcement.

A small model never emits a parsable call on its own; with all rewards equal GRPO has no gradient. Prompts are
rendered by the student's adapter and tokenized by its engine, exactly as they will be when it samples.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import dspy
import numpy as np
from dspy.teleprompt import Teleprompter

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers import processes
from agemem_dspy.optimizers.balance import balanced
from agemem_dspy.optimizers.demonstrator import chosen_teacher
from agemem_dspy.optimizers.local import local_policy
from agemem_dspy.optimizers.rollouts import Played, play_all
from agemem_dspy.optimizers.supervised import supervise
from agemem_dspy.optimizers.tracking import Tracked, log_step
from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.optimizers.training import TrainerConfig
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.rewards import TrajectoryReward
from agemem_dspy.signatures import Transcript
from agemem_dspy.types import Stage, Step

WARM_START = TrainerConfig(learning_rate=5e-4)
Situation = tuple[Stage, str]  # the stage, and the kind of the last message


class WarmStart(Tracked, Teleprompter):
    """Teach the student's local model to play like its teacher.

    Args:
        metric: scores the teacher's trajectories.
        threshold: least reward of a trajectory to learn from.
        max_examples: most training examples that the teacher plays; those whose gold operations are rare come as often
            as the others (see `balanced`).
        epochs: passes over the traces.
        batch_size: trajectories in one optimizer step.
        trainer: learning rate, LoRA rank and the like.
        num_threads: episodes played at once.
        keep_demos: train on prompts with the student's demos; by default they are dropped, since the weights
            now carry what they showed and every prompt gets shorter.
        on_step: called with {"phase", "step", "steps", "loss", "seconds"} after each optimizer step.
    """

    def __init__(
        self,
        metric: TrajectoryReward,
        *,
        threshold: float = 0.7,
        max_examples: int = 32,
        epochs: int = 1,
        batch_size: int = 2,
        trainer: TrainerConfig | None = None,
        num_threads: int = 8,
        keep_demos: bool = False,
        seed: int = 0,
        on_step: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        super().__init__()
        if max_examples < 1 or epochs < 1 or batch_size < 1:
            raise ConfigurationError("max_examples, epochs and batch_size must be at least 1")
        self.metric, self.threshold, self.max_examples = metric, threshold, max_examples
        self.epochs, self.batch_size, self.num_threads = epochs, batch_size, num_threads
        self.trainer = trainer or WARM_START
        self.keep_demos, self.seed, self.on_step = keep_demos, seed, on_step

    def compile(
        self,
        student: ThreeStageEpisode,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | list[dspy.Module] | None = None,
        valset: Sequence[dspy.Example] | None = None,
    ) -> ThreeStageEpisode:
        """Return a copy of the student served by newly trained weights.

        Args:
            teacher: plays the training examples; the `Demonstrator` when left out.
            valset: accepted for DSPy's interface; nothing is selected on it.

        Raises:
            ConfigurationError: the student's LM is not a local policy, an empty training set, or no trajectory
                over the threshold.
        """
        if not trainset:
            raise ConfigurationError("the training set is empty; pass at least one example")
        self.log_params()
        lm, engine = local_policy(student)
        examples = balanced(trainset)[: self.max_examples]
        own = processes.share(examples)
        played = processes.joined(
            play_all(chosen_teacher(teacher, student), own, self.metric, num_threads=self.num_threads)
        )
        traces = [p for p in played if p.terms["reward"] >= self.threshold]
        if not traces:
            best = max(p.terms["reward"] for p in played)
            raise ConfigurationError(
                f"no trajectory reached the threshold {self.threshold} (best {best:.2f}); lower it, or change teacher"
            )
        compiled = copy.deepcopy(student)
        if not self.keep_demos:
            compiled.agent.step.demos = []
        trainer = PolicyTrainer(engine, self.trainer, start=engine.weights(lm.model))
        supervise(
            trainer,
            _weighed([_samples(p, compiled, engine) for p in traces]),
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=self.seed,
            on_step=self._reporter(),
        )
        weights = trainer.weights()
        model = engine.register(f"warm-{weights.sha256()[:10]}", weights)
        compiled.set_lm(lm.copy(model=model))
        compiled._compiled = True
        return compiled

    def _reporter(self) -> Callable[[int, int, float], None]:
        started = time.perf_counter()

        def report(step: int, steps: int, loss: float) -> None:
            if not processes.is_first():
                return
            seconds = time.perf_counter() - started
            line = {"phase": "warm_start", "step": step, "steps": steps, "loss": loss, "seconds": seconds}
            log_step(line)
            if self.on_step is not None:
                self.on_step(line)

        return report


def _weighed(trajectories: Sequence[Sequence[tuple[Situation, Sample]]]) -> list[list[Sample]]:
    """Weigh the tokens of a step by one over the mean length of all replies in its situation.

    So an answer of three words counts as much as a tool call of forty tokens, yet within a situation every token counts
    the same, and the weights favour no reply that could be given there. One over the reply's own length would: it would
    count the first token of "ok" several times that of a tool call, and teach to say "ok".
    """
    lengths: dict[Situation, list[int]] = defaultdict(list)
    for steps in trajectories:
        for situation, sample in steps:
            lengths[situation].append(len(sample.completion_ids))
    return [
        [replace(sample, weight=1.0 / statistics.fmean(lengths[situation])) for situation, sample in steps]
        for steps in trajectories
    ]


def _samples(played: Played, student: ThreeStageEpisode, engine: PolicyEngine) -> list[tuple[Situation, Sample]]:
    """Render a teacher's steps as the student would have met and written them, each with its situation."""
    return [
        ((step.stage, step.context[-1]["kind"]), render_step_sample(step, student, engine))
        for step in played.trajectory.steps
        if step.parsed and step.kind == "act"
    ]


def render_step_sample(step: Step, student: ThreeStageEpisode, engine: PolicyEngine) -> Sample:
    """Return one step as (prompt ids, completion ids) of the student's policy."""
    agent = student.agent
    adapter = agent.adapter or dspy.settings.adapter or dspy.ChatAdapter()
    inputs = {
        "context": Transcript(messages=[dict(m) for m in step.context]),
        "tools": agent.session(agent.memory).toolkit.tools,
    }
    calls = [{"name": call["name"], "args": call["arguments"]} for call in step.output["tool_calls"]]
    outputs = {
        "reasoning": step.output["reasoning"],
        "tool_calls": dspy.ToolCalls.from_dict_list(calls),
        **(step.output["answer"] or {}),
    }
    signature = agent.step.signature
    prompt = engine.render(adapter.format(signature, agent.step.demos, inputs))
    completion = engine.encode_completion(adapter.format_assistant_message_content(signature, outputs))
    return Sample(
        prompt_ids=prompt,
        completion_ids=completion,
        logprobs=np.zeros(len(completion)),
        advantage=1.0,
        weight=1.0,
    )
