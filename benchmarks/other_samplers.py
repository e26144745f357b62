"""How else the calls of an episode can be sampled: what the engine's own batcher is compared with.

Each stands in for a `Batcher` of an engine whose model has the weights to sample from. Log-probabilities are not
recorded.
"""

from __future__ import annotations

import threading

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from agemem_dspy.policy.batching import Pending
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.generation import Row


class OneByOne:
    """Stands in for the engine's batcher: each call waits for the one before, and is computed from nothing."""

    def __init__(self, engine: PolicyEngine) -> None:
        self.engine = engine

    def submit(self, row: Row, version: str) -> Pending:
        """Sample a row with `generate`."""
        engine = self.engine
        ids = torch.from_numpy(row.prompt_ids)[None].to(engine.model.device)
        with engine._lock, torch.no_grad():
            found = engine.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=row.temperature > 0,
                temperature=row.temperature or None,
                max_new_tokens=row.max_new_tokens,
                eos_token_id=sorted(engine.stop_ids),
                pad_token_id=min(engine.stop_ids),
            )
        pending = Pending(row, version)
        _complete(engine, pending, found[0, ids.shape[1] :].tolist())
        engine.counts.passes += len(row.completion_ids)
        return pending


class Continuous:
    """`generate_batch` of transformers as a server: paged attention, prefixes shared by whole pages.

    Args:
        engine: whose model samples, all rows at one temperature.
        most: rows sampled at once.
    """

    def __init__(self, engine: PolicyEngine, most: int) -> None:
        self.engine = engine
        stops = sorted(engine.stop_ids)
        config = GenerationConfig(do_sample=True, temperature=1.0, eos_token_id=stops, pad_token_id=stops[0])
        # Pages of 256 tokens, the default, would hardly ever be shared by prompts of 300.
        pages = ContinuousBatchingConfig(
            page_size=32, num_blocks=64 * most, max_batch_tokens=1024, max_requests_per_batch=most
        )
        self._manager = engine.model.init_continuous_batching(config, pages)
        self._manager.start()
        self._waiting: dict[str, Pending] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    def submit(self, row: Row, version: str) -> Pending:
        """Queue a row."""
        pending = Pending(row, version)
        with self._lock:
            name = self._manager.add_request(row.prompt_ids.tolist(), max_new_tokens=row.max_new_tokens)
            self._waiting[name] = pending
        return pending

    def close(self) -> None:
        """Stop sampling and free the pages."""
        self.engine.counts.passes += self._manager.current_batch
        self._manager.stop(block=True)
        self._thread.join()
        self._manager.destroy()

    def _deliver(self) -> None:
        for result in self._manager:
            if result.is_finished():
                with self._lock:
                    pending = self._waiting.pop(result.request_id)
                if result.error is not None:
                    pending.done.set_exception(RuntimeError(result.error))
                else:
                    _complete(self.engine, pending, list(result.generated_tokens))


def _complete(engine: PolicyEngine, pending: Pending, completion_ids: list[int]) -> None:
    """Give a row its completion; the whole prompt counts as computed."""
    row = pending.row
    row.completion_ids, row.logprobs = completion_ids, [0.0] * len(completion_ids)
    engine.counts.calls += 1
    engine.counts.prompt_tokens += len(row.prompt_ids)
    engine.counts.computed_tokens += len(row.prompt_ids)
    engine.counts.completion_tokens += len(completion_ids)
    pending.done.set_result(None)
