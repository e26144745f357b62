"""Two parts of the contract of `LongTermMemory`: its asynchronous calls, and that no scope reaches into another."""

from __future__ import annotations

import asyncio
import inspect
import threading
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from agemem_dspy.errors import MemoryDuplicate, MemoryNotFound, MemoryStoreError
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.scope import Scope
from agemem_dspy.types import Entry, NewMemory, Version

SCOPES = (  # like one another: a prefix, another case, a blank more, another place for a name; some in sight of others
    Scope(user_id="ana"),
    Scope(user_id="Ana"),
    Scope(user_id="ana/planner"),
    Scope(user_id="ana", agent_id="planner"),
    Scope(user_id="ana", agent_id="planner "),
    Scope(user_id="ana", session_id="planner"),
    Scope(user_id="ana", agent_id="planner", session_id="planner"),
)
ID = str(uuid.UUID(int=7, version=4))
ADDED = [Version(change="add", content="own", at="2026-01-31T12:00:00+00:00")]
# Every operation, with the id of an entry of another scope. `forget_user` comes last: it leaves nothing.
OPERATIONS: dict[str, Callable[[Any, str], Any]] = {
    "add": lambda call, id: call("own secret", {"k": 1}),
    "add_many": lambda call, id: call([NewMemory(content="own secret", metadata={"k": 1})]),
    "insert": lambda call, id: call(id, ADDED),
    "get": lambda call, id: call(id),
    "update": lambda call, id: call(id, "taken over"),
    "delete": lambda call, id: call(id),
    "history": lambda call, id: call(id),
    "undo": lambda call, id: call(id),
    "restore": lambda call, id: call(id),
    "purge": lambda call, id: call(id),
    "search": lambda call, id: [call("secret", 50, {"k": 1}, mode=mode) for mode in ("dense", "lexical")],
    "all": lambda call, id: call(),
    "count": lambda call, id: call(),
    "retrieved": lambda call, id: call(),
    "removed": lambda call, id: call(),
    "entries": lambda call, id: list(call()),
    "purge_expired": lambda call, id: call(),
    "forget_user": lambda call, id: call(),
}
BY_ID = {"get", "update", "delete", "history", "undo", "restore", "purge"}
# Not about entries, or for who runs the store: `users` is the list of scopes.
OTHERS = {"open", "scoped", "blank", "close", "users", "awaited", "embedder", "reranking"}
OTHERS |= {"scope", "user_id", "agent_id", "session_id"}


def calls(view: LongTermMemory, operation: str, runner: asyncio.Runner | None) -> Callable[..., Any]:
    """Return an operation of a view, or with a runner its asynchronous twin as an ordinary call."""
    if runner is None:
        return getattr(view, operation)  # type: ignore[no-any-return]
    twin: Callable[..., Coroutine[Any, Any, Any]] = getattr(view, f"a{operation}")
    return lambda *args, **kwargs: runner.run(twin(*args, **kwargs))


def mark(scope: Scope) -> str:
    return f"<{SCOPES.index(scope)}>"


def view_of(store: LongTermMemory, scope: Scope) -> LongTermMemory:
    return store.scoped(scope.user_id, agent_id=scope.agent_id, session_id=scope.session_id)


def filled(view: LongTermMemory) -> list[str]:
    """Add entries that say whose they are; return the ids of one that is in sight and one that was deleted."""
    said = mark(view.scope)
    live, gone = (view.add(f"{said} secret {one}", {"k": 1}, by={"said": said}) for one in "ab")
    view.add(f"{said} over", expires_at="2001-01-31T12:00:00+00:00")
    view.delete(gone.id)
    return [live.id, gone.id]


def out_of_sight(of_user: LongTermMemory, view: Scope) -> list[Entry]:
    """Return what a user has that a view does not see."""
    return [
        one
        for one in of_user.entries()
        if not view.sees(replace(of_user.scope, agent_id=one.agent_id, session_id=one.session_id))
    ]


