"""One quiet process a worker: one thread for torch, no hub, and every cache in a folder that goes away."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports dspy, torch or huggingface_hub: they read these once.
_SCRATCH = Path(tempfile.mkdtemp(prefix="agemem-tests-"))
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)
os.environ.update(
    {
        "AGEMEM_HOME": str(_SCRATCH / "agemem"),
        "DSPY_CACHEDIR": str(_SCRATCH / "dspy"),
        "HF_HOME": str(_SCRATCH / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # litellm would fetch its price list when imported
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
# A shell starts what it puts into the background with Ctrl-C ignored, and processes that tests start would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_server_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test opens is its own; only `test_real_server.py` asks for the server that QDRANT_URL names."""
    monkeypatch.delenv("QDRANT_URL", raising=False)


@pytest.fixture
def agemem_home(tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder of this test's own."""
    former = os.environ["AGEMEM_HOME"]
    home = tmp_path / "home"
    os.environ["AGEMEM_HOME"] = str(home)
    yield home
    os.environ["AGEMEM_HOME"] = former
