"""What a view sees is decided by the names of its scope alone, whatever an entry or a name says."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from fakes_memory import InMemoryStore
from hypothesis import given, settings
from hypothesis import strategies as st

from agemem_dspy.errors import MemoryDuplicate, MemoryNotFound, MemoryStoreError
from agemem_dspy.memory import HashEmbedder, LongTermMemory
from agemem_dspy.memory.conditions import id_text
from agemem_dspy.memory.lexical import text_vector
from agemem_dspy.memory.point_store import Point
from agemem_dspy.memory.points import payload_of
from agemem_dspy.memory.qdrant import QdrantMemory
from agemem_dspy.memory.scope import Scope
from agemem_dspy.types import Memory, Version

EMBEDDER = HashEmbedder(16)
LATER = "2099-01-31T12:00:00+00:00"
NAMES = ("a", "b", "A", "a/b", "agent:a", "session:a", '["agent", "a"]', "a" * 300)
NAMED = st.none() | st.sampled_from(NAMES)
SCOPES = st.builds(Scope, user_id=st.sampled_from(NAMES[:3]), agent_id=NAMED, session_id=NAMED)


def view_of(store: LongTermMemory, scope: Scope) -> LongTermMemory:
    return store.scoped(scope.user_id, agent_id=scope.agent_id, session_id=scope.session_id)


@pytest.mark.parametrize("kind", ["qdrant", "dictionary"])
@settings(max_examples=60, deadline=None)
@given(owners=st.lists(SCOPES, max_size=8), wanted=SCOPES, which=st.integers(0, 9))
def test_a_view_sees_exactly_what_matches_every_name_it_names(
    kind: str, owners: list[Scope], wanted: Scope, which: int
) -> None:
    owners += [wanted] * (which % 2)
    with ExitStack() as opened:
        store = InMemoryStore(EMBEDDER) if kind == "dictionary" else LongTermMemory.open(":memory:", embedder=EMBEDDER)
        opened.enter_context(store)
        added: list[tuple[Scope, Memory]] = []
        for number, owner in enumerate(owners):
            # The same words in the metadata are nobody's name.
            said = {"agent": wanted.agent_id, "session": wanted.session_id, "agent_id": wanted.agent_id}
            added.append((owner, opened.enter_context(view_of(store, owner)).add(f"fact {number % 3}", said)))
        view = opened.enter_context(view_of(store, wanted))
        seen = [
            memory
            for owner, memory in added
            if owner.user_id == wanted.user_id
            and wanted.agent_id in (None, owner.agent_id)
            and wanted.session_id in (None, owner.session_id)
        ]
        ids = {memory.id for memory in seen}
        assert view.all() == view.all(as_of=LATER) == seen
        assert (view.count(), [one.id for one in view.entries()]) == (len(seen), [one.id for one in seen])
        assert {one.id for one in view.search("fact", 50)} == {one.id for one in view.search("fact", 50, as_of=LATER)}
        assert {one.id for one in view.search("fact", 50)} == ids
        for _, memory in added:
            if memory.id in ids:
                assert len(view.history(memory.id)) == 1
            else:
                with pytest.raises(MemoryNotFound):
                    view.history(memory.id)
        content = f"fact {which % 3}"
        if content in {memory.content for memory in seen}:
            with pytest.raises(MemoryDuplicate):
                view.add(content, unique=True)
        else:
            view.add(content, unique=True)
            seen.append(view.all()[-1])
        assert view.forget_user() == len(seen)
        assert sum(view_of(store, Scope(user_id=one)).count() for one in store.users()) == len(added) - len(ids)


def test_a_store_may_be_opened_for_an_agent(tmp_path: Path) -> None:
    with LongTermMemory.open(
        tmp_path, user_id="ana", agent_id="planner", session_id="monday", embedder=EMBEDDER
    ) as one:
        assert (one.user_id, one.agent_id, one.session_id) == ("ana", "planner", "monday")
        memory = one.add("a fact")
        with one.scoped("bob") as bobs:  # the same agent's
            assert bobs.scope == Scope(user_id="bob", agent_id="planner", session_id="monday")
            assert bobs.all() == []
    with LongTermMemory.open(tmp_path, user_id="ana", embedder=EMBEDDER) as anas:
        assert anas.all() == [memory]
        with (
            anas.scoped("ana", agent_id="critic") as critic,
            pytest.raises(MemoryNotFound, match=r"User 'ana' \(agent 'critic'\) has no memory"),
        ):
            critic.get(memory.id)


def test_what_was_written_before_there_were_agents_is_the_users(tmp_path: Path) -> None:
    user = Scope(user_id="ana")
    with QdrantMemory(tmp_path, scope=user, embedder=EMBEDDER) as store:
        version = Version(change="add", content="an old fact", at="2026-01-31T12:00:00.000000+00:00")
        payload = payload_of(user, "general", 1, [version])
        del payload["agent_id"], payload["session_id"]
        id = id_text(7)
        row = EMBEDDER.embed(["an old fact"])[0].tolist()
        store._connection.points.insert([Point(id, payload, row, text_vector("an old fact"))])
    with LongTermMemory.open(tmp_path, user_id="ana", embedder=EMBEDDER) as store:
        with store.scoped("ana", agent_id="planner") as planner:
            assert planner.all() == []
        [old] = store.all()
        assert (old.id, old.agent_id, old.session_id) == (id, None, None)
        assert store.all(as_of=LATER) == [old]
        assert store.update(id, "a new fact").agent_id is None
        assert [(one.agent_id, len(one.versions)) for one in store.entries()] == [(None, 2)]


@pytest.mark.parametrize("name", ["", " ", "a\x00b", "\ud800", 7])
@pytest.mark.parametrize("field", ["agent_id", "session_id"])
def test_a_name_that_cannot_be_stored_is_refused(field: str, name: str) -> None:
    names: dict[str, str] = {field: name}
    with pytest.raises(MemoryStoreError, match=f"The {field} "):
        LongTermMemory.open(":memory:", embedder=EMBEDDER, **names)  # type: ignore[arg-type]
    with LongTermMemory.open(":memory:", embedder=EMBEDDER) as store:
        with pytest.raises(MemoryStoreError, match=f"The {field} "):
            store.scoped("ana", **names)
        version = Version(change="add", content="a fact", at=LATER)
        with pytest.raises(MemoryStoreError, match=f"The {field} "):
            store.insert(id_text(7), [version], **names)
        assert store.count() == 0
