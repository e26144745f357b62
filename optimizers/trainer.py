"""PolicyTrainer: LoRA on a copy of the engine's base model; the only user of peft.

One update computes each micro-batch's shared prompt prefix once, with gradient, and sends only completion
positions through the vocabulary head. Log-probabilities use the sampler's temperature.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from transformers.cache_utils import DynamicCache

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.grpo import stepwise_grpo_loss
from agemem_dspy.optimizers.rows import Row, Sample, batches, pack, shared_prefix
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lora import LoraWeights


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How weights are trained. Names are those of TRL and PEFT.

    `max_tokens` bounds the padded tokens of a micro-batch and with it the memory of an update. `top_layers`
    trains adapters in the last so many layers only (None: in all).
    """

    learning_rate: float = 3e-4
    lora_r: int = 16
    lora_alpha: int = 32
    max_grad_norm: float = 1.0
    top_layers: int | None = None
    max_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if not min(self.learning_rate, self.lora_r, self.lora_alpha, self.max_tokens, self.max_grad_norm) > 0:
            raise ConfigurationError("learning_rate, lora_r, lora_alpha, max_tokens and max_grad_norm must be positive")


class PolicyTrainer:
    """Holds the weights in training and turns them into immutable versions.

    Args:
        engine: whose base model is trained; its own weights are not touched.
        config: see `TrainerConfig`.
        start: adapter to continue from.
    """

    def __init__(self, engine: PolicyEngine, config: TrainerConfig, *, start: LoraWeights | None = None) -> None:
        self.config = config
        layers = engine.model.config.num_hidden_layers
        if config.top_layers is not None and not 1 <= config.top_layers <= layers:
            raise ConfigurationError(f"top_layers must be between 1 and {layers}")
        rank = start.rank if start else config.lora_r
        alpha: Any = start.alpha if start else config.lora_alpha  # peft's annotation says int; a fraction works
        lora = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=0.0,
            target_modules=_targets(engine.model, layers - (config.top_layers or layers)),
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(config.seed)
            # peft 0.21 asks transformers 5.23 by a deprecated name
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
            self.model: Any = get_peft_model(engine.base_model(), lora)
        self.model.train()
        if start is not None:
            self._load("default", start)
        self._has_reference = False
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad], lr=config.learning_rate, weight_decay=0.0
        )

    def _pairs(self, adapter: str) -> dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]]:
        found = {}
        for name, module in self.model.base_model.model.named_modules():
            if hasattr(module, "lora_A") and adapter in module.lora_A:
                found[name] = (module.lora_A[adapter].weight, module.lora_B[adapter].weight)
        return found

    def _load(self, adapter: str, weights: LoraWeights) -> None:
        own = self._pairs(adapter)
        if own.keys() != weights.pairs.keys():
            raise ConfigurationError(
                "the adapter to continue from has other target layers; train with the top_layers it was made with"
            )
        with torch.no_grad():
            for name, tensors in weights.pairs.items():
                for parameter, tensor in zip(own[name], tensors, strict=True):
                    parameter.copy_(tensor)

    def weights(self) -> LoraWeights:
        """Return a copy of the weights as they are now."""
        own = self._pairs("default").items()
        pairs = {name: (a.detach().cpu().clone(), b.detach().cpu().clone()) for name, (a, b) in own}
        config = self.model.peft_config["default"]
        return LoraWeights(rank=config.r, alpha=float(config.lora_alpha), pairs=pairs)

    def set_reference(self) -> None:
        """Make the weights as they are now the reference policy of the KL term."""
        current = self.weights()
        if not self._has_reference:
            with torch.random.fork_rng(devices=[]):  # its random start is overwritten below
                self.model.add_adapter("reference", self.model.peft_config["default"])
            self._has_reference = True
        self._load("reference", current)
        self.model.set_adapter("default")

    def logprobs(
        self, rows: Sequence[Row], *, temperature: float = 1.0, prefix: _Prefix | None = None
    ) -> list[torch.Tensor]:
        """Return the log-probabilities of each row's completion tokens, (tokens of the row,) in order.

        Args:
            rows: a micro-batch.
            temperature: the sampler's.
            prefix: tokens that all rows begin with, already computed; the rows' own common prefix otherwise.
        """
        device = self.model.device
        backbone = self.model.base_model.model.model
        if prefix is None:
            prefix = _Prefix(backbone, rows[0].ids[: shared_prefix(rows)])
        start, longest = prefix.length, max(len(row.ids) for row in rows)
        # The last token of a row predicts nothing, so it need not be computed.
        suffix = torch.zeros((len(rows), longest - 1 - start), dtype=torch.long)
        for i, row in enumerate(rows):
            suffix[i, : len(row.ids) - 1 - start] = torch.from_numpy(row.ids[start:-1].copy())
        positions = torch.arange(start, longest - 1, device=device)[None].expand(len(rows), -1)
        hidden = backbone(
            input_ids=suffix.to(device),
            attention_mask=causal_mask(start, longest - 1, device),
            position_ids=positions,
            past_key_values=prefix.cache(len(rows)),
            use_cache=True,
        ).last_hidden_state
        where, targets, counts = [], [], []
        for i, row in enumerate(rows):
            spans = [
                np.arange(begin, begin + len(sample.completion_ids))
                for begin, sample in zip(row.starts, row.samples, strict=True)
            ]
            tokens = np.concatenate(spans)
            where.append(np.stack([np.full(len(tokens), i), tokens - 1 - start]))
            targets.append(row.ids[tokens])
            counts.append(len(tokens))
        index = torch.from_numpy(np.concatenate(where, axis=1)).to(device)
        wanted = torch.from_numpy(np.concatenate(targets)).to(device)
        logits = self.model.base_model.model.lm_head(hidden[index[0], index[1]]).float() / temperature
        logp = logits.gather(1, wanted[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)
        return list(logp.split(counts))

    def imitate(self, trajectories: Sequence[Sequence[Sample]], *, rate: float = 1.0) -> float:
        """Take one optimizer step of supervised learning; return the weighted mean loss a token (nats).

        Args:
            trajectories: each one's samples in order; weights over all of them sum to 1.
            rate: what the learning rate is multiplied by in this step.
        """
        rows = pack(trajectories)
        total = 0.0
        prefix = self._prefix(rows)
        for batch in batches(rows, self.config.max_tokens, prefix.length):
            logp = torch.cat(self.logprobs(batch, prefix=prefix))
            weights = torch.cat([_columns(row)[2] for row in batch]).to(logp)
            loss = -(weights * logp).sum()
            loss.backward()
            total += float(loss.detach())
        prefix.backward()
        self._apply(rate)
        return total

    def update(
        self,
        trajectories: Sequence[Sequence[Sample]],
        *,
        beta: float = 0.0,
        clip: float | None = 0.2,
        temperature: float = 1.0,
    ) -> Mapping[str, float]:
        """Take one optimizer step of step-wise GRPO.

        Args:
            trajectories: each one's samples in order; weights over all of them sum to 1.
            beta, clip: see `grpo.stepwise_grpo_loss`.
            temperature: the sampler's.

        Returns:
            loss, kl, clip_fraction, ratio, entropy proxy `logp` (mean log-prob a token), grad_norm, tokens.
        """
        rows = pack(trajectories)
        sums = {"loss": 0.0, "kl": 0.0, "clip_fraction": 0.0, "ratio": 0.0, "logp": 0.0}
        prefix = self._prefix(rows)
        computed = prefix.length
        for batch in batches(rows, self.config.max_tokens, prefix.length):
            reference = self._reference_logprobs(batch, temperature) if beta > 0 else None
            logp = torch.cat(self.logprobs(batch, temperature=temperature, prefix=prefix))
            columns = [_columns(row) for row in batch]
            old, advantages, weights = (torch.cat(parts).to(logp) for parts in zip(*columns, strict=True))
            parts = stepwise_grpo_loss(logp, old, advantages, weights, ref_logp_N=reference, beta=beta, clip=clip)
            parts.loss.backward()
            share = float(weights.sum())
            sums["loss"] += float(parts.loss.detach())
            sums["kl"] += share * parts.kl
            sums["clip_fraction"] += share * parts.clipped
            sums["ratio"] += share * parts.ratio
            sums["logp"] += float((weights * logp.detach()).sum())
            computed += sum(len(row.ids) - prefix.length for row in batch)
        prefix.backward()
        return {**sums, "grad_norm": self._apply(), "rows": float(len(rows)), "tokens": float(computed)}

    def _prefix(self, rows: Sequence[Row]) -> _Prefix:
        return _Prefix(self.model.base_model.model.model, rows[0].ids[: shared_prefix(rows)])

    def _reference_logprobs(self, batch: Sequence[Row], temperature: float) -> torch.Tensor:
        if not self._has_reference:
            raise ConfigurationError("call set_reference before an update with beta > 0")
        self.model.set_adapter("reference")
        try:
            with torch.no_grad():
                return torch.cat(self.logprobs(batch, temperature=temperature))
        finally:
            self.model.set_adapter("default")

    def _apply(self, rate: float = 1.0) -> float:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm))
        if not np.isfinite(norm):
            self.optimizer.zero_grad()
            raise ConfigurationError("the gradient is not finite; lower learning_rate")
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.config.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm


