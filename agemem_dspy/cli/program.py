"""Which program a command plays: the agent with its six tools, a baseline, or one that was saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agemem_dspy.cli.models import needed_model
from agemem_dspy.errors import ConfigurationError
from agemem_dspy.policy.choice import ChosenModel, choose_model
from agemem_dspy.programs.methods import Method, build_method, options_of

if TYPE_CHECKING:
    import dspy

DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        help="assistant:train|val|test, hotpotqa:PATH, hotpotqa:hub, locomo:PATH, agentboard:PATH, jsonl:PATH, "
        "or a world, such as babyai:GoToObjS6.",
    ),
]
DifficultyOption = Annotated[
    str | None, typer.Option("--difficulty", help="easy, medium or hard; assistant data only.")
]
ProgramOption = Annotated[
    Path | None, typer.Option("--program", help="Folder of a saved program; --model then replaces its model.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust-code", help="Let the --program folder import modules and name servers.")
]
RoundsOption = Annotated[
    int | None, typer.Option("--max-rounds", min=1, help="LM calls allowed in one turn; 5 when left out.")
]
TokensOption = Annotated[
    int | None, typer.Option("--max-tokens", min=1, help="Longest completion; 96 for a local model when left out.")
]
TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", min=0.0, help="Of the sampler; local models are greedy when left out.")
]


def build_program(model: ChosenModel, method: Method = Method.AGEMEM, *, max_rounds: int | None = None) -> dspy.Module:
    """Return an episode player for a model: the agent, or a baseline.

    Raises:
        ConfigurationError: `max_rounds` for a method that has no rounds.
    """
    if max_rounds is not None and "max_rounds" not in options_of(method):
        raise ConfigurationError(f"--method {method.value} makes one call and has no rounds; leave out --max-rounds")
    rounds: dict[str, Any] = {} if max_rounds is None else {"max_rounds": max_rounds}
    program: dspy.Module = build_method(method, adapter=model.adapter, **rounds)
    program.set_lm(model.lm)
    return program


def chosen_program(
    *,
    model: str | None,
    program: Path | None,
    trust_code: bool,
    max_rounds: int | None,
    max_tokens: int | None,
    temperature: float | None,
    method: Method | None = None,
) -> dspy.Module:
    """Return the program that `--model`, `--program` and `--method` name together.

    Raises:
        ConfigurationError: neither a model nor a program, or options that exclude each other.
        ModelError: the model cannot be found or loaded.
        RunError: the folder holds no program.
    """
    if program is None:
        if trust_code:
            raise ConfigurationError("--trust-code says how far to trust a --program; name one, or leave it out")
        chosen = choose_model(needed_model(model), temperature=temperature, max_tokens=max_tokens)
        return build_program(chosen, method or Method.AGEMEM, max_rounds=max_rounds)
    if method is not None:
        raise ConfigurationError("a --program remembers in its own way; leave out --method")
    return _load(program, model, trust_code, max_rounds, {"temperature": temperature, "max_tokens": max_tokens})


def load_examples(spec: str, *, limit: int | None = None, difficulty: str | None = None) -> list[dspy.Example]:
    """Return the examples that a `--data` names.

    Raises:
        DataError: an unknown spec, an unreadable or malformed file (with its line), or a limit under 1.
    """
    from agemem_dspy.data import load_dataset

    return load_dataset(spec, limit=limit, difficulty=difficulty)


def _load(
    folder: Path, model: str | None, trust_code: bool, max_rounds: int | None, sampling: dict[str, Any]
) -> dspy.Module:
    from agemem_dspy.programs import AgeMemAgent, ThreeStageEpisode
    from agemem_dspy.programs.saved import load_program

    lm = choose_model(model, **sampling).lm if model is not None else None
    program = load_program(folder, lm=lm, trust_code=trust_code)
    given = {name: value for name, value in sampling.items() if value is not None}
    if model is None and given:
        program.set_lm(program.get_lm().copy(**given))
    agent = getattr(program, "agent", program)
    if max_rounds is not None:
        if not hasattr(agent, "max_rounds"):
            raise ConfigurationError(f"{folder} holds a baseline, which has no rounds; leave out --max-rounds")
        agent.max_rounds = max_rounds
    return ThreeStageEpisode(agent) if program is agent and isinstance(agent, AgeMemAgent) else program
