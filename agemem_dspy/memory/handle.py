"""A handle on something that stays where it is: closed when done with, shared by copies, not pickled."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory.event_loop import asynchronous

_T = TypeVar("_T")


class Handle(ABC):
    """A view of a store, apart from what is in it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the store; closing twice is harmless, any other call afterwards raises."""

    async def awaited(self, call: Callable[[], _T]) -> _T:
        """Run a call that uses this store without blocking the event loop: what the asynchronous methods do."""
        return await asyncio.to_thread(call)

    aclose = asynchronous(close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        raise MemoryStoreError(
            f"A {type(self).__name__} cannot be pickled: a connection cannot travel. Keep its folder or URL "
            "and call LongTermMemory.open again on the other side."
        )
