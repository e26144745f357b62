"""DSPy's own weight optimizers on the local engine: a `dspy.Provider` with its two jobs.

`dspy.BootstrapFinetune` and DSPy's `GRPO` prepare data and leave the training to the LM's provider. They hand over
texts, not the tokens that were sampled; `StepwiseGRPO`, which trains on the tape, has no such loss.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import dspy
import numpy as np
from dspy.clients.provider import Provider, ReinforceJob, TrainingJob
from dspy.clients.utils_finetune import GRPOStatus, TrainDataFormat, TrainingStatus

from agemem_dspy.errors import ConfigurationError, TrainingError
from agemem_dspy.optimizers import processes
from agemem_dspy.optimizers.grpo import Scale, group_advantages, step_weights
from agemem_dspy.optimizers.supervised import supervise
from agemem_dspy.optimizers.trainer import PolicyTrainer
from agemem_dspy.optimizers.training import TrainerConfig
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import policy_engine

_BATCHES = (
    256  # ids offered to DSPy's GRPO a step; it repeats groups to fill them, and hands leftovers to the next step
)


def trainable(lm: dspy.LM) -> dspy.LM:
    """Return a copy of a local LM that DSPy's weight optimizers can train.

    `train_kwargs` of `dspy.BootstrapFinetune` are the fields of `TrainerConfig`, `epochs` (1) and `batch_size` (8
    calls); those of DSPy's `GRPO` are the fields of `TrainerConfig`, `beta` (0), `clip` (0.2), `eps` (0.05) and `scale`
    ("token"), as in `GRPOConfig`. Programs need a chat adapter: `CompactAdapter` or `dspy.ChatAdapter`.

    Raises:
        ConfigurationError: the LM is not a local policy, or several processes train together.
    """
    engine = _engine(lm)
    processes.refuse_several("training by DSPy's own optimizers")
    own = lm.copy()
    own.provider = LocalProvider(engine)
    return own


class LocalProvider(Provider):
    """Trains LoRA versions of the model that an engine serves."""

    def __init__(self, engine: PolicyEngine) -> None:
        super().__init__()
        self.engine = engine
        self.finetunable = self.reinforceable = True
        self.TrainingJob = FinetuneJob
        self.ReinforceJob = GRPOJob

    def finetune(  # DSPy declares a static method and calls it on the instance
        self,
        job: FinetuneJob,
        model: str,
        train_data: Sequence[Mapping[str, Any]],
        train_data_format: TrainDataFormat | str | None,
        train_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Train on conversations, of which the last message is learnt; return the model string of the new version.

        Raises:
            ConfigurationError: another format than chat, no data, or an unknown option.
            TrainingError: the job was cancelled.
        """
        config, own = _options(train_kwargs, {"epochs": 1, "batch_size": 8})
        if train_data_format != TrainDataFormat.CHAT or not train_data:
            raise ConfigurationError(f"finetune needs conversations in the chat format, not {train_data_format!r}")
        trainer = PolicyTrainer(self.engine, config, start=self.engine.weights(model))
        calls = [_sample(self.engine, row["messages"][:-1], row["messages"][-1]) for row in train_data]
        supervise(
            trainer,
            [[call] for call in calls],
            epochs=own["epochs"],
            batch_size=own["batch_size"],
            seed=config.seed,
            on_step=job.progressed,
        )
        weights = trainer.weights()
        return self.engine.register(f"finetuned-{weights.sha256()[:10]}", weights)


class FinetuneJob(TrainingJob):
    """Supervised training in a thread; its result is the new LM, or what went wrong."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.losses: list[float] = []
        self._stopped = threading.Event()

    def progressed(self, step: int, steps: int, loss: float) -> None:
        """Note a step's loss; called by the training thread."""
        self.losses.append(loss)
        if self._stopped.is_set():
            raise TrainingError(f"the job was cancelled after step {step} of {steps}; nothing was registered")

    def cancel(self) -> bool:
        """Stop after the step that is being taken; tell whether there was anything to stop."""
        self._stopped.set()
        return not self.done()

    def status(self) -> TrainingStatus:
        """Return where the job stands."""
        if not self.done():
            return TrainingStatus.running
        if not isinstance(self.result(), Exception):
            return TrainingStatus.succeeded
        return TrainingStatus.cancelled if self._stopped.is_set() else TrainingStatus.failed


