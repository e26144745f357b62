"""Long-term memory: what every store promises, and the checks that all of them share.

The contract is the docstring of `LongTermMemory`; `tests/contracts.py` holds every backend to it.
Importing this module loads no database client and no model; `open` does, when it is called.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from agemem_dspy.errors import MemoryStoreError
from agemem_dspy.memory.checks import Moment, SearchMode
from agemem_dspy.memory.event_loop import asynchronous
from agemem_dspy.memory.filters import Range, Where
from agemem_dspy.memory.handle import Handle
from agemem_dspy.memory.reranking import Reranking
from agemem_dspy.types import Embedder, Entry, Memory, NewMemory, Version

if TYPE_CHECKING:
    import dspy
    from qdrant_client import AsyncQdrantClient, QdrantClient

    from agemem_dspy.memory.scope import Scope


class LongTermMemory(Handle):
    """The memories of one user, searched by meaning. This docstring is the contract.

    Scope:    a view sees the entries of its own `user_id` and no others. One that names an `agent_id`, a `session_id`
              or both adds entries of theirs and sees those alone; where it names none, it sees them of every agent and
              session. To every call what it does not see is not there: an id is unknown, `unique` does not count it,
              `forget_user` leaves it. `scoped` gives another view of the same store and embedder.
    Ids:      UUID4 strings, never used twice, kept by an update and by `insert` into another store.
    Mutation: a call that returns has been written; a call that raises has changed nothing. A change is one write:
              whatever happens in the midst of it, the entry is as it was or as it should be.
    History:  nothing is lost but by `purge` and `forget_user`: an entry keeps every version it had, and one that was
              deleted is only out of sight. `by` is any mapping that says who made a change and why.
              What these two remove, the embedder's caches forget as well.
              Returned memories are snapshots: changing their metadata does not change the store.
              Contents are kept as given, to the last space.
    Order:    `all` is oldest first, by insertion; an update does not move an entry. `search` is best first, equals (to
              six digits) oldest first: by cosine similarity ("dense"), by the share of the query's words that an
              entry has ("lexical"), or by a weighted sum of both ("hybrid"; see `memory.lexical`). It is exact in
              the process and in a folder; a server may use an approximate index.
    Expiry:   once its `expires_at` has passed, an entry is out of sight of every call but `history`, `entries`, `undo`,
              `purge`, `purge_expired` and `forget_user`. An update keeps it, unless it names another.
    Filters:  `where` keeps entries whose metadata has, under every key, an equal value, one of `AnyOf` or a number in a
              `Range`. A list in the metadata counts as each of its items; 1 equals 1.0 but not True.
    Times:    ISO 8601, UTC, microseconds.
    Threads:  every method may be called from any thread. A store is shared by `copy.deepcopy` and
              refuses to be pickled, since a connection cannot travel.
    Async:    `aadd`, `asearch` and the rest are the same calls, during which the event loop goes on: on a server
              through qdrant-client's asynchronous client, else in a worker thread. Calls at once have the order that
              threads would give them. A change that is cancelled is made or not, whole in either case; it may still be
              made a moment later. Close with `aclose` or `async with`.
    Errors:   `MemoryStoreError` or one of its children, with a message that says what to do.
    """

    @staticmethod
    def open(
        where: str | os.PathLike[str] | None = None,
        *,
        user_id: str = "default",
        agent_id: str | None = None,
        session_id: str | None = None,
        embedder: Embedder | dspy.Embedder | str | None = None,
        reranking: Reranking | None = None,
        client: QdrantClient | None = None,
        async_client: AsyncQdrantClient | None = None,
    ) -> LongTermMemory:
        """Open a store and return the view of one user, or of one agent or session of theirs.

        Args:
            where: ":memory:" (private, gone when closed), a folder (embedded and persistent, made if
                missing), or the http(s) URL of a Qdrant server (API key in `QDRANT_API_KEY`); the server that
                `QDRANT_URL` names when left out.
            user_id: whose memories these are.
            agent_id: which agent's alone; of all of them when None.
            session_id: which session's alone; of all of them when None.
            embedder: what makes vectors of texts: an embedder, a `dspy.Embedder`, a name such as
                "openai/text-embedding-3-small" (see `as_embedder`), or None for the packaged MiniLM.
            reranking: how searches order what they have found, the agent's too; by their own scores when None.
            client: what reaches the server, such as `QdrantClient(url, prefer_grpc=True)`; its owner closes it.
            async_client: the same for asynchronous calls; it belongs to one event loop.

        Raises:
            StoreLocked: another process has the folder open.
            EmbedderMismatch: the store was built with another embedding model.
            MissingDependency: a package is not installed.
            MemoryStoreError: the place cannot be opened or none is named, `embedder` is none, or a client is given
                without a URL.
        """
        from agemem_dspy.memory.connection import Clients
        from agemem_dspy.memory.embedder_names import as_embedder
        from agemem_dspy.memory.qdrant import QdrantMemory
        from agemem_dspy.memory.scope import Scope

        where = where if where is not None else os.environ.get("QDRANT_URL")
        if where is None:
            raise MemoryStoreError(
                "Cannot open memories nowhere: name a folder, ':memory:' or a URL, or set QDRANT_URL."
            )
        try:
            if isinstance(where, str | os.PathLike):
                os.fsencode(where)
        except UnicodeEncodeError as error:
            raise MemoryStoreError(f"Cannot open {where!r}: no place has such a name ({error.reason}).") from error
        scope = Scope(user_id=user_id, agent_id=agent_id, session_id=session_id)
        maker, clients = as_embedder(embedder), Clients(client, async_client)
        return QdrantMemory(where, scope=scope, embedder=maker, clients=clients, reranking=reranking)

    @property
    @abstractmethod
    def scope(self) -> Scope:
        """Return whose entries this view sees."""

    @property
    def user_id(self) -> str:
        """Return whose memories these are."""
        return self.scope.user_id

    @property
    def agent_id(self) -> str | None:
        """Return which agent's alone, None where it is every one's."""
        return self.scope.agent_id

    @property
    def session_id(self) -> str | None:
        """Return which session's alone, None where it is every one's."""
        return self.scope.session_id

    @property
    @abstractmethod
    def embedder(self) -> Embedder:
        """Return what makes vectors of texts."""

    @property
    def reranking(self) -> Reranking:
        """Return how searches order what they have found, where they name no other way."""
        return Reranking()

    def add(
        self,
        content: str,
        metadata: Mapping[str, Any] | None = None,
        memory_type: str = "general",
        *,
        expires_at: Moment | None = None,
        by: Mapping[str, Any] | None = None,
        unique: bool = False,
    ) -> Memory:
        """Store a new entry and return it.

        Args:
            expires_at: a `datetime` with a time zone, or the ISO 8601 text of one; never when None.
            unique: refuse a content that an entry in sight has, to the last character.

        Raises:
            MemoryDuplicate: with `unique`, an entry has this content; its id is in the error.
            MemoryStoreError: blank content, metadata that is not JSON, a time without a zone, or a failed write.
        """
        entry = NewMemory(content=content, metadata=metadata, memory_type=memory_type, expires_at=expires_at, by=by)
        return self.add_many([entry], unique=unique)[0]

    @abstractmethod
    def add_many(self, entries: Sequence[NewMemory], *, unique: bool = False) -> list[Memory]:
        """Store new entries, all of them or none, and return them; their contents are embedded in one call.

        Beyond 500 entries there are several writes: a process that dies in their midst leaves the first ones.

        Args:
            unique: refuse them if an entry in sight, or another one of them, has a content of theirs. No other
                addition of this process can come in between; what else writes to a server can.

        Raises:
            MemoryDuplicate: as for `add`.
            MemoryStoreError: as for `add`; the message tells which entry cannot be stored.
        """

    @abstractmethod
    def insert(
        self,
        id: str,
        versions: Sequence[Version],
        memory_type: str = "general",
        *,
        agent_id: str | None = None,
        session_id: str | None = None,
    ) -> Memory | None:
        """Take an entry over from another store, with its id and its history.

        Args:
            versions: oldest first, as `history` returns them; one at least.
            agent_id: of which agent it is, where this view sees every one's; that of the view when None.
            session_id: the same of a session.

        Returns:
            the entry, None when its last version is out of sight.

        Raises:
            MemoryExists: the id is taken, by whomever.
            MemoryStoreError: the id is no UUID, a version cannot be stored, or this view would not see the entry.
        """

    @abstractmethod
    def update(
        self,
        id: str,
        content: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        expires_at: Moment | Literal["keep"] | None = "keep",
        by: Mapping[str, Any] | None = None,
    ) -> Memory:
        """Replace the content of an entry in place, merge the metadata into its own, return it.

        Args:
            expires_at: as for `add`; "keep" leaves it as it is.

        Raises:
            MemoryNotFound: no entry with this id in this scope.
            MemoryStoreError: as for `add`.
        """

    @abstractmethod
    def delete(self, id: str, *, by: Mapping[str, Any] | None = None) -> None:
        """Take an entry out of sight: only `history`, `removed`, `undo`, `restore` and `purge` still know it.

        Raises:
            MemoryNotFound: no entry with this id in this scope.
        """

    @abstractmethod
    def history(self, id: str) -> list[Version]:
        """Return every version of an entry, in sight or not, oldest first.

        Raises:
            MemoryNotFound: no entry ever had this id in this scope, or it was purged.
        """

    @abstractmethod
    def removed(self) -> list[Memory]:
        """Return the entries that were deleted, oldest first."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Yield everything in this scope, deleted and expired entries too, in insertion order; `insert` takes it over.

        What is added or changed meanwhile may or may not be seen.
        """

    @abstractmethod
    def users(self) -> list[str]:
        """Return the users who have entries in the store, sorted; for who runs it, such as to re-embed or move it."""

    @abstractmethod
    def undo(self, id: str, *, changes: int = 1, by: Mapping[str, Any] | None = None) -> Memory | None:
        """Make an entry what it was before its last changes, by a change of its own; undone twice, it is as before.

        Args:
            changes: how many of them.

        Returns:
            the entry; None when it is out of sight now, as after undoing an `add`.

        Raises:
            MemoryNotFound: as for `history`.
            MemoryStoreError: it has had fewer changes.
        """

    def restore(self, id: str, *, by: Mapping[str, Any] | None = None) -> Memory:
        """Bring a deleted entry back.

        Raises:
            MemoryNotFound: as for `history`.
            MemoryStoreError: it is not deleted.
        """
        history = self.history(id)
        hidden = sum(1 for _ in itertools.takewhile(lambda version: not version.live, reversed(history)))
        if not hidden:
            raise MemoryStoreError(f"The memory {id!r} is not deleted: there is nothing to restore.")
        return self.undo(id, changes=hidden, by=by) or self.get(id)  # every entry was in sight at first

    @abstractmethod
    def purge(self, id: str) -> None:
        """Remove an entry, in sight or not, for good, with its history.

        Raises:
            MemoryNotFound: as for `history`.
        """

    @abstractmethod
    def purge_expired(self) -> int:
        """Remove the entries in this scope that have expired for good, with their histories; return how many."""

    @abstractmethod
    def forget_user(self) -> int:
        """Remove everything in this scope for good, histories and deleted entries too; return how many entries.

        On a view that names an agent or a session the rest of the user's entries stays.
        """

    @abstractmethod
    def get(self, id: str) -> Memory:
        """Return the entry with this id.

        Raises:
            MemoryNotFound: no entry with this id in this scope.
        """

    @abstractmethod
    def search(
        self,
        query: str,
        top_k: int = 3,
        where: Where | None = None,
        *,
        when: Mapping[str, Range] | None = None,
        mode: SearchMode = "hybrid",
        as_of: Moment | None = None,
        reranking: Reranking | None = None,
    ) -> list[Memory]:
        """Return the `top_k` entries that fit the query best, best first, each with its cosine `score`.

        With "lexical", entries that share no word with the query are not found.
        With `as_of` it is as exact and not as quick: everything in the scope is read, deleted entries too, and every
        content that was changed since then is embedded again.

        Args:
            where: what their metadata must have: a value, an `AnyOf` or a `Range` under a key.
            when: a `Range` of times under "created_at", "updated_at" or "expires_at".
            as_of: search what was known at this time, as `all` says; filters and expiry are as they were then.
            reranking: how to order what was found; `reranking` of this store when None.

        Raises:
            MemoryStoreError: blank query, `top_k` outside 1..10000, a filter or time that cannot be, another mode, or
                a reranker that failed.
        """

    def retrieved(self) -> frozenset[str] | None:
        """Return the ids in this scope that a search has returned; None where no note is kept, as on a server."""
        return None

    @abstractmethod
    def all(self, *, as_of: Moment | None = None) -> list[Memory]:
        """Return every entry in this scope, oldest first.

        Args:
            as_of: return what was in sight at this time instead, each as it was then, by the times in the histories:
                what was changed, deleted or has expired since is as before, what was purged never was.

        Raises:
            MemoryStoreError: `as_of` is no time with a zone.
        """

    @abstractmethod
    def count(self) -> int:
        """Return how many entries are in this scope."""

    @abstractmethod
    def scoped(self, user_id: str, *, agent_id: str | None = None, session_id: str | None = None) -> LongTermMemory:
        """Return another view of the same store; it stays open when this one is closed.

        Args:
            agent_id: as for `open`; that of this view when None.
            session_id: the same.

        Raises:
            MemoryStoreError: a name cannot be stored.
        """

    def blank(self) -> LongTermMemory:
        """Return an empty store in the process, alike in embedder and guards, in which an episode may be played."""
        return LongTermMemory.open(":memory:", embedder=self.embedder, reranking=self.reranking)

    aadd = asynchronous(add)
    aadd_many = asynchronous(add_many)
    ainsert = asynchronous(insert)
    aupdate = asynchronous(update)
    adelete = asynchronous(delete)
    ahistory = asynchronous(history)
    aremoved = asynchronous(removed)
    ausers = asynchronous(users)
    aundo = asynchronous(undo)
    arestore = asynchronous(restore)
    apurge = asynchronous(purge)
    apurge_expired = asynchronous(purge_expired)
    aforget_user = asynchronous(forget_user)
    aget = asynchronous(get)
    asearch = asynchronous(search)
    aall = asynchronous(all)  # noqa: A003 - the method is meant
    acount = asynchronous(count)
    aretrieved = asynchronous(retrieved)
    ascoped = asynchronous(scoped)


def state_before(history: Sequence[Version], changes: int) -> Version:
    """Return what an entry was before its last changes; before it was added it was out of sight.

    Raises:
        MemoryStoreError: it has had fewer.
    """
    if not 1 <= changes <= len(history):
        raise MemoryStoreError(f"The entry has had {len(history)} changes: {changes} cannot be undone.")
    return history[-1 - changes] if changes < len(history) else dataclasses.replace(history[0], live=False)
