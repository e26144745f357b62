"""Memory: what outlives an episode (`long_term`, behind guards in `guarded`), what the model sees (`short_term`), how
texts compare (`embedder`).

Importing this package loads no database client and no model.
"""

from agemem_dspy.memory.embedder import CachedEmbedder, HashEmbedder, default_embedder, similarity
from agemem_dspy.memory.guarded import GuardedMemory
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.quarantine import Quarantined
from agemem_dspy.memory.short_term import Message, ShortTermMemory, approximate_tokens

__all__ = [
    "CachedEmbedder",
    "GuardedMemory",
    "HashEmbedder",
    "LongTermMemory",
    "Message",
    "Quarantined",
    "ShortTermMemory",
    "approximate_tokens",
    "default_embedder",
    "similarity",
]
