"""Saving and loading of compiled programs: what `program.save(folder)` and `agemem_dspy.load(folder)` do.

Saved: the signature, settings, wording, demos, the adapter by name, the LM by name and options, and the trained
weights. Not saved: memories (they live in their store), keys, and code: tools and classes go by import path.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import dspy

from agemem_dspy.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from agemem_dspy.errors import ConfigurationError, RunError
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.baselines import NoMemoryAgent, RetrieveOnlyAgent
from agemem_dspy.programs.card import model_card
from agemem_dspy.programs.component_state import (
    dump_adapter,
    dump_embedder,
    dump_tool,
    load_adapter,
    load_embedder,
    load_tool,
)
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.programs.predictor_state import dump_predictor, load_predictor
from agemem_dspy.programs.program import Program
from agemem_dspy.programs.program_lms import dump_used_lm, give_lms, only_weights
from agemem_dspy.programs.rivals import (
    ExtractUpdateAgent,
    FullContextAgent,
    LinkedNotesAgent,
    ManagedMemoryAgent,
    SchemaManagerAgent,
)
from agemem_dspy.programs.signature_state import dump_signature, load_signature
from agemem_dspy.rewards import TrajectoryReward
from agemem_dspy.types import Embedder

logger = logging.getLogger(__name__)

_MANAGED = ("top_k", "short_term_tools", "max_rounds", "max_context_tokens")
_SETTINGS: Mapping[type[Program], tuple[str, ...]] = {
    AgeMemAgent: (
        "memory_tools",
        "max_rounds",
        "max_context_tokens",
        "recall_top_k",
        "filter_threshold",
        "on_overflow",
    ),
    NoMemoryAgent: ("max_context_tokens",),
    RetrieveOnlyAgent: ("top_k", "max_context_tokens"),
    FullContextAgent: ("max_context_tokens",),
    ExtractUpdateAgent: (*_MANAGED, "neighbours"),
    LinkedNotesAgent: (*_MANAGED, "neighbours"),
    SchemaManagerAgent: (*_MANAGED, "neighbours", "messages_per_call"),
}
_EPISODE = ("stages", "recall", "max_steps", "carry_memory")
_AGENTS = {agent.__name__: agent for agent in _SETTINGS}
_PACKAGES = ("agemem-dspy", "dspy", "torch", "transformers", "peft", "qdrant-client")


def save_program(
    program: Program,
    folder: Path | str,
    *,
    metric: Any = None,
    metrics: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write a program into a folder that `load_program` reads; a saved program that is there is replaced.

    The LM and adapter in effect now are recorded: the program's own, else DSPy's configured ones.

    Args:
        metric: a `TrajectoryReward` to keep beside the program; see `load_reward`.
        metrics: results to record in the manifest and the card, numbers or {"mean", "low", "high"}.
        settings: how it was compiled, as JSON values, to record in the manifest.

    Returns:
        the folder.

    Raises:
        ConfigurationError: something in the program cannot be saved; the message names it.
        RunError: the folder holds other files, or cannot be written.
    """
    agent = program.agent if type(program) is ThreeStageEpisode else program
    if type(agent) not in _SETTINGS:
        raise ConfigurationError(
            f"a {type(agent).__name__} cannot be saved into a folder, only {ThreeStageEpisode.__name__}, "
            f"{', '.join(_AGENTS)}; DSPy saves the state of any program with program.save('state.json')"
        )
    if metric is not None and not isinstance(metric, TrajectoryReward):
        raise ConfigurationError(f"metric is a {type(metric).__name__}; only a TrajectoryReward can be saved")
    predictors = agent.named_predictors()
    base, trained = only_weights([predictor for _, predictor in predictors])
    weights = trained.weights if trained is not None else None
    manifest = {
        "program": type(program).__name__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "packages": _package_versions(),
        "base_model": base,
        "adapter": {"version": trained.version, "kind": weights.kind} if trained and weights else None,
        "metrics": dict(metrics or {}),
        "settings": dict(settings or {}),
    }
    return write_checkpoint(
        folder,
        _dump_program(program, agent, predictors),
        manifest=manifest,
        reward=metric.dump() if metric is not None else None,
        card=model_card(manifest),
        write_weights=partial(weights.save, base_model=trained.base["name"]) if trained and weights else None,
    )


