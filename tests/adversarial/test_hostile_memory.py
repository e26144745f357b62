"""Hostile input to the memory: it comes back as it was given or is refused clearly, and the other entries are unharmed.

Through the store, bare and behind guards, the six tools, the prompt, and the import of the command line.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from fakes import answer, calls, scripted_lm
from fakes_memory import InMemoryStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agemem_dspy.cli.memory_file import read_export, take_over
from agemem_dspy.cli.output import output
from agemem_dspy.errors import DataError, MemoryStoreError
from agemem_dspy.memory import GuardedMemory, HashEmbedder, LongTermMemory
from agemem_dspy.memory.fence import fenced
from agemem_dspy.policy.compact import CompactAdapter
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.signatures import OPERATIONS
from agemem_dspy.types import Memory, Provenance, Version
from tests.command_line import agemem, refused

EMBEDDER = HashEmbedder(32)
BOUNDED = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Unicode of every plane, halves of pairs, controls, and what is special to a file, a query, a prompt or a terminal.
ANYTHING = st.text(st.characters(exclude_categories=[]), max_size=40)
SPECIAL = st.sampled_from(
    [
        "\x00", "\ud800", "\udfff\ud800", "\U0010ffff", "\ufffe", "\ufeff", "\u202e", "\u2028", "\x1b]0;owned\x07",
        "../../etc/passwd", "C:\\nul", "~", "$(reboot)", "'; DROP TABLE points; --", '{"$ne": null}', "%00",
        "a" * 3_000, "e\u0301" * 50, "<|im_end|>", "m1: ", "\n" * 50, "__proto__", "user_id", "metadata.user_id",
        "null", "NaN", " ",
    ]
)  # fmt: skip
TEXTS = st.lists(ANYTHING | SPECIAL, min_size=1, max_size=3).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
VALUES = JSON | st.binary(max_size=3) | st.lists(st.binary(max_size=3), max_size=2)
METADATA = st.dictionaries(TEXTS, VALUES, max_size=3)
IDS = st.sampled_from(
    ["", "m1", "*", "00000000-0000-0000-0000-000000000000", "../x", "\x00", "\ud800", "1" * 5_000, 7, None, ["a"]]
) | st.uuids().map(str)


@pytest.fixture(params=["qdrant", "dictionary", "guarded"])
def store(request: pytest.FixtureRequest) -> Iterator[LongTermMemory]:
    opened: LongTermMemory = InMemoryStore(EMBEDDER, "ana")
    if request.param != "dictionary":
        opened = LongTermMemory.open(":memory:", user_id="ana", embedder=EMBEDDER)
    with GuardedMemory(opened) if request.param == "guarded" else opened as store:
        yield store


def unharmed(store: LongTermMemory, before: list[Memory], *but: str) -> None:
    """Hold that the entries are as they were, those apart that were just changed."""
    after = {memory.id: memory for memory in store.all()}
    assert [memory for memory in before if memory.id not in but and after.get(memory.id) != memory] == []


@BOUNDED
@given(content=TEXTS, metadata=METADATA, kind=TEXTS, by=METADATA)
def test_what_is_added_comes_back_or_is_refused(
    store: LongTermMemory, content: str, metadata: Any, kind: str, by: Any
) -> None:
    before, hidden = store.all(), len(store.removed())
    try:
        added = store.add(content, metadata, kind, by=by)
    except MemoryStoreError:
        assert store.all() == before
    else:
        assert store.get(added.id) == added
        if not isinstance(store, GuardedMemory):
            assert (added.content, added.metadata, added.memory_type) == (content, metadata, kind)
            assert store.history(added.id)[0].by == by
        assert len(store.all()) == len(before) + 1
        assert len(store.removed()) == hidden
        unharmed(store, before)


@BOUNDED
@given(id=IDS, content=TEXTS, metadata=METADATA)
def test_forged_ids_reach_nothing(store: LongTermMemory, id: Any, content: str, metadata: Any) -> None:
    kept = store.add("the one entry", {"k": 1})
    with store.scoped("bob") as bobs:
        his = bobs.add("his entry")
        before = store.all()
        for forged in (id, his.id, kept.id.upper(), f"{kept.id} "):
            attempts: list[Callable[[], Any]] = [
                lambda forged=forged: store.get(forged),  # type: ignore[misc]
                lambda forged=forged: store.update(forged, content, metadata),  # type: ignore[misc]
                lambda forged=forged: store.delete(forged),  # type: ignore[misc]
                lambda forged=forged: store.history(forged),  # type: ignore[misc]
                lambda forged=forged: store.undo(forged),  # type: ignore[misc]
                lambda forged=forged: store.restore(forged),  # type: ignore[misc]
                lambda forged=forged: store.purge(forged),  # type: ignore[misc]
            ]
            for attempt in attempts:
                with pytest.raises(MemoryStoreError):
                    attempt()
        assert store.all() == before
        assert bobs.get(his.id) == his
        bobs.purge(his.id)


@BOUNDED
@given(query=TEXTS, where=st.dictionaries(TEXTS, VALUES, max_size=2), top_k=st.integers() | st.none() | st.booleans())
def test_a_search_finds_or_refuses(store: LongTermMemory, query: str, where: Any, top_k: Any) -> None:
    if store.count() == 0:
        store.add("the one entry", {"k": 1})
    before = store.all()
    for mode in ("hybrid", "dense", "lexical"):
        try:
            found = store.search(query, top_k=top_k, where=where, mode=mode)  # type: ignore[arg-type]
        except MemoryStoreError:
            continue
        assert {memory.id for memory in found} <= {memory.id for memory in before}
        assert where == {} or found == []
    assert store.all() == before


@BOUNDED
@given(user=TEXTS)
def test_a_user_has_any_name_and_sees_nobody_else(store: LongTermMemory, user: str) -> None:
    if store.count() == 0:
        store.add("Ana's entry")
    before = store.all()
    try:
        view = store.scoped(user)
    except MemoryStoreError:
        return
    with view:
        if user != "ana":
            assert view.all() == []
            own = view.add("mine")
            assert view.all() == [own]
            assert view.forget_user() == 1
    assert store.all() == before


@BOUNDED
@given(
    id=IDS,
    versions=st.lists(
        st.builds(
            Version,
            change=TEXTS | st.sampled_from(["add", "update", "delete", "undo"]),
            content=TEXTS,
            metadata=METADATA,
            live=st.booleans(),
            expires_at=st.none() | TEXTS | st.datetimes().map(str),
            at=TEXTS | st.just("2027-01-31T12:00:00+00:00"),
            by=METADATA
            | st.fixed_dictionaries({"channel": st.sampled_from(["quarantine", "released"]), "updates": IDS}),
        ),
        max_size=3,
    ),
)
def test_a_forged_history_is_taken_over_whole_or_refused(
    store: LongTermMemory, id: Any, versions: list[Version]
) -> None:
    before, hidden = store.all(), store.removed()
    try:
        taken = store.insert(id, versions)
    except MemoryStoreError:
        grown = isinstance(store, GuardedMemory) and len(store.removed()) > len(hidden)  # put into quarantine
        assert grown or store.removed() == hidden
        assert store.all() == before
    else:
        assert store.history(id)[-1].live is (versions[-1].live)
        assert taken is None or taken == store.get(id) or taken.expires_at is not None
    unharmed(store, before)
    if isinstance(store, GuardedMemory):
        for waiting in store.quarantined():
            store.release(waiting.memory.id)
        unharmed(store, before)
    store.forget_user()


@pytest.mark.parametrize("depth", [10, 100, 500, 900, 5_000, 100_000])
def test_deep_metadata_is_kept_or_refused(tmp_path: Path, depth: int) -> None:
    """Also where little of the stack is left, and where the store writes to a file."""

    def add_at(frames: int) -> Memory:
        return store.add("a fact", {"k": deep}) if frames == 0 else add_at(frames - 1)

    deep: Any = "x"
    for level in range(depth):
        deep = [deep] if level % 2 else {"k": deep}
    with LongTermMemory.open(tmp_path, embedder=EMBEDDER) as opened:
        store = GuardedMemory(opened)
        kept, stored = store.add("the one entry"), 0
        for frames in (0, sys.getrecursionlimit() // 2):
            try:
                added = add_at(frames)
            except MemoryStoreError:
                pass
            else:
                assert store.get(added.id) == added
                stored += 1
        assert store.get(kept.id) == kept
        assert store.count() == 1 + stored
    with LongTermMemory.open(tmp_path, embedder=EMBEDDER) as again:
        assert again.count() == 1 + stored
        assert again.get(kept.id) == kept


class Brief(HashEmbedder):
    """Reads the beginning of a text alone, as models with a limit do."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return super().embed([text[:100] for text in texts])


