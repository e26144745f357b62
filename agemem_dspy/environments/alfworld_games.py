"""Where ALFWorld's games are: folders as `alfworld-download` makes them, or a tar archive of such folders."""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from agemem_dspy.errors import DataError
from agemem_dspy.paths import cache_folder

GAME = "game.tw-pddl"
_SOLVABLE = re.compile(r'"solvable":\s*true')


def find_games(where: Path) -> tuple[Path, ...]:
    """Return the game files at or below a folder, in the order of their paths; those with no solution are left out.

    Args:
        where: a folder, or a path into a tar archive, which is then unpacked into the cache folder.

    Raises:
        DataError: there is no such folder, no readable archive, or no game.
    """
    folder = where if where.is_dir() else _unpacked(where)
    games = _games_below(folder)
    if not games:
        raise DataError(f"{where}: no solvable games ({GAME}) are here; `alfworld-download` fetches the official ones")
    return games


@functools.cache
def _games_below(folder: Path) -> tuple[Path, ...]:
    # As alfworld itself does: tasks with sliced things or things in things that move are not supported.
    found = (game for game in folder.rglob(GAME) if not {"movable", "Sliced"} & set(re.split(r"[-/_]", str(game))))
    return tuple(sorted(game for game in found if _SOLVABLE.search(game.read_text(encoding="utf-8"))))


def _unpacked(where: Path) -> Path:
    """Return the folder that a path into an archive stands for."""
    archive = next((one for one in (where, *where.parents) if one.is_file()), None)
    if archive is None:
        raise DataError(f"{where}: no such folder or archive of games; check the path")
    target = cache_folder() / "alfworld" / hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent))
        try:
            with tarfile.open(archive) as packed:
                packed.extractall(made, filter="data")
            made.rename(target)
        except (OSError, EOFError, tarfile.TarError) as error:
            if not target.is_dir():  # else another process was faster
                raise DataError(f"{archive}: cannot be unpacked ({error}); give a tar archive or a folder") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)
    folder = target / where.relative_to(archive)
    if not folder.is_dir():
        held = ", ".join(sorted(one.name for one in target.iterdir()))
        raise DataError(f"{where}: there is no such folder in the archive; it holds {held}")
    return folder
