"""What an experiment is: worlds x methods x seeds, read from a small TOML file and checked key by key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agemem_dspy.bench.published import published_world
from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.agemem import PHASES
from agemem_dspy.optimizers.recipe import Recipe
from agemem_dspy.programs.methods import UNSAVED, Method, options_of
from agemem_dspy.signatures import OPERATIONS

FOLDER = Path(__file__).parent / "experiments"
Phase = Literal["prompts", "warm_start", "grpo"]
TOOLS: Mapping[str, tuple[str, ...]] = {
    "all": tuple(OPERATIONS),
    "long-term": ("add_memory", "update_memory", "delete_memory", "retrieve_memory"),
}


class Part(BaseModel):
    """A table of the file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class World(Part):
    """What is played: examples named as `agemem eval --data` names them.

    `distractors` makes each example's anew, so many of them. `published` is the world's name in the paper's tables.
    """

    name: str = Field(min_length=1)
    data: str
    difficulty: str | None = None
    limit: int | None = Field(default=None, ge=1)
    distractors: int | None = Field(default=None, ge=0)
    published: str | None = None


class Contestant(Part):
    """A row of the table: a method, how it is compiled, and what it is given.

    `tools` are the agent's ("all", or "long-term" without summarize and filter); `options` go to the method's class.
    `phases` are those of `AgeMemOptimizer`, none for a method that is played as it is; `weights` the reward's. `play`
    changes attributes of the compiled agent, so that contestants that differ in it alone are trained once. `control`
    plays other data: "shuffled" gives every question another example's messages, "support" nothing but the gold facts.
    `program` is the folder of a saved program, played in place of a new one; {seed} in it stands for the seed. The run
    notes what the folders hold as `program_sha256`; give it to insist on it. `published` is the method's name in the
    paper's tables.
    """

    name: str = Field(min_length=1)
    method: Method
    tools: Literal["all", "long-term"] = "all"
    options: dict[str, Any] = {}
    phases: tuple[Phase, ...] = ()
    weights: Literal["paper", "answer_only"] = "paper"
    play: dict[Literal["filter_threshold", "recall_top_k", "max_rounds"], float | int] = {}
    control: Literal["shuffled", "support"] | None = None
    program: str | None = Field(default=None, min_length=1)
    program_sha256: dict[str, str] = {}
    published: str | None = None

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if list(self.phases) != [phase for phase in PHASES if phase in self.phases]:
            raise ValueError(f"phases: they come in this order: {', '.join(PHASES)}")
        unknown = [name for name in self.options if name not in options_of(self.method)]
        if unknown:
            takes = ", ".join(options_of(self.method))
            raise ValueError(f"options: the method {self.method.value} takes no {unknown[0]!r}; it takes {takes}")
        if set(self.phases) - {"grpo"} and self.method is not Method.AGEMEM:
            raise ValueError(f"phases: nobody demonstrates the method {self.method.value}; it takes grpo alone")
        if self.phases and self.method in UNSAVED:
            raise ValueError(
                f"phases: the method {self.method.value} runs the program of a package, which cannot be saved when it "
                f"is trained; train {self.method.value.removesuffix('-package')}"
            )
        if self.tools != "all" and self.method is not Method.AGEMEM:
            raise ValueError(f"tools: the method {self.method.value} has no choice of tools; leave it out")
        if self.play and self.method is not Method.AGEMEM:
            raise ValueError(f"play: the method {self.method.value} has no such attributes; leave it out")
        if self.weights != "paper" and not self.phases:
            raise ValueError("weights: they are for training; give phases, or leave them out")
        if self.program and (self.phases or self.options or self.tools != "all"):
            raise ValueError("program: a saved one has its phases, options and tools; leave them out")
        return self

    def folder(self, seed: int) -> Path:
        """Return the folder of the saved program that is played with a seed."""
        return Path(str(self.program).replace("{seed}", str(seed)))


