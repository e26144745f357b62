"""What a model folder's weights are: their digest, and the `source.json` that a fetched model carries."""

from __future__ import annotations

import json
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agemem_dspy.errors import ModelError
from agemem_dspy.paths import file_sha256

SOURCE_FILE = "source.json"


def model_sha256(folder: Path | str) -> str:
    """Return the SHA-256 of a folder's weights; of the list of digests when they are in several files.

    Hashing is skipped while size and time of the files are those of the last call.

    Raises:
        ModelError: no *.safetensors file, or a fetched model's weights are not those that were fetched.
    """
    folder = Path(folder)
    stamps = stamps_of(folder)
    if not stamps:
        raise ModelError(f"{folder} has no *.safetensors file; save the model with save_pretrained")
    recorded = read_source(folder)
    if recorded.get("stamps") == [list(stamp) for stamp in stamps]:
        return str(recorded["sha256"])
    digest = _hash_weights(folder, stamps)
    if recorded and recorded["sha256"] != digest:
        raise ModelError(
            f"the weights in {folder} changed since they were fetched (SHA-256 {digest}, recorded "
            f"{recorded['sha256']}); remove the folder and fetch again"
        )
    return digest


def read_source(folder: Path | str) -> dict[str, Any]:
    """Return what `source.json` says of a fetched model (source, origin, sha256, versions); {} for other folders.

    Raises:
        ModelError: the file is there but cannot be read.
    """
    path = Path(folder) / SOURCE_FILE
    if not path.is_file():
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); remove {path.parent} and fetch again") from error
    return record


def record_source(folder: Path, *, source: str, origin: str) -> None:
    """Write `source.json` beside freshly fetched weights: source, exact origin, digest, library versions."""
    stamps = stamps_of(folder)
    record = {
        "source": source,
        "origin": origin,
        "sha256": _hash_weights(folder, stamps),
        "stamps": stamps,
        "versions": {package: version(package) for package in ("torch", "transformers", "gguf")},
    }
    (folder / SOURCE_FILE).write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def stamps_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return (name, bytes, modification time in ns) of each weights file."""
    states = [(file.name, file.stat()) for file in sorted(folder.glob("*.safetensors"))]
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)


@lru_cache(maxsize=64)
def _hash_weights(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    digests = [(name, file_sha256(folder / name)) for name, _, _ in stamps]
    if len(digests) == 1:
        return digests[0][1]
    return sha256("".join(f"{digest}  {name}\n" for name, digest in digests).encode()).hexdigest()
