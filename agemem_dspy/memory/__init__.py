"""Memory: what outlives an episode (`long_term`), what the model sees (`short_term`), how texts compare (`embedder`).

Importing this package loads no database client and no model.
"""

from agemem_dspy.memory.embedder import CachedEmbedder, HashEmbedder, default_embedder, similarity
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.short_term import Edit, Message, ShortTermMemory, approximate_tokens

__all__ = [
    "CachedEmbedder",
    "Edit",
    "HashEmbedder",
    "LongTermMemory",
    "Message",
    "ShortTermMemory",
    "approximate_tokens",
    "default_embedder",
    "similarity",
]