def _targets(model: torch.nn.Module, first_layer: int) -> list[str]:
    """Return the names of all linear layers in the transformer blocks from `first_layer` on."""
    found = []
    for name, module in model.named_modules():
        block = re.search(r"\.layers\.(\d+)\.", name)
        if block and int(block.group(1)) >= first_layer and isinstance(module, torch.nn.Linear):
            found.append(name)
    return found


class _Prefix:
    """What all rows of an update begin with, computed once.

    Micro-batches see detached copies and leave their gradients there; `backward` sends the sum on, so the
    result is that of computing the prefix in every row.
    """

    def __init__(self, backbone: Any, ids: NDArray[np.int64]) -> None:
        self.length = len(ids)
        self.computed: list[torch.Tensor] = []
        if self.length:
            tokens = torch.from_numpy(ids.copy())[None].to(backbone.device)
            layers = backbone(input_ids=tokens, use_cache=True).past_key_values.layers
            self.computed = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        self.leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self.computed]

    def cache(self, rows: int) -> DynamicCache:
        """Return a cache that starts with the prefix in each of `rows` rows."""
        cache = DynamicCache()
        for index in range(0, len(self.leaves), 2):
            keys, values = (leaf.expand(rows, -1, -1, -1) for leaf in self.leaves[index : index + 2])
            cache.update(keys, values, index // 2)
        return cache

    def backward(self) -> None:
        """Propagate what the micro-batches left."""
        pairs = [(t, leaf.grad) for t, leaf in zip(self.computed, self.leaves, strict=True) if leaf.grad is not None]
        if pairs:
            torch.autograd.backward([t for t, _ in pairs], [grad for _, grad in pairs])


def causal_mask(start: int, end: int, device: torch.device | None = None) -> torch.Tensor:
    """Return which keys in [0, end) the queries in [start, end) see, as booleans (1, 1, end-start, end)."""
    return torch.ones((end - start, end), dtype=torch.bool, device=device).tril(start)[None, None]


def _columns(row: Row) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the sampler's log-probs, advantages and weights of a row's completion tokens."""
    old = np.concatenate([sample.logprobs for sample in row.samples])
    lengths = [len(sample.completion_ids) for sample in row.samples]
    advantages = np.repeat([sample.advantage for sample in row.samples], lengths)
    weights = np.repeat([sample.weight for sample in row.samples], lengths)
    return torch.from_numpy(old).float(), torch.from_numpy(advantages).float(), torch.from_numpy(weights).float()
