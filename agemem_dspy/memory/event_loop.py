"""From an event loop into synchronous code, and from there back to what the loop awaits.

A store is written once, as ordinary calls. Where its engine works in the process, an asynchronous call is the ordinary
one in a worker thread, under the locks that hold for threads. On a server, where nearly all of the time is waiting,
`beside_loop` runs the ordinary call as a greenlet in the loop's own thread: at each request it hands the loop something
to await and is taken up again with the answer. So thousands of calls may wait at once, a cancellation arrives inside
the call like any exception, and no method exists twice. (SQLAlchemy's asyncio extension works in the same way.)
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from greenlet import getcurrent, greenlet

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _BesideLoop(greenlet):
    """Synchronous code whose parent is a coroutine."""


def in_loop() -> bool:
    """Tell whether this code may use `awaited`: an event loop is beneath it, which must not be blocked."""
    return isinstance(getcurrent(), _BesideLoop)


def awaited(awaitable: Awaitable[_T]) -> _T:
    """Let the loop go on until `awaitable` is done; return or raise what comes of it. Only where `in_loop`."""
    result: _T = getcurrent().parent.switch(awaitable)
    return result


async def beside_loop(call: Callable[[], _T]) -> _T:
    """Run synchronous code in the thread of this event loop, awaiting what it hands to `awaited`."""
    code = _BesideLoop(call)
    code.gr_context = contextvars.copy_context()
    result: Any = code.switch()
    while not code.dead:
        try:
            value = await result
        except BaseException as error:  # noqa: BLE001 - the code's own affair, cancellation too: it may clean up
            result = code.throw(error)
        else:
            result = code.switch(value)
    done: _T = result
    return done


def off_loop(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call what computes for long, such as a model or a guard: in a worker thread where a loop is beneath us."""
    if in_loop():
        return awaited(asyncio.to_thread(call, *args, **kwargs))
    return call(*args, **kwargs)


class RunsCalls(Protocol):
    """Who can make an ordinary call an asynchronous one."""

    async def awaited(self, call: Callable[[], _T]) -> _T:
        """Run a call that uses this object without blocking the event loop; return or raise what comes of it."""
        ...


_S = TypeVar("_S", bound=RunsCalls)


def asynchronous(
    method: Callable[Concatenate[_S, _P], _T],
) -> Callable[Concatenate[_S, _P], Coroutine[Any, Any, _T]]:
    """Return the asynchronous twin of a method, whichever override of it an object has."""
    name = method.__name__

    async def twin(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self.awaited(partial(getattr(self, name), *args, **kwargs))

    twin.__name__, twin.__qualname__ = f"a{name}", method.__qualname__.replace(name, f"a{name}")
    twin.__doc__ = f"`{name}`, without blocking the event loop."
    return twin
