"""Re-embedding: nothing is lost, whenever it is stopped."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ROOT, agemem, interrupted, refused
from fakes import CountingEmbedder
from numpy.typing import NDArray

from agemem_dspy.errors import EmbedderMismatch, MemoryStoreError, StoreLocked
from agemem_dspy.memory import HashEmbedder, LongTermMemory, reembed, reembedding
from agemem_dspy.memory.qdrant import QdrantMemory
from agemem_dspy.types import Entry

FORMER = HashEmbedder(64)
NEW = "hash-ngram-256"
STEPS = """
import sys
from agemem_dspy.memory import reembed, reembedding
reembedding._BATCH = 8
def progress(count, total):
    if count == 16:
        print("waiting", flush=True)
        sys.stdin.read()
reembed(sys.argv[1], sys.argv[2], progress=progress)
"""


class FailingEmbedder(HashEmbedder):
    """Fails from its `works`-th call on."""

    def __init__(self, works: int) -> None:
        super().__init__(256)
        self.works = works

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.works -= 1
        if self.works < 0:
            raise RuntimeError("no more credit")
        return super().embed(texts)


def filled(folder: Path, count: int = 5) -> dict[str, list[Entry]]:
    """Fill a folder for two users with everything an entry can be; return the entries of each."""
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    with LongTermMemory.open(folder, user_id="ana", embedder=FORMER) as store:
        for user in ("ana", "bob"):
            with store.scoped(user) as view:
                ids = [view.add(f"{user}'s fact {number}", {"k": number}, "fact").id for number in range(count)]
                view.update(ids[0], f"{user}'s better fact", by={"who": user})
                view.delete(ids[1])
                view.add("the code was 4321", expires_at=past)
                view.add("the code is 1234", expires_at="2999-01-01T00:00:00Z")
                with view.scoped(user, agent_id="planner", session_id="monday") as planner:
                    planner.add("the plan")
        return everything(store)


def everything(store: LongTermMemory) -> dict[str, list[Entry]]:
    found = {}
    for user in store.users():
        with store.scoped(user) as view:
            found[user] = list(view.entries())
    return found


def opened(folder: Path, embedder: Any = NEW) -> dict[str, list[Entry]]:
    with LongTermMemory.open(folder, embedder=embedder) as store:
        return everything(store)


def test_ids_histories_expiry_and_order_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "memories"
    before = filled(folder)
    steps: list[tuple[int, int]] = []
    done = reembed(folder, NEW, progress=lambda count, total: steps.append((count, total)))
    assert done is not None
    assert (done.former, done.name, done.users, done.entries) == ("hash-ngram-64", NEW, 2, 16)
    assert steps[-1] == (16, 16)
    assert opened(folder) == before
    assert [one[-1].agent_id for one in before.values()] == ["planner", "planner"]
    with pytest.raises(EmbedderMismatch):
        opened(folder, FORMER)
    with LongTermMemory.open(folder, user_id="ana", embedder=NEW) as store:
        [found] = store.search("ana's fact 3", top_k=1)
        assert (found.content, found.score) == ("ana's fact 3", pytest.approx(1.0, abs=1e-5))
        assert [memory.content for memory in store.removed()] == ["ana's fact 1"]
        assert store.purge_expired() == 1
    assert [path.name for path in tmp_path.iterdir()] == ["memories"]


def test_the_error_names_the_command_and_the_former_model(tmp_path: Path) -> None:
    folder = tmp_path / "my memories"
    filled(folder)
    command = f"agemem memory reembed '{folder}' --embedder {NEW}"
    with pytest.raises(EmbedderMismatch, match=f"'hash-ngram-64'.*{command}") as caught:
        opened(folder)
    assert (caught.value.name, caught.value.dimension) == ("hash-ngram-64", 64)


def test_with_the_model_it_has_nothing_is_done(tmp_path: Path) -> None:
    before = filled(tmp_path / "memories")
    assert reembed(tmp_path / "memories", FORMER) is None
    assert opened(tmp_path / "memories", FORMER) == before


def test_texts_are_embedded_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "memories")
    monkeypatch.setattr(reembedding, "_BATCH", 5)
    embedder = CountingEmbedder()
    reembed(tmp_path / "memories", embedder)
    assert [len(batch) for batch in embedder.batches] == [5, 3, 5, 3]


def test_entries_are_read_as_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "memories")
    monkeypatch.setattr(reembedding, "_BATCH", 2)
    read: list[str] = []
    ahead: list[int] = []
    entries, insert = QdrantMemory.entries, QdrantMemory.insert

    def noted(self: QdrantMemory) -> Iterator[Entry]:
        for entry in entries(self):
            read.append(entry.id)
            yield entry

    def counted(self: QdrantMemory, id: str, *args: Any, **kwargs: Any) -> Any:
        ahead.append(len(read) - read.index(id) if len(ahead) < 8 else 0)  # Ana's, before the two are compared
        return insert(self, id, *args, **kwargs)

    monkeypatch.setattr(reembedding, "_count", lambda *_: 16)
    monkeypatch.setattr(QdrantMemory, "entries", noted)
    monkeypatch.setattr(QdrantMemory, "insert", counted)
    reembed(tmp_path / "memories", NEW)
    assert ahead == [2, 1] * 4 + [0] * 8


def test_after_a_failure_the_folder_is_as_it_was_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "memories"
    before = filled(folder)
    monkeypatch.setattr(reembedding, "_BATCH", 5)
    with pytest.raises(MemoryStoreError, match="no more credit"):
        reembed(folder, FailingEmbedder(3))
    assert opened(folder, FORMER) == before
    embedder = CountingEmbedder()
    reembed(folder, embedder)
    assert [len(batch) for batch in embedder.batches] == [3]  # what was paid for is not embedded again
    assert opened(folder) == before


def test_what_was_changed_after_a_failure_is_taken_over_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "memories"
    filled(folder)
    monkeypatch.setattr(reembedding, "_BATCH", 5)
    with pytest.raises(MemoryStoreError, match="no more credit"):
        reembed(folder, FailingEmbedder(3))
    with LongTermMemory.open(folder, user_id="ana", embedder=FORMER) as store:
        store.update(store.all()[0].id, "changed since")
        store.purge(store.all()[1].id)
        with store.scoped("bob") as bobs:
            bobs.forget_user()
        with store.scoped("carl") as carls:
            carls.add("Carl's fact")
        before = everything(store)
    reembed(folder, NEW)
    assert opened(folder) == before
    assert sorted(before) == ["ana", "carl"]


def test_an_attempt_with_another_model_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "memories"
    before = filled(folder)
    with pytest.raises(MemoryStoreError, match="no more credit"):
        reembed(folder, FailingEmbedder(0))
    reembed(folder, HashEmbedder(32))
    assert opened(folder, HashEmbedder(32)) == before


def test_the_former_store_goes_if_a_kill_came_before_it_was_removed(tmp_path: Path) -> None:
    folder = tmp_path / "memories"
    before = filled(folder)
    shutil.copytree(folder, tmp_path / "copy")
    reembed(folder, NEW)
    leftover = tmp_path / reembedding.folder_beside(folder, HashEmbedder()).name
    (tmp_path / "copy").rename(leftover)
    assert reembed(folder, NEW) is None
    assert not leftover.exists()
    assert opened(folder) == before


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_folders_that_are_exchanged_in_steps_are_never_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    folder = tmp_path / "memories"
    before = filled(folder)
    taken: list[Path] = []
    rename = Path.rename

    def until_killed(self: Path, target: Path) -> Path:
        if self.parent != tmp_path:  # a store's own files
            return rename(self, target)
        if len(taken) == steps:
            raise KeyboardInterrupt
        taken.append(self)
        return rename(self, target)

    monkeypatch.setattr("sys.platform", "elsewhere")  # where there is no exchange in one step
    monkeypatch.setattr(Path, "rename", until_killed)
    if steps < 3:
        with pytest.raises(KeyboardInterrupt):
            reembed(folder, NEW)
    else:
        reembed(folder, NEW)
    monkeypatch.setattr(Path, "rename", rename)
    if steps == 2:  # the new one is in its place, the former one aside
        with pytest.raises(MemoryStoreError, match="memories.before-reembed.*remove the other"):
            reembed(folder, NEW)
        shutil.rmtree(tmp_path / "memories.before-reembed")
    reembed(folder, NEW)
    assert opened(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["memories"]


def test_somebody_who_has_it_open_keeps_it(tmp_path: Path) -> None:
    folder = tmp_path / "memories"
    filled(folder)
    with LongTermMemory.open(folder, embedder=FORMER) as store:
        with pytest.raises(StoreLocked):
            reembed(folder, NEW)
        store.add("written meanwhile")
    reembed(folder, NEW)
    assert opened(folder)["default"][0].versions[0].content == "written meanwhile"


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    before = filled(tmp_path / "disk" / "memories")
    (tmp_path / "memories").symlink_to(tmp_path / "disk" / "memories")
    reembed(tmp_path / "memories", NEW)
    assert (tmp_path / "memories").is_symlink()
    assert opened(tmp_path / "memories") == before


def test_killed_it_goes_on_where_it_stopped(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "memories"
    before = filled(folder, count=30)
    with subprocess.Popen(
        [sys.executable, "-c", STEPS, str(folder), NEW],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.kill()
    assert opened(folder, FORMER) == before
    assert len(opened(reembedding.folder_beside(folder, HashEmbedder()))["ana"]) == 16
    steps: list[int] = []
    reembed(folder, NEW, progress=lambda count, _: steps.append(count))
    assert steps[0] == 16
    assert opened(folder) == before
    again = agemem(capsys, "memory", "reembed", folder, "--embedder", NEW)
    assert again.out == f"the memories in {folder} are of {NEW} already\n"


def test_ctrl_c_says_what_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "memories"
    before = filled(folder, count=400)
    beside = reembedding.folder_beside(folder, HashEmbedder())
    stopped = interrupted(beside.exists, "memory", "reembed", folder, "--embedder", NEW)
    assert stopped.code == 130
    assert "the same command goes on where this one stopped" in stopped.err
    assert opened(folder, FORMER) == before


def test_the_commands_take_an_embedder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = ("--where", tmp_path / "memories")
    added = agemem(capsys, "memory", "add", "Ana is vegan.", *where, "--embedder", "hash-ngram-64", "--json").json
    said = refused(agemem(capsys, "memory", "list", *where))
    assert f"agemem memory reembed {tmp_path / 'memories'} --embedder all-MiniLM-L6-v2-int8" in said
    assert agemem(capsys, "memory", "reembed", where[1], "--embedder", "all-MiniLM-L6-v2-int8").code == 0
    found = agemem(capsys, "memory", "search", "what can she eat", *where, "--json").json["memories"]
    assert [one["id"] for one in found] == [added["memory"]["id"]]
    assert "there is no embedder" in refused(agemem(capsys, "memory", "list", *where, "--embedder", "minlm")).lower()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "--embedder", NEW], "There is no memory folder"),
        (["http://localhost:6333", "--embedder", NEW], "is a server: export the memories"),
        (["nowhere"], "Missing option '--embedder'"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(agemem(capsys, "memory", "reembed", *words))
    assert list(tmp_path.iterdir()) == []
