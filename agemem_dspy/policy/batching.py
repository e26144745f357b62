"""Continuous batching: requests from any number of threads join a running batch as others leave it."""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakSet

from agemem_dspy.policy.generation import Row

_living: WeakSet[Batcher] = WeakSet()


@atexit.register
def _end_steps() -> None:
    """Wait for steps under way and let no other begin: a daemon thread that ends inside torch aborts the process."""
    for batcher in list(_living):
        batcher.stepping.acquire()


class Sampler(Protocol):
    """Rows being sampled under one version of the weights, as `generation.Batch` does it."""

    def __len__(self) -> int:
        """Return how many rows are being sampled."""
        ...

    def admit(self, row: Row) -> None:
        """Let a row join."""
        ...

    def step(self) -> list[Row]:
        """Sample at least one token for every row and return the rows that are done, which leave."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A row that waits to be sampled under a version of the weights; `done` is set when it was."""

    row: Row
    version: str
    done: Future[None] = field(default_factory=Future)


class Batcher:
    """Runs rows of one version at a time through a sampler, from a thread of its own. Thread-safe.

    The thread ends when nothing came for `idle_seconds`, so that it keeps nobody's model in memory.

    Args:
        sampler: opens an empty sampler for a version of the weights.
        max_batch: most rows sampled at once.
        gather_seconds: how long to wait for one more row when there is room that was just made.
    """

    def __init__(
        self,
        sampler: Callable[[str], Sampler],
        *,
        max_batch: int,
        gather_seconds: float,
        idle_seconds: float = 10.0,
    ) -> None:
        self.sampler, self.max_batch = sampler, max_batch
        self.gather_seconds, self.idle_seconds = gather_seconds, idle_seconds
        self._queue: queue.SimpleQueue[Pending] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None
        self._starting = threading.Lock()
        self.stepping = threading.Lock()  # held while a step is sampled
        _living.add(self)

    def submit(self, row: Row, version: str) -> Pending:
        """Queue a row; its `done` raises what the sampler raised."""
        pending = Pending(row, version)
        with self._starting:
            self._queue.put(pending)
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._serve, name="agemem-policy", daemon=True)
                self._worker.start()
        return pending

    def _serve(self) -> None:
        waiting: list[Pending] = []
        while self._wait(waiting):
            self._run(waiting[0].version, waiting)

    def _run(self, version: str, waiting: list[Pending]) -> None:
        """Sample rows of one version until none is left of those that came in time."""
        running: dict[int, Pending] = {}
        try:
            sampler = self.sampler(version)
            expected = self.max_batch
            while True:
                self._gather(waiting, expected)
                others = any(p.version != version for p in waiting)  # they get their turn when this batch is done
                room = 0 if others and running else self.max_batch - len(running)
                with self.stepping:
                    for pending in [p for p in waiting if p.version == version][:room]:
                        waiting.remove(pending)
                        if pending.done.set_running_or_notify_cancel():  # an awaiting caller may have left
                            running[id(pending.row)] = pending
                            sampler.admit(pending.row)
                    if not running:
                        return
                    finished = sampler.step()
                for row in finished:
                    running.pop(id(row)).done.set_result(None)
                expected = 0 if others else len(finished)  # whoever got an answer is likely to ask again soon
        except Exception as error:  # noqa: BLE001 - the thread outlives a failed batch; its callers get the error
            for pending in running.values():
                pending.done.set_exception(error)

    def _wait(self, waiting: list[Pending]) -> bool:
        """Block until a request is there; return False if none came for long."""
        while not waiting:
            try:
                waiting.append(self._queue.get(timeout=self.idle_seconds))
            except queue.Empty:
                with self._starting:
                    if self._queue.empty():
                        self._worker = None
                        return False
        return True

    def _gather(self, waiting: list[Pending], expected: int) -> None:
        """Take what is queued; wait for `expected` requests until none comes for `gather_seconds`."""
        deadline = time.monotonic() + 10 * self.gather_seconds
        while True:
            patient = expected > 0 and len(waiting) < self.max_batch and time.monotonic() < deadline
            try:
                waiting.append(self._queue.get(timeout=self.gather_seconds) if patient else self._queue.get_nowait())
            except queue.Empty:
                return
            expected -= 1