class Experiment(Part):
    """One table of numbers and the way to it.

    Args:
        name, title: of the table.
        model: plays every method; as `--model` takes it, or "tiny" for one that is made on the spot.
        train: what the compiled methods learn from; every world is then played by the same weights.
        columns: the measures shown, such as "em", "f1", "answer", "judge", "memory_quality", "prompt_tokens" or
            "calls.add_memory".
        primary: the measure that is tested and plotted.
        against: the contestant that the others are tested against.
        published: the paper's table whose numbers are shown beside ours.
        seeds: of training and sampling; what is greedy and untrained is played with the first alone.
        temperature: of the sampler when tests are played.
        max_tokens: longest completion; the model's default when left out.
        max_rounds: LM calls of the agent in a turn.
        reward_judge: a model, named as `--model` takes it, that scores answers in the reward that methods are compiled
            with; exact match and F1 do when left out. Whoever judges the test is named apart, by `--judge`.
        recipe: how methods with phases are compiled, over the defaults of `Recipe`, or `Recipe.tiny` for a tiny model.
    """

    name: str
    title: str
    model: str = "smollm2-135m"
    train: str | None = None
    train_difficulty: str | None = None
    train_limit: int | None = Field(default=None, ge=1)
    columns: tuple[str, ...] = Field(min_length=1)
    primary: str = "answer"
    against: str
    published: str | None = None
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    temperature: float = Field(default=0.0, ge=0.0)
    max_tokens: int | None = Field(default=None, ge=1)
    max_rounds: int = Field(default=5, ge=1)
    reward_judge: str | None = None
    recipe: Recipe = Recipe()
    worlds: tuple[World, ...] = Field(min_length=1)
    methods: tuple[Contestant, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        for what, names in (("worlds", [one.name for one in self.worlds]), ("methods", [m.name for m in self.methods])):
            files = [slug(name) for name in names]
            twice = [name for name, file in zip(names, files, strict=True) if files.count(file) > 1]
            if twice:
                raise ValueError(f"{what}: {twice[0]!r} and {twice[1]!r} make the same file name; call one otherwise")
        if self.against not in [method.name for method in self.methods]:
            raise ValueError(f"against: no method is called {self.against!r}")
        if len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError("seeds: give each once, from 0 on")
        trained = [method.name for method in self.methods if method.phases]
        if trained and self.train is None:
            raise ValueError(f"train: {trained[0]!r} has phases, so name what it learns from, such as assistant:train")
        if (self.model == "tiny") != bool(self.recipe.pretrain_steps):
            raise ValueError('recipe: pretrain_steps go with model = "tiny", and it with them')
        if self.model == "tiny" and self.train is None:
            raise ValueError("train: a tiny model is made from training examples; name them, such as assistant:train")
        return self

    def seeds_of(self, method: Contestant) -> tuple[int, ...]:
        """Return the seeds with which a contestant is played: one where seeds change nothing."""
        varies = method.phases or self.temperature > 0 or self.model == "tiny" or "{seed}" in (method.program or "")
        return self.seeds if varies else self.seeds[:1]

    def narrowed(
        self,
        *,
        data: Sequence[str] = (),
        worlds: Sequence[str] = (),
        methods: Sequence[str] = (),
        programs: Sequence[str] = (),
        limit: int | None = None,
    ) -> Experiment:
        """Return this experiment on other data, with fewer worlds or methods, saved programs, or on fewer examples.

        Args:
            data: NAME=SPEC, the data of a world, a new one when there is none of that name.
            worlds, methods: the names of those that are kept; all when empty.
            programs: NAME=FOLDER, a saved program to play as the method of that name, a new one when there is none.
            limit: most examples of a world.

        Raises:
            ConfigurationError: a name is not known, or a pair is none.
        """
        given = dict(_pair(one) for one in data)
        changed = [world.model_copy(update={"data": given.pop(world.name, world.data)}) for world in self.worlds]
        changed += [
            World(name=name, data=spec, published=published_world(self.published, name)) for name, spec in given.items()
        ]
        kept_worlds = _chosen(changed, worlds, f"the experiment {self.name} has no world")
        folders = dict(_pair(one) for one in programs)
        known = [_saved(one, folders.pop(one.name)) if one.name in folders else one for one in self.methods]
        known += [Contestant(name=name, method=Method.AGEMEM, program=folder) for name, folder in folders.items()]
        kept_methods = _chosen(known, methods, f"the experiment {self.name} has no method")
        if limit is not None:
            kept_worlds = [world.model_copy(update={"limit": limit}) for world in kept_worlds]
        named = [method.name for method in kept_methods]
        against = self.against if self.against in named else named[0]
        changes = {"worlds": kept_worlds, "methods": kept_methods, "against": against}
        try:
            return Experiment.model_validate({**dict(self), **changes})
        except ValidationError as error:
            raise ConfigurationError(f"{self.name}: {'; '.join(_problems(error, {}))}") from error


@cache
def shipped() -> tuple[str, ...]:
    """Name the experiments that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_experiment(which: str | Path, *, quick: bool = False, changes: Mapping[str, Any] | None = None) -> Experiment:
    """Read a shipped experiment by its name, or the TOML file of one.

    Args:
        quick: take the values of the file's `[quick]` table over its others.
        changes: values to take over those.

    Raises:
        ConfigurationError: no such experiment, no TOML, or a key that is wrong; names file and key.
    """
    path = FOLDER / f"{which}.toml" if which in shipped() else Path(which)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"there is no experiment {str(which)!r}; choose one of {', '.join(shipped())}, or give the path of a TOML "
            "file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read ({error}); give the path of a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: no TOML ({error})") from error
    small = raw.pop("quick", {})
    if quick and not small:
        raise ConfigurationError(f"{path}: it has no [quick] table, so there is no --quick; leave it out")
    merged = _merged(_merged(raw, small if quick else {}), changes or {})
    if merged.get("model") == "tiny":
        merged = _merged({"recipe": asdict(Recipe.tiny())}, merged)
    try:
        return Experiment.model_validate({"name": path.stem, **merged})
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {'; '.join(_problems(error, merged))}") from error


def _saved(method: Contestant, folder: str) -> Contestant:
    """Return a contestant whose program is a saved one in place of one that is compiled."""
    compiled = {"phases": (), "weights": "paper", "options": {}, "tools": "all"}
    return method.model_copy(update={**compiled, "program": folder})


def _pair(text: str) -> tuple[str, str]:
    name, mark, spec = text.partition("=")
    if not (mark and name and spec):
        raise ConfigurationError(f"{text!r} must be NAME=SPEC or NAME=FOLDER, such as hotpotqa=hotpotqa:dev.json")
    return name, spec


def _chosen(parts: Sequence[Any], names: Sequence[str], lacking: str) -> list[Any]:
    known = [part.name for part in parts]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(f"{lacking} {unknown[0]!r}; it has {', '.join(known)}")
    return [part for part in parts if not names or part.name in names]


def slug(text: str) -> str:
    """Return a name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9+._-]+", "-", text).strip("-") or "unnamed"


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Take changes over values; tables are merged, everything else is replaced."""
    merged = dict(values)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _problems(error: ValidationError, raw: Mapping[str, Any]) -> list[str]:
    """Say for each wrong key where it is, by the name of its world or method, and what is wrong."""
    found = []
    for problem in error.errors():
        place: Any = raw
        path = ""
        for part in problem["loc"]:
            place = _inside(place, part)
            if isinstance(part, int):
                path += f"[{_inside(place, 'name') or part}]"
            else:
                path += f".{part}"
        message = problem["msg"].removeprefix("Value error, ")
        key = path.removeprefix(".")
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            message = "there is no such key"
        message = message[:1].lower() + message[1:]
        found.append(f"{key}: {message}" if key else message)
    return found


def _inside(place: Any, part: int | str) -> Any:
    """Return a part of what the file holds, None where it holds none."""
    if isinstance(place, list) and isinstance(part, int):
        return place[part] if part < len(place) else None
    return place.get(part) if isinstance(place, Mapping) else None
