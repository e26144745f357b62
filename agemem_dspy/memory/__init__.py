"""Memory: what outlives an episode (`long_term`), what the model sees (`short_term`), how texts compare (`embedder`).

Importing this package loads no database client and no model.
"""

from agemem_dspy.memory.embedder import CachedEmbedder, HashEmbedder, default_embedder, similarity
from agemem_dspy.memory.filters import AnyOf, Range
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.short_term import Message, ShortTermMemory, approximate_tokens
from agemem_dspy.types import NewMemory

__all__ = [
    "AnyOf",
    "CachedEmbedder",
    "HashEmbedder",
    "LongTermMemory",
    "Message",
    "NewMemory",
    "Range",
    "ShortTermMemory",
    "approximate_tokens",
    "default_embedder",
    "similarity",
]
