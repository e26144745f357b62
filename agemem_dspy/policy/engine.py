"""A local transformers model behind `dspy.LM(engine=…)`: batches, tapes, serves versions.

Requests from any number of threads join a running batch (see `batching` and `generation`).
Every completion is taped token for token (see `recorder`). Trained weights are immutable named
versions: the model string `name@version` picks one, `name` alone is the base.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from dspy import lm15
from dspy.clients.engines.base import validate_request
from numpy.typing import NDArray
from transformers import PreTrainedModel

from agemem_dspy.errors import ConfigurationError, ModelError
from agemem_dspy.policy.batching import Batcher, Pending
from agemem_dspy.policy.drafts import MAX_DRAFT, Phrasebook
from agemem_dspy.policy.generation import Batch, GenerationCounts, Row
from agemem_dspy.policy.linear import suit_few_tokens
from agemem_dspy.policy.models import LoadedModel, load
from agemem_dspy.policy.recorder import current_random, current_tape
from agemem_dspy.policy.reuse import PrefixPool, TokenIds
from agemem_dspy.policy.versions import Weights
from agemem_dspy.types import Completion

_MAX_NEW = 128  # tokens of a completion whose length the LM does not bound
_living: WeakValueDictionary[tuple[str, str], PolicyEngine] = WeakValueDictionary()  # what `load_state` can share
_loading = threading.Lock()


class PolicyEngine:
    """Samples from one base model under any number of trained versions.

    Args:
        loaded: model and tokenizer from `policy.models.load`.
        name: what the model is called in `local/<name>`; its folder's name when left out.
        max_batch: most requests sampled together.
        gather_seconds: how long to wait for one more request before a batch starts or goes on.
        prefix_bytes: memory for reusable keys and values; 0 recomputes every prompt.
        max_draft: most tokens that are guessed and checked in one pass; 0 samples one token a pass.
        seed: of the sampling stream used outside `recorder.sampling_seed`.

    Thread-safe. `copy.deepcopy` returns the same engine, so optimizers that copy programs share weights.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        name: str | None = None,
        max_batch: int = 32,
        gather_seconds: float = 0.02,
        prefix_bytes: int = 1 << 29,
        max_draft: int = MAX_DRAFT,
        seed: int = 0,
    ) -> None:
        self.loaded = loaded
        self.name = f"local/{name or loaded.name}"
        self.model, self.tokenizer = loaded.model.eval(), loaded.tokenizer
        suit_few_tokens(self.model)
        self.context_length = int(self.model.config.max_position_embeddings)
        self.counts = GenerationCounts()
        self._pool = PrefixPool(prefix_bytes) if prefix_bytes > 0 else None
        self._phrases = Phrasebook()
        self._max_draft = max_draft
        self._versions: dict[str, Weights] = {}
        self._loaded_version = ""
        self._original: dict[str, torch.Tensor] = {}
        self._random = np.random.default_rng(seed)
        self._lock = threading.RLock()  # the model's weights; held while a batch is sampled
        self._gate = threading.Lock()  # what submitting threads share; never held for long
        self._batcher = Batcher(self._sampler, max_batch=max_batch, gather_seconds=gather_seconds)
        self._encoded: dict[str, int] = {}
        eos = self.model.generation_config.eos_token_id
        stops = {self.tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
        self.stop_ids = frozenset(int(token) for token in stops if token is not None)
        self._marks = [str(t) for t in self.tokenizer.added_tokens_decoder.values() if t.special and len(str(t)) > 1]
        _living[self.name, loaded.sha256] = self

    # Weights

    def register(self, version: str, weights: Weights) -> str:
        """Add an immutable version and return the model string that addresses it.

        Raises:
            ModelError: the name is taken by other weights, or the model has no such parameters.
        """
        if not version or "@" in version:
            raise ModelError(f"{version!r} cannot name a version; use some letters and digits")
        parameters = dict(self.model.named_parameters())
        for name, wanted in weights.shapes().items():
            shape = tuple(parameters[name].shape) if name in parameters else None
            if shape != wanted:
                raise ModelError(
                    f"version {version!r} does not fit {self.name}: its parameter {name!r} has the shape {shape}, and "
                    f"the weights are for {wanted}; load them with the model that they were trained on"
                )
        own = weights.copy()
        with self._gate:
            if self._versions.setdefault(version, own).sha256() != own.sha256():
                raise ModelError(
                    f"version {version!r} exists with other weights; weights are immutable, use a new name"
                )
        return f"{self.name}@{version}"

    def release(self, version: str) -> None:
        """Forget a version that nobody asks for any more, to free its memory; its name is then unknown.

        Raises:
            ModelError: there is no such version.
        """
        self.version_of(f"{self.name}@{version}")
        with self._lock:
            if version == self._loaded_version:
                self.use("")
            del self._versions[version]

    @property
    def versions(self) -> Mapping[str, Weights]:
        """The registered versions by name."""
        return dict(self._versions)

    def weights(self, model: str) -> Weights | None:
        """Return the weights that a model string addresses, None for the base."""
        version = self.version_of(model)
        return self._versions[version] if version else None

    def version_of(self, model: str) -> str:
        """Return the version in a model string that this engine serves, "" for the base.

        Raises:
            ModelError: it serves no such model.
        """
        base, _, version = model.partition("@")
        if base != self.name or (version and version not in self._versions):
            known = ", ".join([self.name, *(f"{self.name}@{v}" for v in self._versions)])
            raise ModelError(f"this engine does not serve {model!r}; it serves {known}")
        return version

    def weights_sha256(self, model: str) -> tuple[str, str]:
        """Return the digests of the base weights and of the version that a model string addresses, "" for the base.

        Raises:
            ModelError: it serves no such model.
        """
        version = self.weights(model)
        return self.loaded.sha256, version.sha256() if version is not None else ""

    def use(self, version: str) -> None:
        """Give the model the weights of `version`; the caller holds the engine's lock."""
        if version == self._loaded_version:
            return
        weights = self._versions[version] if version else None
        with torch.no_grad():
            self._restore()
            try:
                if weights is not None:
                    self._apply(weights)
            except BaseException:
                self._restore()  # half a version is none
                raise
        self._loaded_version = version

    def _apply(self, weights: Weights) -> None:
        for name in weights.shapes():
            parameter = self.model.get_parameter(name)
            if name not in self._original:
                self._original[name] = parameter.detach().clone()
            parameter.copy_(weights.value(name, parameter))

    def _restore(self) -> None:
        for name, original in self._original.items():
            self.model.get_parameter(name).copy_(original)
        self._loaded_version = ""
        if self._pool is not None:
            self._pool.clear()

    def forget_prefixes(self) -> None:
        """Free the keys and values that are kept for prompts to come."""
        with self._lock:
            if self._pool is not None:
                self._pool.clear()

    def phrases(self) -> dict[str, NDArray[np.int64]]:
        """Return what drafts are made of, see `Phrasebook.dump`; it has a part in how results are rounded."""
        with self._lock:
            return self._phrases.dump()

    def restore_phrases(self, known: Mapping[str, NDArray[np.int64]]) -> None:
        """Make drafts of what `phrases` returned, and of nothing else."""
        with self._lock:
            self._phrases.load(known)

    def base_model(self) -> PreTrainedModel:
        """Return a copy of the base model, without any version, for training."""
        with self._lock:
            self.use("")
            model: PreTrainedModel = copy.deepcopy(self.model)
            return model

    # Text and tokens

    def render(self, messages: Sequence[Mapping[str, str]]) -> TokenIds:
        """Return the prompt's token ids (P,): the chat template with the assistant's turn opened.

        The template's own marks are broken up in what the messages say, so that no text ends its turn or opens another.
        """
        turns = [{**message, "content": self._without_marks(message["content"])} for message in messages]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return np.array(self.tokenizer.encode(text, add_special_tokens=False, verbose=False), dtype=np.int64)

    def _without_marks(self, text: str) -> str:
        for mark in self._marks:
            if mark in text:
                text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text

    def encode_completion(self, text: str) -> TokenIds:
        """Return a completion's token ids (T,), closed by the stop token."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return np.array([*ids, self.tokenizer.eos_token_id], dtype=np.int64)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of `text` without special tokens."""
        count = self._encoded.get(text)
        if count is None:
            if len(self._encoded) > 50_000:
                self._encoded.clear()
            count = self._encoded[text] = len(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))
        return count

    def longest_prompt(self, max_tokens: int | None) -> int:
        """Return the most tokens of a prompt that leave room for a completion of `max_tokens`."""
        return self.context_length - (max_tokens or _MAX_NEW)

    # DSPy's engine contract

    def complete(self, request: lm15.Request) -> lm15.Response:
        """Sample one completion (DSPy's engine contract).

        Raises:
            dspy.lm15.ContextLengthError: prompt and response do not fit the model's context.
            ModelError: the model string names no version.
            ConfigurationError: a sampling option that training could not reproduce.
        """
        pending = self._submit(request)
        pending.done.result()
        return self._finish(request, pending)

    async def acomplete(self, request: lm15.Request) -> lm15.Response:
        """`complete`, awaited."""
        pending = self._submit(request)
        await asyncio.wrap_future(pending.done)
        return self._finish(request, pending)

    def _submit(self, request: lm15.Request) -> Pending:
        validate_request(request)
        config = request.config
        top_p = 1.0 if config.top_p == 1.0 else None  # which is no restriction
        plain = lm15.Config(max_tokens=config.max_tokens, temperature=config.temperature, top_p=top_p)
        refused = [f.name for f in fields(config) if getattr(config, f.name) != getattr(plain, f.name)]
        refused += ["tools"] if request.tools else []
        if refused:
            raise ConfigurationError(f"a local policy samples at a plain temperature; remove {', '.join(refused)}")
        system = request.system if isinstance(request.system, str) else "".join(p.text for p in request.system or ())
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": m.role, "content": m.text or ""} for m in request.messages]
        prompt_ids = self.render(messages)
        max_new = config.max_tokens or _MAX_NEW
        if len(prompt_ids) > self.longest_prompt(max_new):
            raise lm15.ContextLengthError(
                f"{len(prompt_ids)} prompt tokens and {max_new} to generate exceed {self.context_length}"
            )
        temperature = 0.0 if config.temperature is None else float(config.temperature)
        with self._gate:
            stream = current_random() or self._random
            random = np.random.default_rng(stream.integers(1 << 63))
        row = Row(prompt_ids=prompt_ids, max_new_tokens=max_new, temperature=temperature, random=random)
        return self._batcher.submit(row, self.version_of(request.model))

    def _finish(self, request: lm15.Request, pending: Pending) -> lm15.Response:
        row = pending.row
        ended = row.completion_ids[-1] in self.stop_ids
        ids = row.completion_ids[:-1] if ended else row.completion_ids
        completion = Completion(
            model=request.model,
            prompt_ids=tuple(row.prompt_ids.tolist()),
            completion_ids=tuple(row.completion_ids),
            logprobs=tuple(row.logprobs),
            text=str(self.tokenizer.decode(ids)),
            temperature=row.temperature,
            finish_reason="stop" if ended else "length",
        )
        tape = current_tape()
        if tape is not None:
            tape.completions.append(completion)
        return lm15.Response(
            id=None,
            model=request.model,
            message=lm15.Message.assistant([lm15.TextPart(completion.text)]),
            finish_reason="stop",  # the tape has the true reason; DSPy would log a warning for each "length"
            usage=lm15.Usage(
                input_tokens=len(row.prompt_ids),
                output_tokens=len(row.completion_ids),
                total_tokens=len(row.prompt_ids) + len(row.completion_ids),
            ),
        )

    def _sampler(self, version: str) -> Batch:
        return _VersionBatch(self, version)

    # State

    def __deepcopy__(self, memo: dict[int, Any]) -> PolicyEngine:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).load_state, (self.dump_state(),)

    def dump_state(self) -> dict[str, Any]:
        """Return where the base weights are and what they hash to; adapters are saved by `checkpoints`."""
        return {"name": self.name, "model": str(self.loaded.path), "sha256": self.loaded.sha256}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> PolicyEngine:
        """Return the engine that `dump_state` described: the one that this process has, else a new one.

        Raises:
            ModelError: the weights are gone or are not the ones that were saved.
        """
        with _loading:  # a program names its LM once for each predictor; its weights are loaded once
            found = _living.get((str(state["name"]), str(state["sha256"])))
            if found is not None:
                return found
            loaded = load(str(state["model"]))
            if loaded.sha256 != state["sha256"]:
                raise ModelError(
                    f"the weights in {loaded.path} are not those that were saved (sha256 {loaded.sha256[:12]}…); "
                    "put the former weights back"
                )
            return cls(loaded, name=str(state["name"]).removeprefix("local/"))


class _VersionBatch(Batch):
    """A batch that has the engine's weights to itself, at its version, for the time of each step."""

    def __init__(self, engine: PolicyEngine, version: str) -> None:
        super().__init__(
            engine.model,
            stop_ids=engine.stop_ids,
            pool=engine._pool,
            phrases=engine._phrases,
            counts=engine.counts,
            max_draft=engine._max_draft,
        )
        self._engine, self._version = engine, version

    def admit(self, row: Row) -> None:
        with self._engine._lock:
            self._engine.use(self._version)  # what the pool keeps belongs to it
            super().admit(row)

    def step(self) -> list[Row]:
        with self._engine._lock:
            self._engine.use(self._version)
            return super().step()