class ScopeContract:
    """No operation reads, changes or removes anything out of its view's sight, whoever names its ids."""

    def test_no_operation_of_a_scope_reaches_another(self, store: LongTermMemory) -> None:
        self.try_everything(store)

    def test_no_awaited_operation_of_a_scope_reaches_another(self, store: LongTermMemory) -> None:
        with asyncio.Runner() as runner:
            self.try_everything(store, runner)

    def try_everything(self, store: LongTermMemory, runner: asyncio.Runner | None = None) -> None:
        """Let the view of every scope try every operation with the ids of every entry that is not in its sight."""
        views = {scope: view_of(store, scope) for scope in SCOPES}
        users = {scope.user_id: store.scoped(scope.user_id) for scope in SCOPES}
        ids = {scope: filled(view) for scope, view in views.items()}
        tried, leaks = 0, []
        for mine, view in views.items():
            hidden = [other for other in SCOPES if not mine.sees(other)]
            foreign = {user: out_of_sight(of_user, mine) for user, of_user in users.items()}
            for operation, ask in OPERATIONS.items():
                if runner is not None and operation == "entries":
                    continue
                for id in [one for other in hidden for one in ids[other]] if operation in BY_ID else [ID]:
                    tried += 1
                    try:
                        answer = repr(ask(calls(view, operation, runner), id))
                    except MemoryStoreError as error:
                        answer = str(error)
                    else:
                        if operation in BY_ID:
                            leaks.append((mine, operation, "an id out of sight is known"))
                    leaks += [(mine, operation, other) for other in hidden if mark(other) in answer]
            for id in (one for other in hidden for one in ids[other]):
                with pytest.raises(MemoryStoreError, match="is taken"):
                    calls(view, "insert", runner)(id, ADDED)
            assert {user: out_of_sight(of_user, mine) for user, of_user in users.items()} == foreign
            assert list(view.entries()) == []
            ids |= {other: filled(views[other]) for other in SCOPES if mine.sees(other)}  # it has forgotten them
        assert tried > 500
        assert leaks == []
        for view in (*views.values(), *users.values()):
            view.close()

    def test_a_view_sees_what_matches_every_name_it_names(self, store: LongTermMemory) -> None:
        added = {scope: view_of(store, scope).add(f"a secret of {mark(scope)}") for scope in SCOPES}
        for scope in SCOPES:
            with view_of(store, scope) as view:
                assert view.scope == scope
                wanted = [memory for owner, memory in added.items() if scope.sees(owner)]
                ids = {memory.id for memory in wanted}
                assert view.all() == view.all(as_of="2099-01-31T12:00:00+00:00") == wanted
                assert view.count() == len(wanted) == len(list(view.entries()))
                assert {one.id for one in view.search("a secret", 50)} == ids
                assert {one.id for one in view.search("a secret", 50, as_of="2099-01-31T12:00:00+00:00")} == ids
                assert view.users() == sorted({one.user_id for one in SCOPES})

    def test_an_entry_stays_with_its_agent_whoever_changes_it(self, store: LongTermMemory) -> None:
        with store.scoped("ana", agent_id="planner", session_id="monday") as planner, store.scoped("ana") as anas:
            memory = planner.add("a fact", {"k": 1})
            assert (memory.agent_id, memory.session_id) == ("planner", "monday")
            anas.update(memory.id, "another fact")
            anas.delete(memory.id)
            assert [one.id for one in planner.removed()] == [memory.id]
            anas.restore(memory.id)
            assert planner.all() == anas.all(as_of=planner.all()[0].updated_at) == anas.all()
            assert planner.get(memory.id).agent_id == "planner"
            [entry] = anas.entries()
            assert (entry.agent_id, entry.session_id) == ("planner", "monday")
            with anas.scoped("bob") as bobs:
                anas.purge(memory.id)
                bobs.insert(entry.id, entry.versions, agent_id=entry.agent_id, session_id=entry.session_id)
                assert list(bobs.entries()) == [entry]
                with bobs.scoped("bob", agent_id="critic") as critic:
                    with pytest.raises(MemoryStoreError, match="take over what it would not see.*agent 'planner'"):
                        critic.insert(ID, ADDED, agent_id="planner")
                    taken_over = critic.insert(ID, ADDED, session_id="monday")
                    assert taken_over is not None
                    assert (taken_over.agent_id, taken_over.session_id) == ("critic", "monday")

    def test_what_is_in_sight_of_a_view_is_not_added_to_it_again(self, store: LongTermMemory) -> None:
        with store.scoped("ana", agent_id="planner") as planner:
            mine = planner.add("a fact", unique=True)
            with store.scoped("ana", agent_id="critic") as critic:
                critic.add_many([NewMemory(content="a fact")], unique=True)
            with pytest.raises(MemoryDuplicate) as found:
                store.add("a fact", unique=True)
            assert found.value.id == mine.id
            store.add("a common fact", unique=True)
            assert planner.add("a common fact", unique=True).agent_id == "planner"

    def test_a_narrower_view_forgets_what_it_sees(self, store: LongTermMemory) -> None:
        common = store.add("a common fact")
        with store.scoped("ana", agent_id="planner") as planner, planner.scoped("ana", session_id="monday") as monday:
            assert monday.scope == Scope(user_id="ana", agent_id="planner", session_id="monday")
            kept, over = planner.add("kept"), planner.add("over", expires_at="2001-01-31T12:00:00+00:00")
            monday.delete(monday.add("gone").id)
            monday.add("said on Monday")
            assert (monday.purge_expired(), monday.forget_user()) == (0, 2)
            assert store.all() == [common, kept]
            assert [one.id for one in planner.entries()] == [kept.id, over.id]
            assert store.forget_user() == 3
            assert list(planner.entries()) == []

    def test_the_matrix_has_every_operation(self) -> None:
        names = {name for name, _ in inspect.getmembers(LongTermMemory) if not name.startswith("_")}
        twins = {f"a{name}" for name in names} & names
        assert names - twins - {"add", "all"} == set(OPERATIONS) - {"add", "all"} | OTHERS
        assert twins >= {f"a{name}" for name in {*OPERATIONS, "users", "scoped", "close"} - {"entries"}}


