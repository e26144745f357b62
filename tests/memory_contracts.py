"""Two parts of the contract of `LongTermMemory`: its asynchronous calls, and that no scope reaches into another."""

from __future__ import annotations

import asyncio
import inspect
import threading
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from agemem_dspy.errors import MemoryNotFound, MemoryStoreError
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.types import NewMemory, Version

SCOPES = ("ana", "ana/planner", "Ana", "ana ")  # like one another: a prefix, another case, a blank more
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
    "removed": lambda call, id: call(),
    "entries": lambda call, id: list(call()),
    "purge_expired": lambda call, id: call(),
    "forget_user": lambda call, id: call(),
}
BY_ID = {"get", "update", "delete", "history", "undo", "restore", "purge"}
# Not about entries, or for who runs the store: `users` is the list of scopes.
OTHERS = {"open", "scoped", "blank", "close", "users", "awaited", "user_id", "embedder", "reranking"}


def calls(view: LongTermMemory, operation: str, runner: asyncio.Runner | None) -> Callable[..., Any]:
    """Return an operation of a view, or with a runner its asynchronous twin as an ordinary call."""
    if runner is None:
        return getattr(view, operation)  # type: ignore[no-any-return]
    twin: Callable[..., Coroutine[Any, Any, Any]] = getattr(view, f"a{operation}")
    return lambda *args, **kwargs: runner.run(twin(*args, **kwargs))


class ScopeContract:
    """No operation reads, changes or removes anything of another scope, whoever names its ids."""

    def test_no_operation_of_a_scope_reaches_another(self, store: LongTermMemory) -> None:
        self.try_everything(store)

    def test_no_awaited_operation_of_a_scope_reaches_another(self, store: LongTermMemory) -> None:
        with asyncio.Runner() as runner:
            self.try_everything(store, runner)

    def try_everything(self, store: LongTermMemory, runner: asyncio.Runner | None = None) -> None:
        """Let every scope try every operation with the ids of every other one."""
        views = {scope: store.scoped(scope) for scope in SCOPES}
        ids: dict[str, list[str]] = {}
        for scope, view in views.items():
            live, hidden = (view.add(f"<{scope}> secret {one}", {"k": 1}, by={"said": f"<{scope}>"}) for one in "ab")
            view.add(f"<{scope}> over", expires_at="2001-01-31T12:00:00+00:00")
            view.delete(hidden.id)
            ids[scope] = [live.id, hidden.id]
        tried, leaks = 0, []
        for mine, view in views.items():
            foreign = {other: list(views[other].entries()) for other in SCOPES if other != mine}
            for operation, ask in OPERATIONS.items():
                if runner is not None and operation == "entries":
                    continue
                for id in [one for other in foreign for one in ids[other]] if operation in BY_ID else [ID]:
                    tried += 1
                    try:
                        answer = repr(ask(calls(view, operation, runner), id))
                    except MemoryStoreError as error:
                        answer = str(error)
                    else:
                        if operation in BY_ID:
                            leaks.append((mine, operation, "an id of another scope is known"))
                    leaks += [(mine, operation, other) for other in foreign if f"<{other}>" in answer]
            for id in (one for other in foreign for one in ids[other]):
                with pytest.raises(MemoryStoreError, match="is taken"):
                    calls(view, "insert", runner)(id, ADDED)
            assert {other: list(views[other].entries()) for other in foreign} == foreign
            ids.pop(mine)  # it has forgotten them
            ids[mine] = [view.add(f"<{mine}> secret a", {"k": 1}).id]
        assert tried > 150
        assert leaks == []
        for view in views.values():
            view.close()

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
