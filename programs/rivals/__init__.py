"""The rivals: other ways to remember, as small programs over the same store, embedder and LM.

They keep the memory by LM calls of a fixed order; see `ManagedMemoryAgent` for what they share with an episode.
"""

from agemem_dspy.programs.rivals.extract_update import ExtractUpdateAgent
from agemem_dspy.programs.rivals.full_context import FullContextAgent
from agemem_dspy.programs.rivals.langmem_package import LangMemAgent
from agemem_dspy.programs.rivals.linked_notes import LinkedNotesAgent
from agemem_dspy.programs.rivals.managed import ManagedMemoryAgent
from agemem_dspy.programs.rivals.mem0_package import Mem0Agent
from agemem_dspy.programs.rivals.schema_manager import SchemaManagerAgent

__all__ = [
    "ExtractUpdateAgent",
    "FullContextAgent",
    "LangMemAgent",
    "LinkedNotesAgent",
    "ManagedMemoryAgent",
    "Mem0Agent",
    "SchemaManagerAgent",
]
