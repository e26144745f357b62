"""`agemem memory quarantine`: what a guard set aside, for a person to look at."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from agemem_dspy.cli.memory import DEFAULT_WHERE, UserOption, WhereOption, open_memory
from agemem_dspy.cli.output import JsonFlag, keeping, output
from agemem_dspy.errors import MemoryStoreError

app = typer.Typer(help="List what the guards set aside, and release what is harmless; the others can be purged.")


@app.command("list", epilog="Example: agemem memory quarantine list --where memories/ --user ana")
def list_quarantined(
    where: WhereOption = DEFAULT_WHERE, user: UserOption = "default", as_json: JsonFlag = False
) -> None:
    """List what is in quarantine, oldest first: id, content, and why it is there."""
    with output(as_json) as out, open_memory(where, user, create=False) as store:
        found = store.quarantined()
        for one in found:
            change = f", to change {one.updates}" if one.updates else ""
            out.say(f"{one.memory.id}  {one.memory.content}  ({one.guard}: {one.reason}{change})")
        out.note(f"{len(found)} memories of {user!r} in quarantine in {where}")
        out.result({"user": user, "quarantined": [asdict(one) for one in found]})


@app.command(epilog="Example: agemem memory quarantine release 1b671a64-40d5-491e-99b0-da01ff1f3341 --user ana")
def release(
    ids: Annotated[list[str], typer.Argument(help="Ids, as list prints them.")],
    where: WhereOption = DEFAULT_WHERE,
    user: UserOption = "default",
    as_json: JsonFlag = False,
) -> None:
    """Bring memories out of quarantine; an id that is not there stops the command before anything is released."""
    with output(as_json) as out, open_memory(where, user, create=False) as store:
        wanted = list(dict.fromkeys(ids))
        waiting = {one.memory.id for one in store.quarantined()}
        unknown = next((one for one in wanted if one not in waiting), None)
        if unknown is not None:
            raise MemoryStoreError(f"{unknown!r} is not in quarantine: see 'agemem memory quarantine list'")
        released = []
        with keeping("some of these memories are released; 'agemem memory quarantine list' shows what is left"):
            for one in wanted:
                memory = store.release(one, by={"tool": "agemem memory quarantine release"})
                released.append(asdict(memory))
                out.say(f"released {memory.id}  {memory.content}")
        out.result({"user": user, "released": released})
