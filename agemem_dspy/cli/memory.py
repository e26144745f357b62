"""`agemem memory`: look into a long-term memory, change it, carry it elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agemem_dspy.cli.memory_file import Lacking, in_batches, read_export, take_over, write_export
from agemem_dspy.cli.output import JsonFlag, Output, keeping, output
from agemem_dspy.errors import MemoryQuarantined, MemoryRejected, MemoryStoreError
from agemem_dspy.types import Provenance

if TYPE_CHECKING:
    from agemem_dspy.memory import GuardedMemory
    from agemem_dspy.types import Memory

app = typer.Typer(
    help="List, search, add, forget, undo, purge, audit, export, import, look through what is in quarantine."
)

WhereOption = Annotated[
    str,
    typer.Option(
        "--where",
        envvar="QDRANT_URL",
        help="A memory folder, or the URL of a Qdrant server (its key in QDRANT_API_KEY).",
    ),
]
UserOption = Annotated[str, typer.Option("--user", help="Whose memories.")]
EmbedderOption = Annotated[
    str | None,
    typer.Option(
        "--embedder",
        help="What makes the vectors: all-MiniLM-L6-v2-int8 (the default), fastembed/MODEL, "
        "sentence-transformers/MODEL, or a name of litellm such as openai/text-embedding-3-small.",
    ),
]
AsOfOption = Annotated[
    str | None, typer.Option("--as-of", help="What was known at this time, such as 2026-01-31T12:00:00+00:00.")
]
DEFAULT_WHERE = "memories"


def open_memory(where: str, user: str, embedder: str | None, *, create: bool) -> GuardedMemory:
    """Open a user's memories, behind the guards that are shipped.

    Args:
        embedder: the name of one, the default one when None.
        create: make the folder when it is missing.

    Raises:
        MemoryStoreError: it is missing, locked by another process, or cannot be read.
    """
    is_url = where.startswith(("http://", "https://"))
    if where == ":memory:":
        raise MemoryStoreError("':memory:' is gone when the command ends; give --where FOLDER or the URL of a server")
    if not create and not is_url and "://" not in where and not Path(where).expanduser().is_dir():
        raise MemoryStoreError(f"there is no memory folder {where!r}; name one that 'agemem chat' or 'memory add' made")
    from agemem_dspy.memory import GuardedMemory, LongTermMemory

    return GuardedMemory(LongTermMemory.open(where, user_id=user, embedder=embedder))


def show_memories(out: Output, memories: Sequence[Memory]) -> None:
    """Print memories as lines: score (of a search), id, content, and the rest where it is not the default."""
    for memory in memories:
        score = "" if memory.score is None else f"{memory.score:.3f}  "
        kind = "" if memory.memory_type == "general" else f"  ({memory.memory_type})"
        labels = f"  {json.dumps(memory.metadata, ensure_ascii=False)}" if memory.metadata else ""
        until = f"  until {memory.expires_at}" if memory.expires_at else ""
        agent = f"  agent {memory.agent_id!r}" if memory.agent_id else ""
        session = f"  session {memory.session_id!r}" if memory.session_id else ""
        out.say(f"{score}{memory.id}  {memory.content}{kind}{labels}{until}{agent}{session}")


def parse_labels(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """Return `KEY=VALUE` pairs as a mapping; a value that reads as a JSON number or boolean is one.

    Raises:
        MemoryStoreError: a pair without `=` or without a key.
    """
    labels: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise MemoryStoreError(f"{option} {pair!r} is no KEY=VALUE pair, such as topic=travel")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        labels[key] = value if isinstance(value, bool | int | float) else text
    return labels


@app.command("list", epilog="Example: agemem memory list --where memories/ --user ana")
def list_memories(
    where: WhereOption = DEFAULT_WHERE,
    user: UserOption = "default",
    embedder: EmbedderOption = None,
    removed: Annotated[bool, typer.Option("--removed", help="List what was forgotten instead.")] = False,
    as_of: AsOfOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List everything that is remembered, oldest first."""
    if removed and as_of:
        raise MemoryStoreError("give --removed or --as-of: what is forgotten is forgotten now")
    with output(as_json) as out, open_memory(where, user, embedder, create=False) as store:
        memories = store.removed() if removed else store.all(as_of=as_of)
        show_memories(out, memories)
        then = f" as of {as_of}" if as_of else ""
        out.note(f"{len(memories)} {'forgotten ' if removed else ''}memories of {user!r} in {where}{then}")
        out.result({"user": user, "memories": [asdict(memory) for memory in memories]})


