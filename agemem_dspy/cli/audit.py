"""`agemem memory audit`: what is wrong with a memory, for a person to look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from agemem_dspy.cli.memory import DEFAULT_WHERE, EmbedderOption, UserOption, WhereOption, open_memory
from agemem_dspy.cli.output import JsonFlag, Output, output

if TYPE_CHECKING:
    from agemem_dspy.memory import AuditReport
    from agemem_dspy.types import Memory

EXAMPLE = "Example: agemem memory audit --where memories/ --user ana"


def audit_memories(
    where: WhereOption = DEFAULT_WHERE,
    user: UserOption = "default",
    embedder: EmbedderOption = None,
    near: Annotated[float, typer.Option(help="The cosine from which two memories are near duplicates.")] = 0.9,
    as_json: JsonFlag = False,
) -> None:
    """Count junk, duplicates, possible contradictions, what has expired and what no search has returned, and list them.

    Junk is what a guard set aside, what has no words, and what is a courtesy and nothing else. Two memories may
    contradict each other when they begin alike and go on to another value. Nothing is changed. A server does not note
    what was retrieved.
    """
    with output(as_json) as out, open_memory(where, user, embedder, create=False) as store:
        from agemem_dspy.memory import audit

        report = audit(store, threshold=near)
        _show(out, report)
        out.result({**asdict(report), "junk_rate": report.junk_rate, "threshold": near})


def _show(out: Output, report: AuditReport) -> None:
    from rich.table import Table

    table = Table("", "count", title=f"{report.entries} memories of {report.user_id!r}", title_justify="left")
    table.columns[1].justify = "right"
    copies = sum(len(group) - 1 for group in report.duplicates)
    counts = {
        f"junk ({report.junk_rate:.0%})": len(report.junk),
        "duplicates": copies,
        "near duplicates": len(report.near_duplicates),
        "possible contradictions": len(report.contradictions),
        "expired, not purged": len(report.expired),
    }
    if report.never_retrieved is not None:
        counts["never retrieved"] = len(report.never_retrieved)
    for name, count in counts.items():
        table.add_row(name, str(count))
    out.console.print(table)
    for one in report.junk:
        out.say(f"junk, {one.reason}: {_line(one.memory)}")
    for group in report.duplicates:
        _together(out, f"{len(group)} times the same:", group)
    for pair in report.near_duplicates:
        _together(out, f"nearly the same ({pair.cosine:.3f}):", (pair.first, pair.second))
    for pair in report.contradictions:
        _together(out, "a possible contradiction:", (pair.first, pair.second))
    for memory in report.expired:
        out.say(f"expired {memory.expires_at}: {_line(memory)}")
    for memory in report.never_retrieved or ():
        out.say(f"never retrieved: {_line(memory)}")


def _together(out: Output, what: str, memories: Iterable[Memory]) -> None:
    out.say(what)
    for memory in memories:
        out.say(f"  {_line(memory)}")


def _line(memory: Memory) -> str:
    return f"{memory.id}  {memory.content}"
