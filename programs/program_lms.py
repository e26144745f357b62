"""Which LM each predictor of a program has: written down when it is saved, given back when it is loaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from agemem_dspy.checkpoints import Checkpoint
from agemem_dspy.errors import ConfigurationError, ModelError
from agemem_dspy.programs.lm_state import (
    LocalPolicy,
    dump_lm,
    engine_of,
    load_local,
    load_remote,
    model_string,
    open_base,
    require_base,
    saved_policy,
)

logger = logging.getLogger(__name__)


def dump_used_lm(predictor: dspy.Predict) -> dict[str, Any] | None:
    """Return the LM that a predictor uses and whether it is its own; a configured one that cannot be saved is None."""
    if predictor.lm is not None:
        return {"own": True, **dump_lm(predictor.lm)}
    if dspy.settings.lm is None:
        return None
    try:
        return {"own": False, **dump_lm(dspy.settings.lm)}
    except ConfigurationError as error:
        logger.info("the configured LM is not saved: %s", error)
        return None


def only_weights(predictors: Sequence[Any]) -> tuple[Mapping[str, Any] | None, LocalPolicy | None]:
    """Return the one base model and the one trained version that predictors on local policies may have.

    Raises:
        ConfigurationError: there are several.
    """
    used = [saved_policy(predictor.lm or dspy.settings.lm) for predictor in predictors]
    policies = [policy for policy in used if policy is not None]
    if len({policy.base["sha256"] for policy in policies}) > 1:
        raise ConfigurationError("the predictors run on several base models; give them one with program.set_lm(lm)")
    trained = {policy.version: policy for policy in policies if policy.weights is not None}
    if len(trained) > 1:
        raise ConfigurationError(
            f"the predictors run on several versions ({', '.join(trained)}); give them one with program.set_lm(lm)"
        )
    return (policies[0].base if policies else None), next(iter(trained.values()), None)


def give_lms(predictors: Mapping[str, Any], checkpoint: Checkpoint, lm: Any, *, trust_code: bool) -> None:
    """Set each predictor's LM: the given one, or the saved one; predictors that shared an LM share one again.

    Raises:
        ModelError: the base model is missing, another one, or served by no local policy.
        ConfigurationError: a saved LM cannot be built again, or needs `trust_code`.
    """
    known = checkpoint.program["predictors"]
    first = next(iter(known.values()))  # a folder of an older version lacks some: they share the others' LM
    saved = {name: known.get(name, first)["lm"] for name in predictors}
    if lm is not None:
        given = _given_versions(lm, checkpoint, {one["version"] for one in saved.values() if _is_local(one)})
        for name, predictor in predictors.items():
            predictor.lm = given.get(saved[name]["version"], lm) if _is_local(saved[name]) else lm
        return
    wanted = {name: one for name, one in saved.items() if one and (one["own"] or dspy.settings.lm is None)}
    engine = None
    if any(_is_local(one) for one in wanted.values()):
        engine = open_base(checkpoint.manifest["base_model"])
        _register(engine, checkpoint)
    built: dict[str, Any] = {}
    for name, one in wanted.items():
        key = json.dumps(one, sort_keys=True)
        if key not in built:
            if engine is not None and _is_local(one):
                built[key] = load_local(one, engine)
            else:
                built[key] = load_remote(one, trust_code=trust_code)
        predictors[name].lm = built[key]


def _given_versions(lm: Any, checkpoint: Checkpoint, versions: set[str]) -> Mapping[str, Any]:
    """Return a given LM as it serves each saved version; {} where nothing was trained, so that any LM serves."""
    if not checkpoint.has_weights:
        return {}
    base, engine = checkpoint.manifest["base_model"], engine_of(lm)
    if engine is None:
        raise ModelError(
            f"the program has trained weights of {base['name']!r}, which {getattr(lm, 'model', lm)!r} cannot serve; "
            "leave lm out, or pass local_lm(…) of that model"
        )
    require_base(engine, base)
    _register(engine, checkpoint)
    return {version: lm.copy(model=model_string(engine, version)) for version in versions}


def _is_local(saved: Mapping[str, Any] | None) -> bool:
    return saved is not None and saved["kind"] == "local"


def _register(engine: Any, checkpoint: Checkpoint) -> None:
    """Give an engine the trained version, if the folder holds one."""
    from agemem_dspy.policy.versions import read_weights

    if checkpoint.has_weights:
        engine.register(checkpoint.manifest["adapter"]["version"], read_weights(checkpoint.folder))