@app.command(epilog='Example: agemem memory search "which airport" --top-k 5 --label topic=travel')
def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    where: WhereOption = DEFAULT_WHERE,
    user: UserOption = "default",
    embedder: EmbedderOption = None,
    top_k: Annotated[int, typer.Option(help="How many at most.")] = 3,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE that must match; may be repeated.")] = None,
    as_of: AsOfOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Find memories by meaning, best first."""
    labels = parse_labels(label or (), "--label")
    with output(as_json) as out, open_memory(where, user, embedder, create=False) as store:
        memories = store.search(query, top_k=top_k, where=labels or None, as_of=as_of)
        show_memories(out, memories)
        if not memories:
            out.note("no memories found")
        out.result({"user": user, "query": query, "memories": [asdict(memory) for memory in memories]})


@app.command(epilog='Example: agemem memory add "Ana is vegan." --user ana --label topic=food')
def add(
    content: Annotated[str, typer.Argument(help="One fact, short and self-contained.")],
    where: WhereOption = DEFAULT_WHERE,
    user: UserOption = "default",
    embedder: EmbedderOption = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE to keep with it; may be repeated.")] = None,
    kind: Annotated[str, typer.Option("--type", help="Kind of memory.")] = "general",
    expires: Annotated[str | None, typer.Option(help="When it is over, such as 2027-01-31T12:00:00+00:00.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Remember one fact and print its id; one that is there, word for word, is an error that names its id."""
    labels = parse_labels(label or (), "--label")
    with output(as_json) as out, open_memory(where, user, embedder, create=True) as store:
        typed = Provenance(role="user", channel="agemem memory add", trust="trusted")
        memory = store.add(
            content, labels, kind, expires_at=expires, by={"tool": typed.channel, **typed.by()}, unique=True
        )
        out.say(memory.id)
        out.result({"user": user, "memory": asdict(memory)})


