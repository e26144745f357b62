"""How much may be stored: of one entry, and in a time."""

from __future__ import annotations

import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.guards.verdict import GuardContext, Verdict
from agemem_dspy.types import Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLimit:
    """Reject an entry that is too large; sizes are in characters, of the metadata as JSON.

    Raises:
        ConfigurationError: a limit below 1.
    """

    content: int = 4_000
    metadata: int = 4_000

    def __post_init__(self) -> None:
        if min(self.content, self.metadata) < 1:
            raise ConfigurationError("SizeLimit: give limits of at least one character")

    def __call__(self, memory: Memory, context: GuardContext) -> Verdict:
        """Judge one memory."""
        sizes = {
            "content": (len(memory.content), self.content),
            "metadata": (len(json.dumps(dict(memory.metadata), ensure_ascii=False)), self.metadata),
        }
        for what, (size, limit) in sizes.items():
            if size > limit:
                reason = f"the {what} has {size:,} characters and may have {limit:,}: keep what matters"
                return Verdict(action="reject", reason=reason)
        return Verdict()


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """Reject what one user adds beyond so many entries in so many seconds.

    `seconds=None` counts since the store was opened, which in a training episode is its beginning. Attempts count,
    so a flood does not pass by being refused. The clock is that of `GuardedMemory`.

    Raises:
        ConfigurationError: limits that are not positive.
    """

    adds: int = 120
    seconds: float | None = 60.0

    def __post_init__(self) -> None:
        if self.adds < 1 or (self.seconds is not None and not self.seconds > 0):
            raise ConfigurationError("RateLimit: give at least one add in a time above zero")

    def __call__(self, memory: Memory, context: GuardContext) -> Verdict:
        """Judge one memory."""
        if context.operation != "add" or context.added(self.seconds) <= self.adds:
            return Verdict()
        time = "so far" if self.seconds is None else f"in {self.seconds:g} seconds"
        return Verdict(action="reject", reason=f"more than {self.adds} memories {time}: store fewer")


class AddLog:
    """When each user tried to add, for `RateLimit`: a number an attempt, as long as somebody asks for it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)
        self._total: defaultdict[str, int] = defaultdict(int)
        self._longest = 0.0
        self._lock = threading.Lock()

    def note(self, user_id: str) -> None:
        """Count one attempt, now."""
        with self._lock:
            self._total[user_id] += 1
            self._times[user_id].append(self._clock())

    def count(self, user_id: str, seconds: float | None) -> int:
        """Return the attempts of the last seconds, all of them for None; what no window reaches is dropped."""
        with self._lock:
            if seconds is None:
                return self._total[user_id]
            now, times = self._clock(), self._times[user_id]
            self._longest = max(self._longest, seconds)
            while times and times[0] <= now - self._longest:
                times.popleft()
            return sum(moment > now - seconds for moment in times)