class GRPOJob(ReinforceJob):
    """Takes the groups of DSPy's `GRPO`, one optimizer step for all groups of a call, and serves the new weights.

    Log-probabilities of the sampler are computed anew from the text under the weights that it was sampled with. What
    DSPy repeats to fill its batches, and hands to the next step of what it repeated, is trained on once.
    """

    lm: dspy.LM

    def __init__(self, lm: dspy.LM, train_kwargs: Mapping[str, Any] | None = None) -> None:
        super().__init__(lm, dict(train_kwargs or {}))
        self.id = f"grpo-{uuid.uuid4().hex[:8]}"
        self.metrics: list[Mapping[str, float]] = []
        self._seen: set[str] = set()  # the groups of the step before
        self._next = 0
        self._status = TrainingStatus.not_started

    def initialize(self) -> None:
        """Make the trainer.

        Raises:
            ConfigurationError: an unknown option, or an LM that samples greedily.
        """
        self.engine = _engine(self.lm)
        config, self.own = _options(
            self.train_kwargs, {"beta": 0.0, "clip": 0.2, "eps": 0.05, "scale": "token", "num_generations": None}
        )
        self.temperature = self.lm.kwargs.get("temperature") or 0.0
        if self.temperature <= 0:
            raise ConfigurationError("DSPy's GRPO samples with the LM's temperature, which is 0; set it above 0")
        self.trainer = PolicyTrainer(self.engine, config, start=self.engine.weights(self.lm.model))
        if self.own["beta"] > 0:
            self.trainer.set_reference()
        self._status = TrainingStatus.running

    def step(
        self, train_data: Sequence[Mapping[str, Any]], train_data_format: TrainDataFormat | str | None = None
    ) -> None:
        """Take one optimizer step on the groups that are new and do not tie.

        Raises:
            ConfigurationError: another format than that of DSPy's `GRPO`, or a group of another size.
        """
        if train_data_format != TrainDataFormat.GRPO_CHAT:
            raise ConfigurationError(f"a GRPO job takes groups in the format grpo_chat, not {train_data_format!r}")
        self._next += len(train_data)
        calls, now = [], set[str]()
        for batch in train_data:
            group = batch["group"]
            size = self.own["num_generations"]
            if size is not None and len(group) != size:
                raise ConfigurationError(f"a group has {len(group)} completions, not num_generations={size}")
            text = json.dumps(group, sort_keys=True)
            known = text in self._seen or text in now
            now.add(text)
            if not known:
                advantages = group_advantages([one["reward"] for one in group], eps=self.own["eps"])
                if advantages.any():
                    calls += [
                        replace(_sample(self.engine, one["messages"], one["completion"]), advantage=float(a))
                        for one, a in zip(group, advantages, strict=True)
                    ]
        self._seen = now
        if calls:
            self._update(calls)

    def _update(self, calls: Sequence[Sample]) -> None:
        scale: Scale = self.own["scale"]
        weights = step_weights([[len(call.completion_ids)] for call in calls], scale)
        old = self.trainer.logprobs(calls, temperature=self.temperature).double().cpu().numpy()
        ends = np.cumsum([len(call.completion_ids) for call in calls])
        samples = [
            [replace(call, weight=weight, logprobs=logprobs)]
            for call, (weight,), logprobs in zip(calls, weights, np.split(old, ends[:-1]), strict=True)
        ]
        rate = min((len(self.metrics) + 1) / 3, 1.0)  # how many steps there will be is not told
        self.metrics.append(
            self.trainer.update(
                samples, beta=self.own["beta"], clip=self.own["clip"], temperature=self.temperature, rate=rate
            )
        )
        trained = self.trainer.weights()
        self.lm.model = self.engine.register(f"grpo-{trained.sha256()[:10]}", trained)

    def get_status(self) -> GRPOStatus:
        """Return what DSPy's `GRPO` asks for before each step."""
        return GRPOStatus(
            job_id=self.id,
            status=self._status.value,
            current_model=self.lm.model,
            checkpoints=dict(self.checkpoints),
            last_checkpoint=self.last_checkpoint,
            pending_batch_ids=list(range(self._next, self._next + _BATCHES)),
        )

    def status(self) -> TrainingStatus:
        """Return where the job stands."""
        return self._status

    def save_checkpoint(self, checkpoint_name: str) -> None:
        """Give the version that is served now a second name, in `checkpoints`."""
        self.checkpoints[checkpoint_name] = self.lm.model
        self.last_checkpoint = checkpoint_name

    def terminate(self) -> None:
        """Free the trainer; the LM keeps its last version."""
        self._end(TrainingStatus.succeeded)

    def cancel(self) -> None:
        """Free the trainer; the LM keeps its last version."""
        self._end(TrainingStatus.cancelled)

    def _end(self, status: TrainingStatus) -> None:
        if self._status is TrainingStatus.running:
            del self.trainer
            self._status = status


def _engine(lm: dspy.LM) -> PolicyEngine:
    engine = policy_engine(lm)
    if engine is None:
        raise ConfigurationError(f'{lm.model!r} is not a local policy; use agemem_dspy.local_lm("smollm2-135m")')
    return engine


def _options(given: Mapping[str, Any] | None, own: Mapping[str, Any]) -> tuple[TrainerConfig, dict[str, Any]]:
    """Split `train_kwargs` into the trainer's configuration and the job's own options.

    Raises:
        ConfigurationError: an unknown option; names the known ones.
    """
    names = [field.name for field in fields(TrainerConfig)]
    unknown = sorted(set(given or {}) - {*names, *own})
    if unknown:
        raise ConfigurationError(f"train_kwargs: unknown option {unknown[0]!r}; known: {', '.join([*names, *own])}")
    given = given or {}
    config = TrainerConfig(**{name: given[name] for name in names if name in given})
    return config, {name: given.get(name, default) for name, default in own.items()}


def _sample(engine: PolicyEngine, messages: Sequence[Mapping[str, str]], reply: Mapping[str, str]) -> Sample:
    completion = engine.encode_completion(reply["content"])
    return Sample(
        prompt_ids=engine.render(messages),
        completion_ids=completion,
        logprobs=np.zeros(len(completion)),
        advantage=1.0,
        weight=1.0,
    )