@app.command(epilog="Example: agemem memory forget 1b671a64-40d5-491e-99b0-da01ff1f3341 --user ana")
def forget(
    ids: Annotated[list[str], typer.Argument(help="Ids, as list prints them.")],
    where: WhereOption = DEFAULT_WHERE,
    user: UserOption = "default",
    embedder: EmbedderOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Forget memories; `undo` brings them back. An unknown id stops the command before anything is forgotten."""
    with output(as_json) as out, open_memory(where, user, embedder, create=False) as store:
        gone = [store.get(one) for one in dict.fromkeys(ids)]
        with keeping("some of these memories are gone; 'agemem memory list' shows what is left"):
            for memory in gone:
                store.delete(memory.id, by={"tool": "agemem memory forget"})
                out.say(f"forgot {memory.id}  {memory.content}")
        out.result({"user": user, "forgotten": [asdict(memory) for memory in gone]})


@app.command(epilog="Example: agemem memory history 1b671a64-40d5-491e-99b0-da01ff1f3341 --user ana")
def history(
    id: Annotated[str, typer.Argument(help="An id, as list prints it.")],
    where: WhereOption = DEFAULT_WHERE,
    user: UserOption = "default",
    embedder: EmbedderOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show every version of a memory, who made it and why, oldest first."""
    with output(as_json) as out, open_memory(where, user, embedder, create=False) as store:
        versions = store.history(id)
        for version in versions:
            by = ", ".join(f"{key} {value}" for key, value in version.by.items() if value is not None)
            out.say(f"{version.at}  {version.change:6}  {version.content}{f'  ({by})' if by else ''}")
        out.result({"user": user, "id": id, "versions": [asdict(version) for version in versions]})


@app.command(epilog="Example: agemem memory undo 1b671a64-40d5-491e-99b0-da01ff1f3341 --user ana")
def undo(
    id: Annotated[str, typer.Argument(help="An id, as list or list --removed prints it.")],
    where: WhereOption = DEFAULT_WHERE,
    user: UserOption = "default",
    embedder: EmbedderOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take back the last change of a memory: what was forgotten is back, what was changed is as before."""
    with output(as_json) as out, open_memory(where, user, embedder, create=False) as store:
        memory = store.undo(id, by={"tool": "agemem memory undo"})
        out.say(f"{id}  {memory.content}" if memory is not None else f"{id} is no longer remembered")
        out.result({"user": user, "id": id, "memory": None if memory is None else asdict(memory)})


@app.command(epilog="Example: agemem memory purge 1b671a64-40d5-491e-99b0-da01ff1f3341 --user ana")
def purge(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids, as list or list --removed prints them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything of this user.")] = False,
    expired: Annotated[bool, typer.Option("--expired", help="What is over.")] = False,
    where: WhereOption = DEFAULT_WHERE,
    user: UserOption = "default",
    embedder: EmbedderOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Remove memories for good, with their history; an unknown id stops the command before anything is removed."""
    if bool(ids) + everything + expired != 1:
        raise MemoryStoreError("give one of them: the ids to purge, --expired for what is over, --all for everything")
    with output(as_json) as out, open_memory(where, user, embedder, create=False) as store:
        if everything:
            count = store.forget_user()
        elif expired:
            count = store.purge_expired()
        else:
            known = list(dict.fromkeys(ids or ()))
            for one in known:
                store.history(one)
            with keeping("some of these memories are gone; 'agemem memory list' shows what is left"):
                for one in known:
                    store.purge(one)
            count = len(known)
        out.say(f"purged {count} memories of {user!r}")
        out.result({"user": user, "purged": count})


@app.command("export", epilog="Example: agemem memory export ana.jsonl --user ana")
def export_memories(
    file: Annotated[Path, typer.Argument(help="JSONL file to write; an existing one is replaced.")],
    where: WhereOption = DEFAULT_WHERE,
    user: UserOption = "default",
    embedder: EmbedderOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write every memory of a user to a file, with its history, one JSON object a line; what was forgotten too.

    Every line has a checksum, and the last one that of all lines before it, which an import checks.
    """
    with output(as_json) as out, open_memory(where, user, embedder, create=False) as store:
        count = write_export(store, file)
        out.say(f"wrote {count} memories to {file}")
        out.result({"user": user, "file": str(file), "count": count})


@app.command("import", epilog="Example: agemem memory import ana.jsonl --user ana --where http://localhost:6333")
def import_memories(
    file: Annotated[Path, typer.Argument(help="JSONL file, as export writes it; only `content` is needed.")],
    where: WhereOption = DEFAULT_WHERE,
    user: UserOption = "default",
    embedder: EmbedderOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Add the memories of a file that are not there yet; importing twice adds nothing, and one that was cut goes on.

    Entries of an export keep their ids and histories. A line is skipped when its id is known here, forgotten entries
    included, or when an entry has the same content, type and labels. What looks like an order to the agent goes into
    quarantine, what is too large is refused.
    """
    with output(as_json) as out:
        for _ in read_export(file):  # a bad line stops the import before anything is made or added
            pass
        with open_memory(where, user, embedder, create=True) as store:
            lacking = Lacking(store, read_export(file))
            ids: dict[str, str] = {}
            new, set_aside, refused = 0, 0, []
            kept = f"what was added is kept in {where}; the same command adds the rest"
            with keeping(kept), out.progress() as bar:
                task = bar.add_task("importing", total=lacking.count)
                rows = lacking.among(bar.track(read_export(file), task_id=task))
                for batch in in_batches(rows):
                    store.embedder.embed([row.content for row in batch])  # one call; `insert` finds them cached
                    for row in batch:
                        new += 1
                        try:
                            ids[row.id] = take_over(store, row)
                        except MemoryQuarantined as found:
                            ids[row.id], set_aside = found.id, set_aside + 1
                        except MemoryRejected as found:
                            refused.append({"id": row.id, "error": str(found)})
        added, skipped = new - len(refused), lacking.count - new
        out.say(f"added {added} memories, skipped {skipped} that were there")
        if set_aside:
            out.note(f"{set_aside} of them are in quarantine: see 'agemem memory quarantine list'")
        for one in refused:
            out.note(f"not added: {one['id'] or 'a line without an id'}: {one['error']}")
        ids.pop("", None)
        counts = {"added": added, "skipped": skipped, "quarantined": set_aside}
        out.result({"user": user, **counts, "refused": refused, "ids": ids})