def load_program(
    folder: Path | str, *, lm: Any = None, memory: LongTermMemory | None = None, trust_code: bool = False
) -> Any:
    """Build the program that was saved in a folder, ready to be called.

    Args:
        folder: what `program.save(folder)` wrote.
        lm: serves every predictor instead of the saved LM; for trained weights, a local policy of their base
            model (to share one that is in memory). When left out, an LM that was the program's own is built
            again; one that was only configured is built again unless `dspy.configure` names another by now.
        memory: the agent's store; a private one that dies with the process when left out.
        trust_code: allow the folder to name modules to import, functions to call as tools, classes of LMs and
            endpoints other than this machine.

    Returns:
        a `ThreeStageEpisode`, `AgeMemAgent`, a baseline or a rival.

    Raises:
        RunError: no saved program is there, or a file is missing or damaged.
        ModelError: the base model is missing or another one, or the adapter is damaged.
        ConfigurationError: a part needs `trust_code`, `lm` or `memory`; the message says which.
    """
    checkpoint = read_checkpoint(folder)
    state = checkpoint.program
    if state["agent"] not in _AGENTS:
        raise RunError(f"{folder} holds a {state['agent']!r}, which this version does not know; update agemem-dspy")
    _warn_of_other_dspy(checkpoint)
    agent_type = _AGENTS[state["agent"]]
    if memory is not None and agent_type in (NoMemoryAgent, FullContextAgent):
        raise ConfigurationError(f"the saved program is a {agent_type.__name__}; leave memory out")
    agent = _build(
        agent_type,
        load_signature(state["signature"], trust_code=trust_code),
        state["settings"],
        tools=[load_tool(one, trust_code=trust_code) for one in state["tools"]],
    )
    _give_memory(agent, state["embedder"], memory)
    adapter = state["adapter"]
    if adapter is not None and (adapter["own"] or dspy.settings.adapter is None):
        agent.adapter = load_adapter(adapter)
    predictors = dict(agent.named_predictors())
    if unknown := sorted(state["predictors"].keys() - predictors.keys()):
        raise RunError(f"{folder} has a part {unknown[0]!r}, which this version does not know; compile it again")
    for name, saved in state["predictors"].items():
        load_predictor(predictors[name], saved)
    for name, saved in state["operations"].items():
        agent.operations[name].load_state({"signature": saved})
    give_lms(predictors, checkpoint, lm, trust_code=trust_code)
    program = agent
    if state["stages"]:
        # A folder of an older version lacks some of them.
        options = {name: state[name] for name in _EPISODE if state.get(name) is not None}
        program = ThreeStageEpisode(agent, **options)
    program._compiled = state["compiled"]
    return program


def load_reward(folder: Path | str, *, embedder: Embedder | None = None) -> TrajectoryReward | None:
    """Return the reward that was saved beside a program, None if there is none.

    Raises:
        RunError: as for `load_program`.
        ConfigurationError: the reward was made with an embedder; pass the same one.
    """
    state = read_checkpoint(folder).reward
    return None if state is None else TrajectoryReward.load(state, embedder=embedder)


def _dump_program(program: Program, agent: Any, predictors: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return what goes into `program.json`."""
    settings = {name: getattr(agent, name) for name in _SETTINGS[type(agent)]}
    fresh = dict(_build(type(agent), agent.signature, settings, tools=()).named_predictors())
    own, configured = agent.adapter, dspy.settings.adapter
    adapter = None
    if own is not None or configured is not None:
        adapter = {**dump_adapter(own if own is not None else configured), "own": own is not None}
    saved = {}
    for name, predictor in predictors:
        fields = list(fresh[name].signature.fields) if name in fresh else []
        saved[name] = {**dump_predictor(predictor, name=name, fields=fields), "lm": dump_used_lm(predictor)}
    memory = getattr(agent, "_memory", None)
    return {
        "agent": type(agent).__name__,
        **{name: getattr(program, name, None) for name in _EPISODE},
        "compiled": bool(getattr(program, "_compiled", False)),
        "signature": dump_signature(agent.signature),
        "settings": settings,
        "adapter": adapter,
        "embedder": dump_embedder(memory.embedder if memory is not None else getattr(agent, "embedder", None)),
        "tools": [dump_tool(tool) for tool in getattr(agent, "tools", ())],
        "operations": {name: op.signature.dump_state() for name, op in getattr(agent, "operations", {}).items()},
        "predictors": saved,
    }


def _build(agent_type: Any, signature: type[dspy.Signature], settings: Mapping[str, Any], *, tools: Any) -> Any:
    extra = {"tools": tools} if agent_type is AgeMemAgent else {}
    return agent_type(signature, **settings, **extra)


def _give_memory(agent: Any, embedder: Mapping[str, Any] | None, memory: LongTermMemory | None) -> None:
    if isinstance(agent, RetrieveOnlyAgent | ManagedMemoryAgent):
        agent.embedder = memory.embedder if memory is not None else load_embedder(embedder)
    elif isinstance(agent, AgeMemAgent):
        if memory is None and embedder is not None:
            memory = LongTermMemory.open(":memory:", embedder=load_embedder(embedder))
        agent._memory = memory


def _package_versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # a checkout that is not installed, or a part that is not needed
    return found


def _warn_of_other_dspy(checkpoint: Checkpoint) -> None:
    """DSPy words part of the prompts, so another version of it may prompt otherwise."""
    saved, here = checkpoint.manifest["packages"].get("dspy"), _package_versions().get("dspy")
    if saved != here:
        logger.warning("%s was saved with dspy %s, this is %s: prompts may differ", checkpoint.folder, saved, here)
