"""What may be stored, searched for and named: the checks that every long-term store shares."""

from __future__ import annotations

import datetime
import json
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from agemem_dspy.errors import MemoryExists, MemoryNotFound, MemoryStoreError
from agemem_dspy.types import Version

if TYPE_CHECKING:
    from agemem_dspy.memory.scope import Scope

MAX_TOP_K = 10_000
Moment = str | datetime.datetime
SearchMode = Literal["hybrid", "dense", "lexical"]
SEARCH_MODES: tuple[SearchMode, ...] = get_args(SearchMode)


def now() -> str:
    """Return the time as stores write it, so that equal texts are equal times and a later one is greater."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def checked_moment(moment: object, what: str = "expires_at") -> str | None:
    """Return a time as ISO 8601 in UTC with microseconds, None as it is.

    Raises:
        MemoryStoreError: no time, or one without a zone.
    """
    if moment is None:
        return None
    try:
        found = datetime.datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        if isinstance(found, datetime.datetime) and found.tzinfo is not None:
            return found.astimezone(datetime.UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError):
        pass  # falls through to the one error for everything that is no time
    raise MemoryStoreError(f"{what} must be a time with a zone, such as 2027-01-31T12:00:00+00:00, not {moment!r}.")


def checked_versions(versions: Sequence[Version]) -> list[Version]:
    """Return versions of which each can be stored.

    Raises:
        MemoryStoreError: there is none, the first is out of sight, or one has a content, metadata or time that cannot
            be stored.
    """
    if not versions:
        raise MemoryStoreError("An entry has one version at least.")
    if not versions[0].live:
        raise MemoryStoreError(
            "The first version of an entry is out of sight: insert the history from where it begins."
        )
    return [
        Version(
            change=checked_text(version.change, "change"),
            content=checked_text(version.content, "content"),
            metadata=checked_metadata(version.metadata),
            live=bool(version.live),
            expires_at=checked_moment(version.expires_at),
            at=checked_moment(checked_text(version.at, "time of a version"), "the time of a version") or "",
            by=checked_metadata(version.by),
        )
        for version in versions
    ]


def taken(memory_id: str) -> MemoryExists:
    """Return the error for an id that cannot be given to another entry."""
    return MemoryExists(f"The id {memory_id!r} is taken: insert the entry under another one.")


def checked_text(text: object, what: str) -> str:
    """Return `text` if it can be stored and embedded.

    Raises:
        MemoryStoreError: not a string, blank, with a NUL character, or not encodable as UTF-8.
    """
    if not isinstance(text, str):
        raise MemoryStoreError(f"The {what} must be a string, not {type(text).__name__}.")
    if not text.strip():
        raise MemoryStoreError(f"The {what} is empty: give it some text.")
    refuse_unstorable(text, what)
    return text


def checked_name(name: object, what: str) -> str | None:
    """Return what names an agent or a session, None as it is.

    Raises:
        MemoryStoreError: as `checked_text`.
    """
    return None if name is None else checked_text(name, what)


def checked_metadata(metadata: object) -> dict[str, Any]:
    """Return a deep copy of the metadata as plain JSON values (tuples become lists); None is {}.

    Raises:
        MemoryStoreError: not a mapping, a key that is no string, or a value that JSON cannot hold.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise MemoryStoreError(
            f'The metadata must be a mapping such as {{"topic": "travel"}}, not {type(metadata).__name__}.'
        )
    try:
        return {_checked_key(key): _plain(value, key) for key, value in metadata.items()}
    except RecursionError:
        raise MemoryStoreError("The metadata is nested too deeply or contains itself: flatten it.") from None


def checked_top_k(top_k: object) -> int:
    """Return `top_k` if it is an integer from 1 to 10000.

    Raises:
        MemoryStoreError: anything else.
    """
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= MAX_TOP_K:
        raise MemoryStoreError(f"top_k must be an integer from 1 to {MAX_TOP_K}, not {top_k!r}.")
    return top_k


def checked_mode(mode: str) -> SearchMode:
    """Return `mode` if it is a way to search.

    Raises:
        MemoryStoreError: it is not.
    """
    for known in SEARCH_MODES:
        if mode == known:
            return known
    raise MemoryStoreError(f"mode must be one of {', '.join(SEARCH_MODES)}, not {mode!r}.")


def checked_id(memory_id: object, scope: Scope) -> str:
    """Return `memory_id` if it can be the id of an entry.

    Raises:
        MemoryNotFound: not a UUID as `add` returns it, so no entry can have it.
    """
    try:
        if isinstance(memory_id, str) and str(uuid.UUID(memory_id)) == memory_id:
            return memory_id
    except ValueError:
        pass  # falls through to the one error for every id that cannot exist
    raise not_found(memory_id, scope)


def not_found(memory_id: object, scope: Scope) -> MemoryNotFound:
    """Return the error for an id that is unknown in a scope."""
    return MemoryNotFound(
        f"{scope} has no memory with the id {memory_id!r}. Use an id that add, search or all returned."
    )


def refuse_unstorable(text: str, what: str) -> None:
    """Raise `MemoryStoreError` for a text with a NUL character or one that is not encodable as UTF-8."""
    if "\x00" in text:
        raise MemoryStoreError(f"The {what} contains a NUL character, which cannot be stored: remove it.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MemoryStoreError(f"The {what} is not valid Unicode at character {error.start}: {error.reason}.") from None


def _checked_key(key: object) -> str:
    if not isinstance(key, str):
        raise MemoryStoreError(f"Metadata keys must be strings, but {key!r} is {type(key).__name__}.")
    refuse_unstorable(key, "metadata key")
    return key


def _plain(value: object, key: object) -> Any:
    """Copy a JSON value; refuse what JSON, or a 64-bit integer, cannot hold."""
    if isinstance(value, str):
        refuse_unstorable(value, f"metadata value of {key!r}")
        return value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {_checked_key(name): _plain(item, key) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, key) for item in value]
    raise MemoryStoreError(
        f"The metadata value of {key!r} cannot be written as JSON ({_shown(value)}). Use strings, finite numbers "
        "(integers of 64 bits), booleans, None, lists and mappings of these."
    )


def _shown(value: object) -> str:
    return f"{json.dumps(value)[:40]}" if isinstance(value, int | float) else f"a {type(value).__name__}"
