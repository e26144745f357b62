"""`agemem memory reembed`: the same memories under another embedding model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from agemem_dspy.cli.memory import DEFAULT_WHERE
from agemem_dspy.cli.output import JsonFlag, keeping, output
from agemem_dspy.errors import MemoryStoreError

EXAMPLE = "Example: agemem memory reembed memories/ --embedder openai/text-embedding-3-small"


def reembed_memories(
    embedder: Annotated[
        str,
        typer.Option(
            help="The new one: all-MiniLM-L6-v2-int8, fastembed/MODEL, sentence-transformers/MODEL, or a name of "
            "litellm such as openai/text-embedding-3-small."
        ),
    ],
    folder: Annotated[str, typer.Argument(help="The memory folder.")] = DEFAULT_WHERE,
    as_json: JsonFlag = False,
) -> None:
    """Make the vectors of all users' memories anew with another model; ids, histories and expiry are kept.

    The folder stays as it is until all is done, then the new one takes its place. Killed, the same command goes on
    where it stopped; that needs the folder's own size again beside it.
    """
    if folder.startswith(("http://", "https://")):
        raise MemoryStoreError(
            f"{folder} is a server: export the memories with the former --embedder, purge them, import them with the "
            "new one"
        )
    with output(as_json) as out:
        from agemem_dspy.memory import reembed

        kept = f"{folder} is as it was; the same command goes on where this one stopped"
        with keeping(kept), out.progress() as bar:
            task = bar.add_task("re-embedding", total=None)

            def progress(count: int, total: int) -> None:
                bar.update(task, completed=count, total=total)

            done = reembed(folder, embedder, progress=progress)
        if done is None:
            out.say(f"the memories in {folder} are of {embedder} already")
        else:
            out.say(f"re-embedded {done.entries} memories of {done.users} users with {done.name}, before {done.former}")
        out.result({"folder": folder, "reembedded": None if done is None else asdict(done)})
