"""PolicyTrainer: updates of an adapter on a copy of the engine's base model, or of the copy itself.

One update computes each token of the samples' token tree once, with gradient, and sends only the positions before
completion tokens through the vocabulary head. Log-probabilities use the sampler's temperature. Several processes, all
of which are given all trajectories, compute the gradient of a share each and take the step with the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers import processes
from agemem_dspy.optimizers.grpo import stepwise_grpo_loss
from agemem_dspy.optimizers.heap import return_freed_memory
from agemem_dspy.optimizers.packed import Memory, Predictions, forward, predictions
from agemem_dspy.optimizers.trained import trained_model
from agemem_dspy.optimizers.training import Sampling, TrainerConfig, Updated, rate_at
from agemem_dspy.optimizers.tree import Sample, Segment, TokenTree, parts
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.versions import Weights


class PolicyTrainer:
    """Holds the weights in training and turns them into immutable versions.

    Args:
        engine: whose base model is trained; its own weights are not touched.
        config: see `TrainerConfig`.
        start: weights to continue from.
    """

    def __init__(self, engine: PolicyEngine, config: TrainerConfig, *, start: Weights | None = None) -> None:
        self.config = config
        self.trained = trained_model(engine, config, start=start)
        self.model = self.trained.model
        self.optimizer = torch.optim.AdamW(self.trained.parameters(), lr=config.learning_rate, weight_decay=0.0)

    def weights(self) -> Weights:
        """Return a copy of the weights as they are now."""
        return self.trained.weights()

    def set_reference(self) -> None:
        """Make the weights as they are now the reference policy of the KL term."""
        self.trained.set_reference()

    def state(self) -> dict[str, torch.Tensor]:
        """Return copies of all that an update changes: the weights and Adam's moments."""
        found = {}
        for i, parameter in enumerate(self.trained.parameters()):
            found[f"weight.{i}"] = parameter.detach().cpu().clone()
            for name, tensor in self.optimizer.state[parameter].items():
                found[f"{name}.{i}"] = tensor.detach().cpu().clone()
        return found

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go back to what `state` returned."""
        moments: dict[int, dict[str, torch.Tensor]] = {}
        with torch.no_grad():
            for i, parameter in enumerate(self.trained.parameters()):
                parameter.copy_(state[f"weight.{i}"])
                names = [name for name in state if name.endswith(f".{i}") and not name.startswith("weight.")]
                moments[i] = {name.partition(".")[0]: state[name].clone() for name in names}
        own = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**own, "state": {i: one for i, one in moments.items() if one}})

    @torch.no_grad()
    def logprobs(self, samples: Sequence[Sample], *, temperature: float = 1.0) -> torch.Tensor:
        """Return the log-probabilities of all completion tokens, one sample after the other.

        Args:
            samples: each is computed with its own prompt before it.
            temperature: the sampler's.
        """
        result = torch.empty(sum(len(sample.completion_ids) for sample in samples), device=self.model.device)
        tree = TokenTree(samples)
        memory: Memory | None = None
        for segments in [tree.trunk, *tree.batches(self.config.max_tokens)]:
            if segments:
                hidden, computed = forward(self._backbone, segments, memory)
                memory = computed if segments is tree.trunk else memory
                for part in predictions(segments, self.config.max_tokens // 2 + 1):
                    result[part.owners] = self._head(hidden[part.places], part, temperature)
        return result

    @property
    def _backbone(self) -> Any:
        return self.trained.causal.model

    def _head(self, hidden: torch.Tensor, part: Predictions, temperature: float) -> torch.Tensor:
        """Return the log-probs (m,) of the predictions from the hidden states (distinct places, E)."""
        logits = self.trained.causal.lm_head(hidden).float() / temperature
        logp = torch.log_softmax(logits, dim=-1)
        return logp[part.rows, part.targets]

    def _backward(
        self, samples: Sequence[Sample], loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], temperature: float
    ) -> int:
        """Add the gradient of a loss that is a sum over completion tokens; return how many tokens were computed.

        The trunk is computed first and keeps its graph. Leaves follow in micro-batches, which see detached copies of
        the trunk's keys and values and leave their gradients there; in the end the trunk takes them all.

        Args:
            loss: of log-probs (m,), given which of all completion tokens they are (m,).
        """
        tree = TokenTree(samples)
        trunk_hidden, trunk = forward(self._backbone, tree.trunk) if tree.trunk else (None, {})
        memory = {layer: (_detached(keys), _detached(values)) for layer, (keys, values) in trunk.items()}
        for segments in tree.batches(self.config.max_tokens):
            hidden, _ = forward(self._backbone, segments, memory)
            states, gradient = self._head_gradient(hidden, segments, loss, temperature)
            torch.autograd.backward([states], [gradient])
        if trunk_hidden is not None:
            roots = [self._head_gradient(trunk_hidden, tree.trunk, loss, temperature)]
            for layer, pair in trunk.items():
                roots += [(t, leaf.grad) for t, leaf in zip(pair, memory[layer], strict=True) if leaf.grad is not None]
            roots = [(tensor, gradient) for tensor, gradient in roots if tensor.requires_grad]
            if roots:
                torch.autograd.backward([tensor for tensor, _ in roots], [gradient for _, gradient in roots])
        return tree.tokens

    def _head_gradient(
        self,
        hidden: torch.Tensor,
        segments: Sequence[Segment],
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return hidden states (N, E) and the loss's gradient there, some positions' logits at a time."""
        states = hidden.detach().requires_grad_()
        for part in predictions(segments, self.config.max_tokens // 2 + 1):
            loss(self._head(states[part.places], part, temperature), part.owners).backward()
        return hidden, torch.zeros_like(states) if states.grad is None else states.grad

    def fit(
        self,
        steps: int,
        *,
        sample: Sampling,
        updated: Updated,
        first: int = 0,
        decay: bool = True,
        beta: float = 0.0,
        clip: float | None = 0.2,
        temperature: float = 1.0,
    ) -> None:
        """See `GRPOBackend`. Where `sample` returns none, the weights stay as they are."""
        for step in range(first, steps):
            samples = sample(step)
            metrics: Mapping[str, float] = {}
            if samples:
                rate = rate_at(step, steps if decay else None)
                metrics = self.update(samples, beta=beta, clip=clip, temperature=temperature, rate=rate)
                return_freed_memory()
            if not updated(step, self.weights(), metrics):
                return

    def imitate(self, trajectories: Sequence[Sequence[Sample]], *, rate: float = 1.0) -> float:
        """Take one optimizer step of supervised learning; return the weighted mean loss a token (nats).

        Args:
            trajectories: each one's samples in order; weights over all of them sum to 1.
            rate: what the learning rate is multiplied by in this step.
        """
        total = 0.0
        for samples in self._parts(trajectories):
            weights = self._columns(samples)[2]

            def loss(logp: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
                nonlocal total
                value = -(weights[owners] * logp).sum()  # noqa: B023 - called in this turn of the loop
                total += float(value.detach())
                return value

            self._backward(samples, loss, 1.0)
        self._apply(rate)
        return processes.summed({"loss": total})["loss"]

    def update(
        self,
        trajectories: Sequence[Sequence[Sample]],
        *,
        beta: float = 0.0,
        clip: float | None = 0.2,
        temperature: float = 1.0,
        rate: float = 1.0,
    ) -> Mapping[str, float]:
        """Take one optimizer step of step-wise GRPO.

        Args:
            trajectories: each one's samples in order; weights over all of them sum to 1.
            beta, clip: see `grpo.stepwise_grpo_loss`.
            temperature: the sampler's.
            rate: what the learning rate is multiplied by in this step.

        Returns:
            loss, kl, clip_fraction, ratio, entropy proxy `logp` (mean log-prob a token), grad_norm, and `tokens`, those
            that were computed.
        """
        sums = {"loss": 0.0, "kl": 0.0, "clip_fraction": 0.0, "ratio": 0.0, "logp": 0.0, "tokens": 0.0}
        for samples in self._parts(trajectories):
            columns = self._columns(samples)
            reference = self._reference_logprobs(samples, temperature) if beta > 0 else None

            def loss(logp: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
                old, advantages, weights = (column[owners] for column in columns)  # noqa: B023
                ref = None if reference is None else reference[owners]  # noqa: B023
                found = stepwise_grpo_loss(logp, old, advantages, weights, ref_logp_N=ref, beta=beta, clip=clip)
                share = float(weights.sum())
                sums["loss"] += float(found.loss.detach())
                sums["kl"] += share * found.kl
                sums["clip_fraction"] += share * found.clipped
                sums["ratio"] += share * found.ratio
                sums["logp"] += float((weights * logp.detach()).sum())
                return found.loss

            sums["tokens"] += self._backward(samples, loss, temperature)
        return {**processes.summed(sums), "grad_norm": self._apply(rate)}

    def _parts(self, trajectories: Sequence[Sequence[Sample]]) -> Iterator[list[Sample]]:
        """Yield this process's share of the samples, as many at once as memory allows."""
        return parts(processes.share(trajectories), self.config.max_trunk)

    def _columns(self, samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the sampler's log-probs, advantages and weights of all completion tokens."""
        lengths = [len(sample.completion_ids) for sample in samples]
        old = np.concatenate([sample.logprobs for sample in samples])
        advantages = np.repeat([sample.advantage for sample in samples], lengths)
        weights = np.repeat([sample.weight for sample in samples], lengths)

        def column(values: NDArray[np.float64]) -> torch.Tensor:
            return torch.from_numpy(values).float().to(self.model.device)

        return column(old), column(advantages), column(weights)

    def _reference_logprobs(self, samples: Sequence[Sample], temperature: float) -> torch.Tensor:
        with self.trained.reference():
            return self.logprobs(samples, temperature=temperature)

    def _apply(self, rate: float) -> float:
        parameters = self.trained.parameters()
        processes.sum_gradients(parameters)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm))
        if not np.isfinite(norm):
            self.optimizer.zero_grad()
            raise ConfigurationError("the gradient is not finite; lower learning_rate")
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.config.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm


def _detached(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy that gathers its own gradient, if the tensor has one."""
    return tensor.detach().requires_grad_(tensor.requires_grad)