class AsyncContract:
    """The asynchronous methods are the same calls, and the event loop goes on during them."""

    def test_every_call_can_be_awaited(self, store: LongTermMemory) -> None:
        async def episode() -> None:
            first = await store.aadd("blue bicycle", {"k": 1}, by={"who": "Ana"})
            [second] = await store.aadd_many([NewMemory(content="green umbrella")])
            assert await store.aall() == store.all() == [first, second]
            assert (await store.aupdate(first.id, "red bicycle")).metadata == {"k": 1}
            assert (await store.aget(first.id)).content == "red bicycle"
            assert [one.id for one in await store.asearch("umbrella", 1)] == [second.id]
            await store.adelete(second.id)
            assert ([one.id for one in await store.aremoved()], await store.acount()) == ([second.id], 1)
            assert await store.arestore(second.id) == await store.aget(second.id)
            undone = await store.aundo(first.id)
            assert undone is not None
            assert undone.content == "blue bicycle"
            assert [one.change for one in await store.ahistory(first.id)] == ["add", "update", "undo"]
            assert await store.ausers() == ["ana"]
            async with await store.ascoped("bob") as bobs:
                assert await bobs.acount() == 0
            await store.apurge(first.id)
            assert await store.ainsert(first.id, ADDED) is not None
            await store.aadd("over", expires_at="2001-01-31T12:00:00+00:00")
            assert await store.apurge_expired() == 1
            assert await store.aforget_user() == 2
            with pytest.raises(MemoryNotFound, match=first.id):
                await store.aget(first.id)
            with pytest.raises(MemoryStoreError, match="empty"):
                await store.aadd(" ")

        asyncio.run(episode())

    def test_many_calls_may_wait_at_once(self, store: LongTermMemory) -> None:
        async def adding() -> list[str]:
            added = await asyncio.gather(*(store.aadd(f"fact {number}") for number in range(40)))
            return [memory.id for memory in added]

        ids = asyncio.run(adding())
        assert {memory.id for memory in store.all()} == set(ids)
        assert len(set(ids)) == 40

    def test_the_loop_goes_on_while_a_slow_embedder_works(
        self, store: LongTermMemory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        embed, ticks = store.embedder.embed, threading.Event()
        ticked: list[bool] = []

        def slow(texts: Sequence[str]) -> Any:
            ticked.append(ticks.wait(30))  # for the loop, which would wait for us if it were blocked
            return embed(texts)

        monkeypatch.setattr(store.embedder, "embed", slow)

        async def main() -> None:
            ahead = asyncio.create_task(store.aadd("a fact"))
            await asyncio.sleep(0.01)
            ticks.set()
            await ahead
            assert await store.asearch("a fact") != []

        asyncio.run(main())
        assert len(ticked) >= 2
        assert all(ticked)

    def test_a_cancelled_change_is_made_or_not(self, store: LongTermMemory) -> None:
        memory = store.add("value 0")
        made = "value 0"
        for number in range(1, 9):

            async def cancelled(number: int = number) -> None:
                change = asyncio.create_task(store.aupdate(memory.id, f"value {number}"))
                for _ in range(2 ** (number - 1)):
                    await asyncio.sleep(0)
                change.cancel()
                await asyncio.gather(change, return_exceptions=True)

            asyncio.run(cancelled())  # which waits for its worker threads
            found = store.get(memory.id)
            assert found.content in (made, f"value {number}")
            assert store.history(memory.id)[-1].content == found.content
            [best] = store.search(found.content, top_k=1, mode="dense")
            assert best.score == pytest.approx(1.0, abs=1e-5)
            made = found.content
        assert store.count() == 1
