"""Import paths, "module:name": how a saved program refers to code that is not in its folder."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from agemem_dspy.errors import ConfigurationError


def path_of(thing: Any) -> str | None:
    """Return the path under which another process finds `thing`; None for what only this process has."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not module or not name or module == "__main__" or module not in sys.modules:
        return None
    return f"{module}:{name}" if _walk(sys.modules[module], name) is thing else None


def resolve(path: str, *, what: str, trust_code: bool) -> Any:
    """Return the object at an import path.

    A module that this process has not imported runs code when it is, so that needs `trust_code`.

    Raises:
        ConfigurationError: the import is not allowed, or there is nothing at the path.
    """
    module, _, name = path.partition(":")
    if module not in sys.modules and not trust_code:
        raise ConfigurationError(
            f"{what} is code of the module {module!r}, which is not imported here; import it first, or pass "
            "trust_code=True if you trust the folder"
        )
    try:
        found = _walk(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigurationError(
            f"{what} needs the module {module!r} ({error}); put it on the path as it was when the program was saved"
        ) from error
    if found is None:
        raise ConfigurationError(f"{what} is not at {path!r} any more; bring it back or save the program again")
    return found


def _walk(module: Any, name: str) -> Any:
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found
