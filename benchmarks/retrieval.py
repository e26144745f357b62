"""How often the right entry is found: dense, lexical and hybrid search over real dialogues.

    python benchmarks/retrieval.py locomo_conversations.json [--skip 3]

The file is LoCoMo's official JSON (snap-research/LoCoMo). Every turn of a conversation is one entry, "speaker: text",
of a store in a folder; each question is a query, and recall@k is the share of its evidence turns among the first k.
Adversarial questions (category 5) have no evidence. Intervals (95 %) resample the questions, those of "hybrid less this
one" their differences. BM25, and dense and BM25 by reciprocal rank fusion, which the store does not offer, are computed
here to compare.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

import agemem_dspy as am
from agemem_dspy.memory import NewMemory
from agemem_dspy.memory.checks import SearchMode
from agemem_dspy.memory.lexical import words
from agemem_dspy.results import Interval

ADVERSARIAL = 5
K1, B = 1.2, 0.75
RRF = 5  # of 5, 20 and 60 the best here


def main() -> None:
    """Print recall of every mode and the gain of the hybrid one over the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="LoCoMo's JSON")
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many conversations")
    arguments = parser.parse_args()
    modes: tuple[SearchMode, ...] = get_args(SearchMode)
    recall: dict[str, list[float]] = {name: [] for name in (*modes, "BM25", "dense + BM25, RRF")}
    seconds = dict.fromkeys(modes, 0.0)
    conversations = json.loads(arguments.file.read_text(encoding="utf-8"))[arguments.skip :]
    for conversation in conversations:
        with tempfile.TemporaryDirectory() as folder, am.LongTermMemory.open(folder) as store:
            said = spoken(conversation)
            entries = store.add_many([NewMemory(content=f"{turn['speaker']}: {turn['text']}") for turn in said])
            turns = {turn["dia_id"]: entry.id for turn, entry in zip(said, entries, strict=True)}
            rival = BM25({memory.id: memory.content for memory in store.all()})
            for question in conversation["qa"]:
                wanted = {turns[turn] for turn in question.get("evidence", ()) if turn in turns}
                if question["category"] == ADVERSARIAL or not wanted:
                    continue
                store.embedder.embed([question["question"]])  # cached, so that no mode pays for it
                for mode in modes:
                    began = time.perf_counter()
                    found = store.search(question["question"], top_k=arguments.top_k, mode=mode)
                    seconds[mode] += time.perf_counter() - began
                    recall[mode].append(len(wanted & {memory.id for memory in found}) / len(wanted))
                everything = [memory.id for memory in store.search(question["question"], 10_000, mode="dense")]
                ranked = rival.ranked(question["question"])
                both = {id: 1 / (RRF + rank) + 1 / (RRF + ranked.index(id)) for rank, id in enumerate(everything)}
                for name, order in (("BM25", ranked), ("dense + BM25, RRF", sorted(both, key=lambda id: -both[id]))):
                    recall[name].append(len(wanted & set(order[: arguments.top_k])) / len(wanted))
    count = len(recall["hybrid"])
    table = Table(title=f"recall@{arguments.top_k}: {count} questions, {len(conversations)} conversations")
    for column in ("", "recall", "hybrid less this one", "ms a search"):
        table.add_column(column, justify="right" if column else "left")
    for name, own in recall.items():
        gains = [a - b for a, b in zip(recall["hybrid"], own, strict=True)]
        gain = "" if name == "hybrid" else shown(Interval.of(gains), sign="+")
        table.add_row(
            name, shown(Interval.of(own)), gain, f"{1000 * seconds[name] / count:.1f}" if name in modes else ""
        )
    Console(width=100).print(table)  # of the printed table, in a pipe too


class BM25:
    """Okapi BM25 over some texts by id, with the words of `memory.lexical`, each counted once a text."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.words = {id: words(text) for id, text in texts.items()}
        self.mean = statistics.fmean(len(own) for own in self.words.values())
        self.frequency = Counter(word for own in self.words.values() for word in own)

    def ranked(self, query: str) -> list[str]:
        """Return the ids, best first."""
        count = len(self.words)
        rarity = {
            word: math.log((count - self.frequency[word] + 0.5) / (self.frequency[word] + 0.5) + 1)
            for word in words(query)
        }
        scores = {
            id: sum(rarity[word] for word in rarity if word in own)
            * 2.2
            / (1.2 * (0.25 + 0.75 * len(own) / self.mean) + 1)
            for id, own in self.words.items()
        }
        return sorted(scores, key=lambda id: -scores[id])


def spoken(conversation: dict[str, Any]) -> list[dict[str, str]]:
    """Return the turns of all sessions."""
    sessions = conversation["conversation"]
    return [turn for name, turns in sessions.items() if isinstance(turns, list) for turn in turns]


def shown(interval: Interval, sign: str = "") -> str:
    """Return a mean with its interval."""
    return f"{interval.mean:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


if __name__ == "__main__":
    main()
