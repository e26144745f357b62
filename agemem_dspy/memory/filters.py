"""What a search may ask of an entry beside its content: values of its metadata, and its times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory.checks import Moment, checked_moment, refuse_unstorable

Scalar = str | int | float | bool
TIMES = ("created_at", "updated_at", "expires_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What lies between bounds: numbers in `where`, times in `when`. One bound at least.

    An integer beyond 2**53 may count as its neighbour, as it does among floats.
    """

    gt: float | Moment | None = None
    gte: float | Moment | None = None
    lt: float | Moment | None = None
    lte: float | Moment | None = None

    def bounds(self) -> dict[str, Any]:
        """Return the bounds that are set, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: bound for name, bound in named.items() if bound is not None}


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of these values; one at least."""

    values: tuple[Scalar, ...] | list[Scalar]


Where = Mapping[str, Scalar | Range | AnyOf]


def checked_where(where: object) -> dict[str, Scalar | Range | AnyOf]:
    """Return the metadata filter; None is {}.

    Raises:
        MemoryStoreError: not a mapping, a key with a quote or bracket, or a value that cannot be asked for.
    """
    if where is None:
        return {}
    if not isinstance(where, Mapping):
        raise MemoryStoreError(
            f'The metadata filter must be a mapping such as {{"topic": "travel"}}, not {type(where).__name__}.'
        )
    return {_checked_key(key): _checked_wanted(key, wanted) for key, wanted in where.items()}


def checked_when(when: object) -> dict[str, Range]:
    """Return the filter on an entry's times, with moments in UTC; None is {}.

    Raises:
        MemoryStoreError: not a mapping, a key that names no time, or a value that is no `Range` of times.
    """
    if when is None:
        return {}
    if not isinstance(when, Mapping):
        raise MemoryStoreError(
            'The time filter must be a mapping such as {"created_at": Range(gte="2027-01-31T12:00:00+00:00")}, '
            f"not {type(when).__name__}."
        )
    checked: dict[str, Range] = {}
    for key, span in when.items():
        if key not in TIMES:
            raise MemoryStoreError(f"An entry has no time {key!r}: name one of {', '.join(TIMES)}.")
        if not isinstance(span, Range) or not span.bounds():
            raise MemoryStoreError(f"The time filter of {key!r} must be a Range with a bound, not {span!r}.")
        checked[key] = Range(**{name: checked_moment(bound, key) for name, bound in span.bounds().items()})
    return checked


def _checked_key(key: object) -> str:
    if not isinstance(key, str):
        raise MemoryStoreError(f"Metadata keys must be strings, but {key!r} is {type(key).__name__}.")
    refuse_unstorable(key, "metadata key")
    if not key or any(character in key for character in '"[]\\'):
        raise MemoryStoreError(f"Cannot filter on the metadata key {key!r}: quotes and brackets do not work there.")
    return key


def _checked_wanted(key: str, wanted: object) -> Scalar | Range | AnyOf:
    if isinstance(wanted, Range):
        if not wanted.bounds():
            raise MemoryStoreError(f"The Range of {key!r} needs a bound: gt, gte, lt or lte.")
        for name, bound in wanted.bounds().items():
            if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
                raise MemoryStoreError(f"The bound {name} of {key!r} must be a finite number, not {bound!r}.")
        return wanted
    if isinstance(wanted, AnyOf):
        if not isinstance(wanted.values, list | tuple) or not wanted.values:
            raise MemoryStoreError(f'AnyOf of {key!r} needs a list of values, such as AnyOf(["Rome", "Oslo"]).')
        return AnyOf(tuple(_checked_scalar(key, value) for value in wanted.values))
    return _checked_scalar(key, wanted)


def _checked_scalar(key: str, value: object) -> Scalar:
    if isinstance(value, str):
        refuse_unstorable(value, f"filter value of {key!r}")
        return value
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise MemoryStoreError(
        f"The filter value of {key!r} must be a string, finite number (integers of 64 bits), boolean, Range or AnyOf, "
        f"not {type(value).__name__}."
    )
