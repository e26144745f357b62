"""Files and folders: the cache folder, a file's digest, and the links that make three rooms part of the package."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

HOME_VARIABLE = "AGEMEM_HOME"
ROOMS = ("programs", "optimizers", "data")


def cache_folder() -> Path:
    """Return the folder for downloads: `$AGEMEM_HOME`, else the platform's cache folder. It may not exist yet."""
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("agemem-dspy", appauthor=False)


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_links(package: str | Path | None = None) -> None:
    """Check that the rooms inside the package folder are folders, not the text files git makes without links.

    Args:
        package: the `agemem_dspy` folder to check; this one by default.

    Raises:
        ImportError: a room is missing or is a plain file; the message says how to check out again.
    """
    folder = Path(__file__).parent if package is None else Path(package)
    broken = [str(folder / room) for room in ROOMS if not (folder / room).is_dir()]
    if broken:
        raise ImportError(
            f"{', '.join(broken)} should be a link to the folder of the same "
            "name in the repository root. This checkout was made without symbolic links; run "
            "'git config core.symlinks true && git checkout -f HEAD -- agemem_dspy' "
            "(on Windows, turn on developer mode first)."
        )
