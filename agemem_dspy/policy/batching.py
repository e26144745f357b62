"""Micro-batching: requests from any number of threads are gathered for a few milliseconds and served together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from agemem_dspy.policy.generation import Row


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A row that waits to be sampled under a version of the weights; `done` is set when it was."""

    row: Row
    version: str
    done: Future[None] = field(default_factory=Future)


class MicroBatcher:
    """Hands rows of one version at a time to `sample`, from a thread of its own. Thread-safe.

    The thread ends when nothing came for `idle_seconds`, so that it keeps nobody's model in memory.

    Args:
        sample: completes the rows in place under a version of the weights.
        max_batch: most rows in one call.
        gather_seconds: how long to wait for one more row before a call.
    """

    def __init__(
        self,
        sample: Callable[[str, Sequence[Row]], None],
        *,
        max_batch: int,
        gather_seconds: float,
        idle_seconds: float = 10.0,
    ) -> None:
        self.sample, self.max_batch = sample, max_batch
        self.gather_seconds, self.idle_seconds = gather_seconds, idle_seconds
        self._queue: queue.SimpleQueue[Pending] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None
        self._starting = threading.Lock()

    def submit(self, row: Row, version: str) -> Pending:
        """Queue a row; its `done` raises what `sample` raised."""
        pending = Pending(row, version)
        with self._starting:
            self._queue.put(pending)
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._serve, name="agemem-policy", daemon=True)
                self._worker.start()
        return pending

    def _serve(self) -> None:
        waiting: list[Pending] = []
        while self._gather(waiting):
            version = waiting[0].version
            batch = [p for p in waiting if p.version == version][: self.max_batch]
            waiting = [p for p in waiting if p not in batch]
            batch = [p for p in batch if p.done.set_running_or_notify_cancel()]  # an awaiting caller may have left
            if not batch:
                continue
            try:
                self.sample(version, [pending.row for pending in batch])
            except Exception as error:  # noqa: BLE001 - the thread outlives a failed batch; its callers get the error
                for pending in batch:
                    pending.done.set_exception(error)
            else:
                for pending in batch:
                    pending.done.set_result(None)

    def _gather(self, waiting: list[Pending]) -> bool:
        """Add requests until none comes for `gather_seconds` or the batch is full; return False if idle for long."""
        while not waiting:
            try:
                waiting.append(self._queue.get(timeout=self.idle_seconds))
            except queue.Empty:
                with self._starting:
                    if self._queue.empty():
                        self._worker = None
                        return False
        deadline = time.monotonic() + 10 * self.gather_seconds
        while len(waiting) < self.max_batch and time.monotonic() < deadline:
            try:
                waiting.append(self._queue.get(timeout=self.gather_seconds))
            except queue.Empty:
                break
        return True
