"""The contract on the Qdrant server that QDRANT_URL names, in a collection of its own that is dropped afterwards."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from contracts import LongTermMemoryContract
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from agemem_dspy.memory.embedder import HashEmbedder
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.points import collection_name

URL, KEY = os.environ.get("QDRANT_URL"), os.environ.get("QDRANT_API_KEY")


def reachable() -> QdrantClient:
    """Return a client of the server, or skip with the reason."""
    if URL is None:
        pytest.skip("QDRANT_URL names no Qdrant server", allow_module_level=True)
    client = QdrantClient(URL, api_key=KEY, timeout=5, check_compatibility=False)
    try:
        client.get_collections()
    except (ResponseHandlingException, UnexpectedResponse) as error:
        pytest.skip(f"the server that QDRANT_URL names, {URL}, does not answer: {error}", allow_module_level=True)
    return client


CLIENT = reachable()


class TestRealServer(LongTermMemoryContract):
    @pytest.fixture
    def store(self) -> Iterator[LongTermMemory]:
        embedder = HashEmbedder()
        embedder.name = f"contract-{uuid.uuid4()}"
        try:
            with LongTermMemory.open(URL, user_id="ana", embedder=embedder) as store:
                yield store
        finally:
            CLIENT.delete_collection(collection_name(embedder))
