"""Memory: what outlives an episode (`long_term`, behind guards in `guarded`), what the model sees (`short_term`), how
texts compare (`embedder`).

Importing this package loads no database client and no model.
"""

from agemem_dspy.memory.auditing import AuditReport, Junk, Pair, audit
from agemem_dspy.memory.cached_embedder import CachedEmbedder
from agemem_dspy.memory.dspy_embedder import DSPyEmbedder
from agemem_dspy.memory.embedder import HashEmbedder, similarity
from agemem_dspy.memory.embedder_names import as_embedder, default_embedder
from agemem_dspy.memory.embedding_cache import EmbeddingCache
from agemem_dspy.memory.fastembed_embedder import FastEmbedEmbedder
from agemem_dspy.memory.filters import AnyOf, Range
from agemem_dspy.memory.guarded import GuardedMemory
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.minilm import MiniLMEmbedder
from agemem_dspy.memory.quarantine import Quarantined
from agemem_dspy.memory.reembedding import reembed
from agemem_dspy.memory.reranking import Reranker, Reranking
from agemem_dspy.memory.sentence_transformer import SentenceTransformerEmbedder
from agemem_dspy.memory.short_term import Edit, Message, ShortTermMemory, approximate_tokens
from agemem_dspy.types import NewMemory

__all__ = [
    "AnyOf",
    "AuditReport",
    "CachedEmbedder",
    "DSPyEmbedder",
    "Edit",
    "EmbeddingCache",
    "FastEmbedEmbedder",
    "GuardedMemory",
    "HashEmbedder",
    "Junk",
    "LongTermMemory",
    "Message",
    "MiniLMEmbedder",
    "NewMemory",
    "Pair",
    "Quarantined",
    "Range",
    "Reranker",
    "Reranking",
    "SentenceTransformerEmbedder",
    "ShortTermMemory",
    "approximate_tokens",
    "as_embedder",
    "audit",
    "default_embedder",
    "reembed",
    "similarity",
]
