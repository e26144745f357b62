"""Contestants that were compiled before: programs in folders, known again by what is in them."""

from __future__ import annotations

from typing import Any

from agemem_dspy.bench.experiment import Contestant, Experiment
from agemem_dspy.checkpoints import read_checkpoint
from agemem_dspy.errors import AgeMemError, ConfigurationError, RunError
from agemem_dspy.programs.agent import AgeMemAgent
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.programs.methods import build_method
from agemem_dspy.programs.saved import load_program


def pinned(experiment: Experiment) -> Experiment:
    """Return the experiment with the digests of the saved programs that it plays.

    Raises:
        RunError: a folder holds no saved program, a damaged one, or another than the digest in the experiment says.
    """
    return experiment.model_copy(update={"methods": tuple(_pinned(one, experiment) for one in experiment.methods)})


def load_saved(method: Contestant, seed: int, lm: Any, *, max_rounds: int) -> Any:
    """Load the program of a contestant's seed; `lm` plays it, with its trained weights where it has some.

    Raises:
        ModelError: they are of another model.
        ConfigurationError: the folder holds another method than the contestant's.
    """
    folder = method.folder(seed)
    program = load_program(folder, lm=lm)
    if isinstance(program, AgeMemAgent):
        program = ThreeStageEpisode(program)
    if type(program) is not type(build_method(method.method)):
        raise ConfigurationError(
            f"{folder} holds a {type(program).__name__}, but {method.name!r} is of the method {method.method.value}"
        )
    agent = program.agent if isinstance(program, ThreeStageEpisode) else program
    if hasattr(agent, "max_rounds"):
        agent.max_rounds = max_rounds
    return program


def _pinned(method: Contestant, experiment: Experiment) -> Contestant:
    digests: dict[str, str] = {}
    for seed in experiment.seeds_of(method) if method.program else ():
        folder = method.folder(seed)
        try:
            digests[str(folder)] = read_checkpoint(folder).sha256
        except AgeMemError as error:
            raise RunError(f"methods[{method.name}].program: {error}") from error
    changed = [folder for folder, known in method.program_sha256.items() if digests.get(folder, known) != known]
    if changed:
        raise RunError(
            f"methods[{method.name}].program: {changed[0]} holds another program than the one whose program_sha256 is "
            "given; put that one there, or leave out program_sha256"
        )
    return method.model_copy(update={"program_sha256": digests})
