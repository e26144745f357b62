"""How quick the long-term memory is in a folder, beside the engine alone and beside other memories.

    python benchmarks/memory_speed.py [--entries 1000 10000 100000] [--users 10]
    python benchmarks/memory_speed.py --rivals      # needs: pip install 'mem0ai>=1,<2' langgraph langchain

Embedding is left out: vectors are made beforehand, 384 numbers each. Every entry belongs to one of the users; searches
are one user's, for the best 3. Times are medians. "Engine" is Qdrant's embedded engine called by hand with the same
condition: its own hybrid is a rank fusion of 50 by meaning and 50 by words, which it does in one call; ours is exact.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from rich.console import Console
from rich.table import Table

from agemem_dspy.errors import MissingDependency
from agemem_dspy.memory import LongTermMemory, NewMemory
from agemem_dspy.memory.lexical import query_vector
from agemem_dspy.memory.point_store import MEANING, WORDS

DIMENSION = 384
VOCABULARY, WORDS_A_TEXT, WORDS_A_QUERY = 4000, 10, 6
TARGETS = (
    "targets: dense <= 1 ms with 10,000 entries, 3 ms with 100,000; overhead <= 25 %; add <= 0.2 ms, "
    "add_many >= 5,000 /s; open < 1 s"
)
WIDTH = 140  # of the printed tables, in a pipe too
SINGLE, CALLS = 100, 200  # entries added one by one, and calls of everything else


class Texts:
    """Sentences and their vectors, which are made with them; an embedder that only looks them up.

    A few words are frequent and most are rare, as in a language, and the vector of a text is the sum of those of its
    words, the rare ones counting more: texts that share words are near to one another.
    """

    name, dimension = "precomputed", DIMENSION

    def __init__(self) -> None:
        self.random = np.random.default_rng(1)
        letters = list("abcdefghijklmnopqrstuvwxyz")
        self.vocabulary = ["".join(self.random.choice(letters, 2 + rank % 8)) for rank in range(VOCABULARY)]
        ranks = np.arange(1, VOCABULARY + 1)
        self.frequencies = 1 / ranks / (1 / ranks).sum()
        self.vectors = self.random.normal(size=(VOCABULARY, DIMENSION)) * np.sqrt(np.log1p(ranks))[:, None]
        self.rows: dict[str, NDArray[np.float32]] = {}

    def make(self, count: int, length: int = WORDS_A_TEXT) -> list[str]:
        """Return new texts."""
        texts = []
        for words in self.random.choice(VOCABULARY, (count, length), p=self.frequencies):
            row = self.vectors[words].sum(axis=0)
            texts.append(" ".join(self.vocabulary[word] for word in words))
            self.rows[texts[-1]] = (row / np.linalg.norm(row)).astype(np.float32)
        return texts

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit row a text."""
        return np.stack([self.rows[text] for text in texts])


def median_ms(call: Callable[[str], object], arguments: Sequence[str]) -> float:
    """Return the median time of a call, after a few that do not count."""
    return medians_ms([call], arguments)[0]


def medians_ms(calls: Sequence[Callable[[str], object]], arguments: Sequence[str]) -> list[float]:
    """Return the median time of each call; they take turns, so that what else the machine does falls on all alike."""
    times: list[list[float]] = [[] for _ in calls]
    for argument in [*arguments[:5], *arguments]:
        for call, own in zip(calls, times, strict=True):
            began = time.perf_counter()
            call(argument)
            own.append(time.perf_counter() - began)
    return [1000 * statistics.median(own[5:]) for own in times]


