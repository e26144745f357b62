"""What embedding costs: texts a second of the packaged MiniLM, by how it is called, and of its caches.

    python benchmarks/embedding.py [--texts 128] [--rounds 5]

The texts are messages of the assistant's training set, every fourth one eight of them together. All rows are measured
in turn, round by round, and each shows its best: by the clock, and by the processor's time, which other work on the
machine disturbs less. The last column compares the latter with the row "128 a call".
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import agemem_dspy as am
from agemem_dspy.memory import CachedEmbedder, EmbeddingCache, MiniLMEmbedder
from agemem_dspy.memory.minilm import _WEIGHTS, _checked_file

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
Row = tuple[int, Callable[[], object]]  # how many texts, and what embeds them
BASE = "128 a call"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    texts = some_texts(arguments.texts)
    with tempfile.TemporaryDirectory() as folder:
        rates = measured(rows(texts, Path(folder)), arguments.rounds)
    table = Table(title=f"{len(texts)} texts, best of {arguments.rounds} rounds")
    for column in ("", "texts/s", "texts a CPU second", f"of {BASE}"):
        table.add_column(column, justify="right" if column else "left")
    for name, (by_clock, by_processor) in rates.items():
        table.add_row(name, f"{by_clock:,.0f}", f"{by_processor:,.0f}", f"{by_processor / rates[BASE][1]:.2f}")
    Console().print(table)


def rows(texts: list[str], folder: Path) -> dict[str, Row]:
    """Return what is measured, by name; models are loaded and caches filled before."""
    model = MiniLMEmbedder()
    known, disk = CachedEmbedder(model), EmbeddingCache(folder)
    for cached in (known, CachedEmbedder(model, disk=disk)):
        cached.embed(texts)
    queue = Queue(model.embed)
    count = len(texts)
    found: dict[str, Row] = {f"{size} a call": (count, calls(model.embed, texts, size)) for size in (1, 8, 32, 128)}
    found["… each text 4 times"] = 4 * count, lambda: model.embed(texts * 4)
    found["… by count: batches of 16 as given"] = count, calls(ByCount(16).embed, texts, 128)
    found["… by count: 16 of like length"] = count, calls(ByCount(16).embed, sorted(texts, key=len), 128)
    for tokens in (64, 128, 512, 1024):
        found[f"… runs of {tokens} tokens"] = count, calls(Variant(run_tokens=tokens).embed, texts, 128)
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        found[f"… {level}"] = count, calls(Variant(level=level).embed, texts, 128)
    for spinning in ("0", "1"):
        variant = Variant(threads=2, spinning=spinning)
        found[f"… 2 threads inside{', spinning' * int(spinning)}"] = count, calls(variant.embed, texts, 128)
    found["32 threads, a text each"] = count, lambda: from_threads(32, model.embed, [[text] for text in texts])
    found["… gathered to batches (not offered)"] = (
        count,
        lambda: from_threads(32, queue.embed, [[text] for text in texts]),
    )
    found["8 threads, the same texts"] = 8 * count, lambda: from_threads(8, model.embed, [texts] * 8)
    found["… behind a cache"] = 8 * count, lambda: from_threads(8, CachedEmbedder(model).embed, [texts] * 8)
    found["known in the process, 1 a call"] = count, calls(known.embed, texts, 1)
    for size in (1, 128):
        found[f"known on disk, {size} a call"] = (
            count,
            lambda size=size: calls(CachedEmbedder(model, disk=disk).embed, texts, size)(),  # type: ignore[misc]
        )
    return found


class Variant(MiniLMEmbedder):
    """The same model with other settings of onnxruntime."""

    def __init__(self, level: str = "ORT_ENABLE_BASIC", spinning: str = "0", threads: int = 1, **options: Any) -> None:
        super().__init__(threads=threads, **options)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        self._session = onnxruntime.InferenceSession(
            str(_checked_file(*_WEIGHTS)), settings, providers=["CPUExecutionProvider"]
        )


class ByCount(MiniLMEmbedder):
    """The same model in runs of as many texts, however long."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the sums over tokens, (n, dimension)."""
        tokens = [encoded.ids for encoded in self._tokenizer.encode_batch(list(texts))]
        return np.concatenate(
            [self._run(tokens[start : start + self._count]) for start in range(0, len(tokens), self._count)]
        )


class Queue:
    """Gathers what threads ask for while a call is under way into the next call: the first to wait makes it."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._waiting: list[tuple[Sequence[str], list[NDArray[np.float32]]]] = []
        self._busy = False
        self._changed = threading.Condition()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the rows of some texts."""
        mine: tuple[Sequence[str], list[NDArray[np.float32]]] = (texts, [])
        with self._changed:
            self._waiting.append(mine)
            self._changed.wait_for(lambda: mine[1] or not self._busy)
            if mine[1]:
                return mine[1][0]
            self._busy, jobs, self._waiting = True, self._waiting, []
        made = self._embed([text for job, _ in jobs for text in job])
        with self._changed:
            for job, answer in jobs:
                answer.append(made[: len(job)])
                made = made[len(job) :]
            self._busy = False
            self._changed.notify_all()
        return mine[1][0]


def some_texts(count: int) -> list[str]:
    """Return distinct messages, three short ones and one of eight in turn."""
    messages = [text for example in am.load_dataset("assistant:train", limit=count) for text in example.messages]
    messages = list(dict.fromkeys(messages))
    return [" ".join(messages[start : start + 8]) if start % 4 == 3 else messages[start] for start in range(count)]


def calls(embed: Embed, texts: list[str], size: int) -> Callable[[], object]:
    """Return what embeds the texts in calls of one size."""
    return lambda: [embed(texts[start : start + size]) for start in range(0, len(texts), size)]


def from_threads(threads: int, embed: Embed, jobs: Sequence[Sequence[str]]) -> None:
    """Embed each job in one call, from many threads."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(embed, jobs))


def measured(work: dict[str, Row], rounds: int) -> dict[str, tuple[float, float]]:
    """Return the texts a second of each row, by the clock and by the processor's time."""
    best = dict.fromkeys(work, (0.0, 0.0))
    for _ in range(rounds):
        for name, (count, run) in work.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            clock, processor = time.perf_counter() - clock, time.process_time() - processor
            best[name] = max(best[name][0], count / clock), max(best[name][1], count / processor)
    return best


if __name__ == "__main__":
    main()
