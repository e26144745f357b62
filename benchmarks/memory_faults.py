"""Whether the long-term memory in a folder keeps what it acknowledged: killed writers, and many threads at once.

    python benchmarks/memory_faults.py [--kills 100] [--threads 8] [--entries 100000]

A writer is a process that adds (one and twenty at once), changes and deletes, and says what it was told was done. It is
killed with SIGKILL at a random moment, the folder is opened, and everything in it is compared with what was said; the
next writer goes on with the same folder. A lost change is one that was said and is not there; a torn one is there in
part. The threads do mixed operations until there are as many entries as asked for; then the folder is opened again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agemem_dspy.memory import HashEmbedder, LongTermMemory, NewMemory

EMBEDDER = HashEmbedder(32)
LONGEST_S = 0.2  # a writer's life
BATCH = 20

Said = dict[str, str | None]  # the content of each entry, None when it was deleted


def write(folder: Path, first: int, told: Connection) -> None:
    """Write until killed, and say after each change what it made."""
    store = LongTermMemory.open(folder, embedder=EMBEDDER)
    told.send({})
    number = first
    while True:
        memory = store.add(f"fact {number}", {"number": number})
        told.send({memory.id: memory.content})
        if number % 3 == 0:
            told.send({memory.id: store.update(memory.id, f"fact {number}, corrected").content})
        if number % 5 == 0:
            store.delete(memory.id)
            told.send({memory.id: None})
        if number % 7 == 0:
            batch = [NewMemory(content=f"fact {number}.{part}") for part in range(BATCH)]
            told.send({one.id: one.content for one in store.add_many(batch)})
        number += 1


def contents(store: LongTermMemory) -> Said:
    """Return what is in a store, in sight or not."""
    last = {entry.id: entry.versions[-1] for entry in store.entries()}
    return {id: version.content if version.live else None for id, version in last.items()}


def killed(folder: Path, kills: int) -> Counter[str]:
    """Kill one writer after the other; count what was said, lost and torn."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["agemem_dspy.memory.qdrant", "agemem_dspy.memory.edge_points"])
    counts, choice = Counter[str](), random.Random(0)
    known: Said = {}
    for kill in range(kills):
        hearing, telling = processes.Pipe(duplex=False)
        writer = processes.Process(target=write, args=(folder, 10**6 * kill, telling))
        writer.start()
        telling.close()
        hearing.recv()
        time.sleep(choice.uniform(0.0, LONGEST_S))
        writer.kill()
        writer.join()
        counts["writers killed"] += writer.exitcode == -signal.SIGKILL
        said = dict(known)
        try:
            while True:
                change = hearing.recv()
                said.update(change)
                counts["changes acknowledged"] += bool(change)
        except (EOFError, OSError):
            hearing.close()
        with LongTermMemory.open(folder, embedder=EMBEDDER) as store:
            known = contents(store)
            counts.update(compared(store, known, said))
    counts["entries at the end"] = len(known)
    return counts


def compared(store: LongTermMemory, found: Mapping[str, str | None], said: Mapping[str, str | None]) -> Counter[str]:
    """Count what is not as it was said; one change may have been made and not been said any more."""
    shown = {memory.id: memory.content for memory in store.all()}
    new = [content for id, content in found.items() if id not in said]
    unsaid = [id for id, content in said.items() if id in found and found[id] != content]
    whole = len(new) in (0, 1, BATCH) and len(unsaid) + bool(new) <= 1
    listed = shown == {id: content for id, content in found.items() if content is not None}
    sought = [store.search(content, top_k=1, mode="dense")[0].score or 0.0 for content in list(shown.values())[-5:]]
    return Counter(
        {
            "changes lost": sum(id not in found for id in said) + max(0, len(unsaid) - 1),
            "changes torn": int(not whole) + int(not listed) + sum(score < 0.999 for score in sought),
        }
    )


def at_once(folder: Path, threads: int, entries: int) -> Counter[str]:
    """Let threads work on one folder; count what they did, and what is not there afterwards."""
    share = entries // threads

    def work(worker: int) -> tuple[Said, Counter[str]]:
        mine: Said = {}
        done, choice = Counter[str](), random.Random(worker)
        with store.scoped(f"user {worker % 4}") as view:
            while len(mine) < share:
                try:
                    size = min(50, share - len(mine))
                    new = [NewMemory(content=f"{worker} says {len(mine) + number}") for number in range(size)]
                    mine |= {memory.id: memory.content for memory in view.add_many(new)}
                    alive = [id for id in list(mine)[-50:] if mine[id] is not None]
                    changed, gone = choice.sample(alive, 2)
                    mine[changed] = view.update(changed, f"{mine[changed]} again").content
                    view.delete(gone)
                    mine[gone] = None
                    view.history(gone)
                    view.search(f"{worker} says", top_k=3)
                    if view.get(changed).content != mine[changed]:
                        done["changes lost"] += 1
                    done["operations"] += 6
                except Exception as error:  # noqa: BLE001 - what is counted here
                    print(f"error: {error!r}")  # noqa: T201
                    done["errors"] += 1
                    break
        return mine, done

    with LongTermMemory.open(folder, embedder=EMBEDDER) as store, ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(work, range(threads)))
    counts = Counter({"operations": 0, "errors": 0, "changes lost": 0, "changes torn": 0})
    for _, done in results:
        counts.update(done)
    with LongTermMemory.open(folder, embedder=EMBEDDER) as store:
        for user in range(4):
            wanted = {id: content for mine, _ in results[user::4] for id, content in mine.items()}
            with store.scoped(f"user {user}") as view:
                found = contents(view)
            counts["changes lost"] += sum(found.get(id, "") != content for id, content in wanted.items())
            counts["changes torn"] += len(found.keys() - wanted.keys())
            counts["entries at the end"] += len(found)
    return counts


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="0: none")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--entries", type=int, default=100_000, help="of the threads together; 0: none")
    parser.add_argument("--where", type=Path, help="a folder for the stores; a temporary one when left out")
    arguments = parser.parse_args()
    table = Table(title="long-term memory in a folder, under faults")
    for column in ("", "count"):
        table.add_column(column, justify="right" if column else "left")
    with tempfile.TemporaryDirectory(dir=arguments.where) as place:
        parts = {}
        if arguments.kills:
            parts[f"{arguments.kills} kills"] = killed(Path(place) / "killed", arguments.kills)
        if arguments.entries:
            parts[f"{arguments.threads} threads"] = at_once(
                Path(place) / "threads", arguments.threads, arguments.entries
            )
    for name, counts in parts.items():
        table.add_row(f"[bold]{name}[/bold]", "")
        for what, count in counts.items():
            table.add_row(f"  {what}", f"{count:,}")
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main()