def main() -> None:
    """Print a table over sizes, then one of rivals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--users", type=int, nargs="+", default=[10, 1], help="among how many users they are divided")
    parser.add_argument(
        "--rivals",
        type=int,
        nargs="?",
        const=10_000,
        help="then side by side with other memories, with so many entries",
    )
    parser.add_argument("--where", type=Path, help="a folder for the stores; a temporary one when left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.where) as folder:
        if arguments.entries:
            Console(width=WIDTH).print(sizes(Path(folder) / "sizes", arguments.entries, arguments.users))
        if arguments.rivals:
            Console(width=WIDTH).print(rivals(Path(folder) / "rivals", arguments.rivals, arguments.users[0]))


def sizes(folder: Path, entries: Sequence[int], users: Sequence[int]) -> Table:
    """Measure one store after the other."""
    table = Table(title=f"embedded long-term memory, {DIMENSION} dimensions, {os.cpu_count()} CPUs; ms are medians")
    table.caption = TARGETS
    for column in (
        "entries", "users", "add ms", "add_many /s", "get ms", "dense ms", "engine ms", "overhead", "hybrid ms",
        "engine ms", "overhead", "open s",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for count in entries:
        for people in users:
            table.add_row(f"{count:,}", str(people), *measured(folder / f"{count}-{people}", count, people))
    return table


def measured(folder: Path, count: int, people: int) -> list[str]:
    """Fill a store and measure it."""
    texts = Texts()
    queries = texts.make(CALLS, WORDS_A_QUERY)
    with LongTermMemory.open(folder, user_id="user-0", embedder=texts) as store:
        add = median_ms(store.add, texts.make(SINGLE))
        seconds = 0.0
        for person in range(people):
            share = [NewMemory(content=text) for text in texts.make(count // people - (0 if person else SINGLE))]
            with store.scoped(f"user-{person}") as view:
                began = time.perf_counter()
                view.add_many(share)
                seconds += time.perf_counter() - began
        ids = [memory.id for memory in store.search(queries[0], top_k=CALLS, mode="dense")]
        get = median_ms(store.get, ids)
        engine = Engine(store, "user-0")
        dense, alone = medians_ms([lambda query: store.search(query, mode="dense"), engine.dense], queries)
        hybrid, alone_hybrid = medians_ms([store.search, engine.hybrid], queries)
    began = time.perf_counter()
    with LongTermMemory.open(folder, user_id="user-0", embedder=texts):
        opened = time.perf_counter() - began
    return [
        f"{add:.3f}", f"{(count - SINGLE) / seconds:,.0f}", f"{get:.3f}",
        f"{dense:.2f}", f"{alone:.2f}", f"{dense / alone - 1:+.0%}",
        f"{hybrid:.2f}", f"{alone_hybrid:.2f}", f"{hybrid / alone_hybrid - 1:+.0%}", f"{opened:.2f}",
    ]  # fmt: skip


class Engine:
    """The engine of an open store, called by hand for one user: what a search costs without our layer."""

    def __init__(self, store: Any, user: str) -> None:
        self.shard: edge.EdgeShard = store._connection.points._shard
        self.embedder = store.embedder
        field, equal, until = edge.FieldCondition, edge.MatchValue, edge.RangeDateTime(lte="2027-01-01T00:00:00Z")
        self.filter = edge.Filter(
            must=[field(key="user_id", match=equal(user)), field(key="state", match=equal("live"))],
            must_not=[field(key="expires_at", range=until)],
        )

    def dense(self, query: str) -> list[tuple[Any, ...]]:
        """Return the best 3 by meaning."""
        nearest = edge.Query.Nearest(self.embedder.embed([query])[0].tolist(), MEANING)
        request = edge.QueryRequest(limit=3, query=nearest, filter=self.filter, with_payload=True)
        return [(point.id, point.score, point.payload) for point in self.shard.query(request)]

    def hybrid(self, query: str) -> list[tuple[Any, ...]]:
        """Return the best 3 by rank fusion."""
        weights = query_vector(query)
        nearest = (
            edge.Query.Nearest(self.embedder.embed([query])[0].tolist(), MEANING),
            edge.Query.Nearest(edge.SparseVector(list(weights), list(weights.values())), WORDS),
        )
        both = [edge.Prefetch(limit=50, query=one, filter=self.filter) for one in nearest]
        request = edge.QueryRequest(limit=3, query=edge.Fusion.Rrf(k=60), prefetches=both, with_payload=True)
        return [(point.id, point.score, point.payload) for point in self.shard.query(request)]


def rivals(folder: Path, count: int, people: int) -> Table:
    """Fill each memory with the same entries and measure the searches of one user."""
    texts = Texts()
    entries = [(f"user-{number % people}", text) for number, text in enumerate(texts.make(count))]
    queries = texts.make(50, WORDS_A_QUERY)
    table = Table(
        title=f"{count:,} entries of {people} users, the same vectors, one user's best 3; {os.cpu_count()} CPUs"
    )
    for column in ("memory", "add one by one /s", "search ms", "times ours"):
        table.add_column(column, justify="right" if table.columns else "left")
    ours = 0.0
    memories = {
        "ours, in a folder": in_folder,
        "ours, ':memory:'": in_memory,
        "qdrant-client, local mode, dense": qdrant_client_in_memory,
        "LangMem's store": langgraph_in_memory,
        "mem0": mem0_in_folder,
    }
    for name, make in memories.items():
        add, search = make(folder / name.split()[0], texts)
        began = time.perf_counter()
        for user, text in entries:
            add(user, text)
        rate = count / (time.perf_counter() - began)
        took = median_ms(lambda query, search=search: search("user-0", query), queries)
        ours = ours or took
        table.add_row(name, f"{rate:,.0f}", f"{took:.2f}", f"{took / ours:.1f}")
    return table


Add, Search = Callable[[str, str], object], Callable[[str, str], object]


def in_folder(folder: Path | str, texts: Texts) -> tuple[Any, Any]:
    """Return `add(user, text)` and `search(user, query)` of ours, in a folder."""
    store = LongTermMemory.open(folder, embedder=texts)
    views: dict[str, LongTermMemory] = {}

    def view(user: str) -> LongTermMemory:
        if user not in views:
            views[user] = store.scoped(user)
        return views[user]

    return lambda user, text: view(user).add(text), lambda user, query: view(user).search(query)


def in_memory(folder: Path, texts: Texts) -> tuple[Any, Any]:
    """Return the same of ours, in the process."""
    return in_folder(":memory:", texts)


def qdrant_client_in_memory(folder: Path, texts: Texts) -> tuple[Any, Any]:
    """Return the same of the engine in Python that `QdrantClient(":memory:")` has."""
    client = QdrantClient(":memory:")
    client.create_collection("memories", models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE))

    def add(user: str, text: str) -> None:
        vector = texts.embed([text])[0].tolist()
        point = models.PointStruct(id=time.perf_counter_ns(), vector=vector, payload={"user": user, "content": text})
        client.upsert("memories", [point])

    def search(user: str, query: str) -> object:
        mine = models.Filter(must=[models.FieldCondition(key="user", match=models.MatchValue(value=user))])
        return client.query_points("memories", texts.embed([query])[0].tolist(), query_filter=mine, limit=3)

    return add, search


def mem0_in_folder(folder: Path, texts: Texts) -> tuple[Any, Any]:
    """Return the same of mem0 on its default store, without an LLM's part in adding."""
    os.environ["MEM0_TELEMETRY"] = "False"  # read when it is imported
    os.environ["MEM0_DIR"] = str(folder)
    try:
        from mem0 import Memory
    except ImportError as error:
        raise MissingDependency("The comparison needs mem0: pip install 'mem0ai>=1,<2' langgraph langchain") from error
    store = {"path": str(folder / "store"), "on_disk": True, "embedding_model_dims": DIMENSION}
    memory = Memory.from_config(
        {
            "vector_store": {"provider": "qdrant", "config": store},
            "embedder": {"provider": "langchain", "config": {"model": langchain_embedder(texts)}},
            "llm": {"provider": "openai", "config": {"api_key": "never used"}},
            "history_db_path": str(folder / "history.db"),
        }
    )
    return (
        lambda user, text: memory.add(text, user_id=user, infer=False),
        lambda user, query: memory.search(query, user_id=user, limit=3),
    )


def langgraph_in_memory(folder: Path, texts: Texts) -> tuple[Any, Any]:
    """Return the same of the store that LangMem's documentation uses."""
    try:
        from langgraph.store.memory import InMemoryStore
    except ImportError as error:
        raise MissingDependency(
            "The comparison needs LangGraph: pip install 'mem0ai>=1,<2' langgraph langchain"
        ) from error
    store = InMemoryStore(index={"dims": DIMENSION, "embed": langchain_embedder(texts), "fields": ["content"]})
    return (
        lambda user, text: store.put(("memories", user), str(time.perf_counter_ns()), {"content": text}),
        lambda user, query: store.search(("memories", user), query=query, limit=3),
    )


def langchain_embedder(vectors: Texts) -> Any:
    """Return the vectors as both rivals take them."""
    try:
        from langchain_core.embeddings import Embeddings
    except ImportError as error:
        raise MissingDependency(
            "The comparison needs LangChain: pip install 'mem0ai>=1,<2' langgraph langchain"
        ) from error

    class Looked(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            rows: list[list[float]] = vectors.embed(texts).tolist()
            return rows

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    return Looked()


if __name__ == "__main__":
    main()
