"""Several processes that train one policy together, as `accelerate launch` starts them.

Each plays its share of the trajectories and takes its share of the gradient; what comes of it is joined, so that all
hold the same groups and, after each step, the same weights. A process that was started alone has everything as its
share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState

from agemem_dspy.errors import ConfigurationError

T = TypeVar("T")


def _state() -> PartialState:
    """Return accelerate's view of the processes, which meets them at the first call."""
    return PartialState(cpu=not torch.cuda.is_available())


def count() -> int:
    """Return how many processes train together."""
    return int(_state().num_processes)


def is_first() -> bool:
    """Tell whether this is the process that writes files and reports."""
    return bool(_state().process_index == 0)


def share(items: Sequence[T]) -> Sequence[T]:
    """Return what falls to this process of items that all processes have."""
    state = _state()
    return items[state.process_index :: state.num_processes]


def joined(own: Sequence[T]) -> list[T]:
    """Return the items of all processes in the order that `share` took them from; they are pickled on the way."""
    processes = count()
    if processes == 1:
        return list(own)
    shares: list[Any] = [None] * processes
    torch.distributed.all_gather_object(shares, list(own))
    return [shares[i % processes][i // processes] for i in range(sum(map(len, shares)))]


def of_first(function: Callable[[], T]) -> T:
    """Return what the function returns in the first process; it is not called in the others."""
    if count() == 1:
        return function()
    found: list[Any] = [function() if is_first() else None]
    torch.distributed.broadcast_object_list(found, src=0)
    result: T = found[0]
    return result


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its sum over the processes; none counts as zeros."""
    if count() == 1:
        return
    trained = list(parameters)
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in trained]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    for parameter, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
        parameter.grad = part.view_as(parameter)


def summed(numbers: dict[str, float]) -> dict[str, float]:
    """Return each number's sum over the processes."""
    if count() == 1:
        return numbers
    values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=_state().device)
    torch.distributed.all_reduce(values)
    return dict(zip(numbers, values.tolist(), strict=True))


def refuse_several(what: str) -> None:
    """Raise unless this process was started alone.

    Raises:
        ConfigurationError: several processes train together, and what is named cannot.
    """
    if count() > 1:
        raise ConfigurationError(
            f"{what} cannot be shared by {count()} processes; run it in one, without accelerate launch"
        )
