"""The LMs of a saved program: a remote one by name and options, a local policy by base model and version.

No key, token or header is ever written; an LM that needs one takes it from its environment variable again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dspy.clients.base_lm import BaseLM

from agemem_dspy.errors import ConfigurationError, ModelError

if TYPE_CHECKING:
    from agemem_dspy.policy.engine import PolicyEngine
    from agemem_dspy.policy.versions import Weights

_SECRET = re.compile(r"api_?key|secret|password|credential|authorization|headers|access_key|(^|_)token$", re.IGNORECASE)
_ENDPOINTS = ("api_base", "base_url", "model_list")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CASTS = {"float32": "float", "bfloat16": "bfloat16", "float16": "half"}  # type in memory: the model's own method


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPolicy:
    """What of a local policy is saved: its base model's description, its version and that version's weights.

    `version` is "" and `weights` None where the base itself is served.
    """

    base: Mapping[str, Any]
    version: str
    weights: Weights | None


def engine_of(lm: Any) -> PolicyEngine | None:
    """Return the local engine behind an LM; torch is loaded only if there can be one."""
    if isinstance(getattr(lm, "engine", None), str | None):
        return None
    from agemem_dspy.policy.lm import policy_engine

    return policy_engine(lm)


def saved_policy(lm: Any) -> LocalPolicy | None:
    """Return what identifies a local policy, None for any other LM."""
    engine = engine_of(lm)
    if engine is None:
        return None
    from agemem_dspy.policy.weights import read_source

    loaded = engine.loaded
    source = read_source(loaded.path)
    base = {
        "name": loaded.name,
        "engine": engine.name,
        "path": str(loaded.path),
        "sha256": loaded.sha256,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "source": source.get("source"),
        "origin": source.get("origin"),
    }
    return LocalPolicy(base=base, version=lm.model.partition("@")[2], weights=engine.weights(lm.model))


def dump_lm(lm: Any) -> dict[str, Any]:
    """Return an LM as JSON without secrets; a local policy's weights are saved apart.

    Raises:
        ConfigurationError: an LM that cannot describe itself.
    """
    policy = saved_policy(lm)
    if policy is not None:
        options = {"cache": lm.cache, "num_retries": lm.num_retries, "kwargs": dict(lm.kwargs)}
        return {"kind": "local", "version": policy.version, **options}
    try:
        state = lm.dump_state()
    except (AttributeError, TypeError) as error:
        raise ConfigurationError(
            f"the LM {getattr(lm, 'model', type(lm).__name__)!r} cannot be saved ({error}); take it off with "
            "program.set_lm(None) and give another with load(folder, lm=…)"
        ) from error
    return {"kind": "remote", "state": _without_secrets(state)}


def load_remote(state: Mapping[str, Any], *, trust_code: bool) -> Any:
    """Return the LM that `dump_lm` described.

    Raises:
        ConfigurationError: it has an endpoint or a class of its own, which need trust, or cannot be built.
    """
    record = dict(state["state"])
    foreign = [str(record[key]) for key in _ENDPOINTS if record.get(key) and not _is_loopback(record[key])]
    if foreign and not trust_code:
        raise ConfigurationError(
            f"the program was saved with an LM at {foreign[0]}, which would get your prompts and keys; pass "
            "trust_code=True if you trust the folder, or another LM with lm="
        )
    try:
        return BaseLM.load_state(record, allow_custom_lm_class=trust_code)
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"the LM {record.get('model')!r} cannot be built again ({error}); pass an LM with lm=, or trust_code=True "
            "if its class is your own"
        ) from error


def load_local(state: Mapping[str, Any], engine: PolicyEngine) -> Any:
    """Return the LM that `dump_lm` described, served by an engine that knows its version."""
    from agemem_dspy.policy.lm import local_lm

    lm = local_lm(engine).copy(model=model_string(engine, state["version"]))
    lm.cache, lm.num_retries, lm.kwargs = state["cache"], state["num_retries"], dict(state["kwargs"])
    return lm


def model_string(engine: PolicyEngine, version: str) -> str:
    """Return how an engine's version is addressed; "" is the base."""
    return f"{engine.name}@{version}" if version else engine.name


def open_base(base: Mapping[str, Any]) -> PolicyEngine:
    """Load the base model of a saved program: from where it was, else by its name.

    Raises:
        ModelError: it is in neither place, or has other weights.
    """
    from agemem_dspy.policy.engine import PolicyEngine
    from agemem_dspy.policy.models import load

    folder = _locate(base)
    if base["dtype"] not in _CASTS:
        raise ModelError(f"the base model was saved in {base['dtype']!r}; only {', '.join(_CASTS)} are known")
    loaded = load(folder)
    getattr(loaded.model, _CASTS[base["dtype"]])()
    return PolicyEngine(loaded, name=str(base["engine"]).removeprefix("local/"))


def require_base(engine: PolicyEngine, base: Mapping[str, Any]) -> None:
    """Check that an engine serves the model that saved weights were trained on.

    Raises:
        ModelError: it serves another.
    """
    if engine.loaded.sha256 != base["sha256"]:
        raise ModelError(
            f"the program's weights were trained on {_named(base)}, and {engine.name} has the SHA-256 "
            f"{engine.loaded.sha256[:12]}…; pass an LM of that model, or leave lm out"
        )


def _locate(base: Mapping[str, Any]) -> Path:
    """Return a folder that holds the base model's weights."""
    from agemem_dspy.policy.models import fetch
    from agemem_dspy.policy.sources import KNOWN_MODELS
    from agemem_dspy.policy.weights import model_sha256

    folder = Path(base["path"])
    if not (folder / "config.json").is_file():
        try:
            if base["name"] in KNOWN_MODELS:
                folder = fetch(base["name"], source=base["source"] or "auto")
            elif base["source"] == "hub":
                folder = fetch(str(base["origin"]).rpartition("@")[0])
            else:
                raise ModelError(f"there is no model in {folder}")
        except ModelError as error:
            raise ModelError(
                f"the program runs on {_named(base)}, which is not here ({error}); bring the folder back, or pass "
                "lm=local_lm(<its folder>)"
            ) from error
    found = model_sha256(folder)
    if found != base["sha256"]:
        raise ModelError(
            f"the program runs on {_named(base)}, and the model in {folder} has the SHA-256 {found[:12]}…; bring the "
            "right weights back, or pass lm=local_lm(<their folder>)"
        )
    return folder


def _named(base: Mapping[str, Any]) -> str:
    return f"the base model {base['name']!r} (SHA-256 {str(base['sha256'])[:12]}…)"


def _is_loopback(endpoint: Any) -> bool:
    return isinstance(endpoint, str) and urlsplit(endpoint).hostname in _LOOPBACK


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_secrets(one) for key, one in value.items() if not _SECRET.search(str(key))}
    if isinstance(value, list | tuple):
        return [_without_secrets(one) for one in value]
    return value