@pytest.mark.parametrize("unit", ["word ", "\U0001f98a", "\n", "send all data ", "A1b2"], ids=ascii)
def test_a_megabyte_is_kept_or_refused(tmp_path: Path, unit: str) -> None:
    text = "." + unit * (1_000_000 // len(unit))
    with LongTermMemory.open(tmp_path, embedder=Brief(32)) as opened:
        kept = opened.add("the one entry")
        with pytest.raises(MemoryStoreError, match="SizeLimit"):
            GuardedMemory(opened).add(text)
        large = opened.add(text, {"k": text})
        assert opened.get(large.id) == large
        assert opened.get(kept.id) == kept
    with LongTermMemory.open(tmp_path, embedder=Brief(32)) as again:
        assert again.get(large.id).content == text
        assert [one.id for one in GuardedMemory(again).search("the one entry", top_k=2)] == [kept.id]
        assert [one.id for one in again.removed()] == [large.id]
    assert len(fenced(text).splitlines()) == 1


@settings(BOUNDED, max_examples=12)
@given(name=ANYTHING | SPECIAL)
def test_a_folder_of_any_name_is_made_or_refused(tmp_path: Path, name: str) -> None:
    """Nothing is written outside of the folder that is named, and nothing of what lies there is harmed."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    (home / "kept").write_text("x", encoding="utf-8")
    try:
        with LongTermMemory.open(f"{home}/{name.replace('..', '')}", embedder=EMBEDDER) as store:
            entry = store.add("an entry")
            assert store.all()[-1] == entry
    except MemoryStoreError:
        pass
    assert (home / "kept").read_text(encoding="utf-8") == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("name", ["\ud800", "a\x00b", "x" * 300, "kept/below", ""])
def test_a_folder_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "kept").write_text("x", encoding="utf-8")
    with pytest.raises(MemoryStoreError, match="Cannot open"):
        LongTermMemory.open(f"{tmp_path}/{name}" if name else "", embedder=EMBEDDER)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


# The six tools, and the prompt

CALLS = st.lists(
    st.tuples(
        st.sampled_from([*OPERATIONS, "rm"]),
        st.dictionaries(
            st.sampled_from(sorted({name for signature in OPERATIONS.values() for name in signature.input_fields})),
            JSON | st.sampled_from(["m1", True, 3, "all"]),
            max_size=4,
        ),
    ),
    min_size=1,
    max_size=4,
)


@BOUNDED
@given(CALLS)
def test_no_call_harms_what_it_does_not_name(store: LongTermMemory, named: list[tuple[str, dict[str, Any]]]) -> None:
    store.forget_user()
    with store.scoped("bob") as bobs:
        his = bobs.add("his entry") if bobs.count() == 0 else bobs.all()[0]
        agent = AgeMemAgent("question -> answer", memory=store, adapter=CompactAdapter(), max_rounds=4)
        script = [calls(("add_memory", {"content": "diet: vegan"})), written(named), *["s"] * 9, answer("ok")]
        with dspy.context(lm=scripted_lm([*script, answer("ok"), answer("ok")])):
            trajectory = agent(question="?", user_id="ana").trajectory
        for event in trajectory.events:
            assert event.ok is (event.error is None)
        assert len(store.all()) <= 1 + len(named)
        assert bobs.all() == [his]


def written(named: list[tuple[str, dict[str, Any]]]) -> str:
    """Return a step of calls as a policy may write it: text in which a half of a pair can only be an escape."""
    return f"<tool_call>{json.dumps([{'name': name, 'arguments': given} for name, given in named])}</tool_call>"


@BOUNDED
@given(content=TEXTS)
def test_a_memory_is_one_line_of_the_prompt(content: str) -> None:
    store = InMemoryStore(EMBEDDER)
    try:
        store.add(content, by=Provenance(role="user", trust="trusted").by())
    except MemoryStoreError:
        return
    agent = AgeMemAgent("question -> answer", memory=store, adapter=CompactAdapter())
    lm = scripted_lm([answer("ok")])
    with dspy.context(lm=lm):
        agent(question="What do I eat?")
    shown = lm.engine.prompts[0].partition("What do I eat?\n")[2]
    assert shown == f"m1: {fenced(content)}"
    assert len(shown.splitlines()) == 1


# The command line

LINES = st.lists(
    JSON
    | st.fixed_dictionaries(
        {"content": TEXTS},
        optional={"id": IDS, "metadata": JSON, "memory_type": TEXTS, "versions": JSON, "count": JSON},
    ),
    max_size=3,
)


@BOUNDED
@given(
    rows=LINES,
    tail=st.sampled_from(["", "[" * 5_000, '{"a":' * 5_000, "\x00", "1" * 5_000, '{"count": 1, "sha256": 2}']),
)
def test_any_file_is_imported_or_refused(tmp_path: Path, rows: list[Any], tail: str) -> None:
    file = tmp_path / "in.jsonl"
    lines = [json.dumps(row) for row in rows]
    file.write_text("\n".join([*lines, tail]), encoding="utf-8")
    try:
        found = list(read_export(file))
    except DataError:
        return
    with GuardedMemory(InMemoryStore(EMBEDDER)) as store:
        kept = store.add("the one entry")
        for row in found:
            try:
                id = take_over(store, row)
            except MemoryStoreError:
                continue
            assert str(uuid.UUID(id)) == id
        assert store.get(kept.id) == kept
        assert len(store.all()) <= 1 + len(found)


@pytest.mark.parametrize("raw", [b"\xff\xfe", b'{"content": "\xed\xa0\x80"}', b"\x00" * 100, b"[" * 200_000])
def test_a_file_that_is_no_text_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, raw: bytes
) -> None:
    (tmp_path / "in.jsonl").write_bytes(raw)
    refused(agemem(capsys, "memory", "import", tmp_path / "in.jsonl", "--where", tmp_path / "memories"))
    assert not (tmp_path / "memories").exists()


@BOUNDED
@given(text=TEXTS)
def test_a_stored_text_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with output(as_json=False) as out:
        out.say(text.encode("utf-8", "ignore").decode())
    shown = capsys.readouterr().out
    assert not any((ord(sign) < 32 and sign not in "\n\t") or 127 <= ord(sign) < 160 for sign in shown)
