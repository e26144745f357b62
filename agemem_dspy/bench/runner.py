"""Plays an experiment: makes or opens the model, compiles what is to be compiled, plays every cell, and resumes."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy

from agemem_dspy.bench.experiment import TOOLS, Contestant, Experiment, Phase, World, slug
from agemem_dspy.bench.folder import BenchFolder, cells_of
from agemem_dspy.bench.judging import RowJudge, judged_folder
from agemem_dspy.bench.saved import load_saved, pinned
from agemem_dspy.data import load_dataset, published_scores
from agemem_dspy.data.assistant_values import SPLITS, Split
from agemem_dspy.data.controls import gold_support, shuffled_memory, with_distractors
from agemem_dspy.errors import ConfigurationError
from agemem_dspy.evaluation import evaluate
from agemem_dspy.optimizers.local import local_policy
from agemem_dspy.policy.choice import ChosenModel, choose_model
from agemem_dspy.policy.lm import parameters_of
from agemem_dspy.programs.acting import begun
from agemem_dspy.programs.episode import ThreeStageEpisode
from agemem_dspy.programs.judges import JudgeAnswer, LMJudge
from agemem_dspy.programs.methods import Method, build_method, options_of
from agemem_dspy.rewards import TrajectoryReward

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


class Bench:
    """One run of an experiment into a folder.

    Args:
        experiment: what to play.
        path: the run's folder; what is in it already is not done again.
        threads: test episodes played at once; the recipe has its own number for training.
        progress: told of every episode and training step.

    Raises:
        RunError: the folder holds something else, or that of a saved program none.
    """

    def __init__(
        self, experiment: Experiment, path: Path, *, threads: int = 8, progress: Progress = lambda *_: None
    ) -> None:
        self.experiment, self.threads, self.progress = pinned(experiment), threads, progress
        self.folder = BenchFolder(path)
        self._examples: dict[str, list[dspy.Example]] = {}
        self._chosen: tuple[int, ChosenModel] | None = None  # the model that is loaded, and the seed it was made with

    def run(self) -> None:
        """Play every cell that is not finished.

        Raises:
            RunError: the folder holds a run of another experiment, or a program or metric raised; what was played is
                kept.
            MissingDependency: a method, a world or its published score needs a package; said before anything is played.
            KeyboardInterrupt: Ctrl-C, also in training; what was done is kept.
        """
        self.folder.begin(self.experiment)
        worlds = {world.name: world for world in self.experiment.worlds}
        methods = {method.name: method for method in self.experiment.methods}
        scores = {name: published_scores(world.data) for name, world in worlds.items()}
        waiting = [cell for cell in cells_of(self.experiment) if self.folder.finished(cell) is None]
        self._require({cell.method: methods[cell.method] for cell in waiting}.values())
        program: tuple[str, int] | None = None
        for cell in waiting:
            method = methods[cell.method]
            if program != (cell.method, cell.seed):
                player = self.player(method, cell.seed)
                program = (cell.method, cell.seed)
            result = evaluate(
                player,
                self.examples(worlds[cell.world], method),
                TrajectoryReward(),
                scores=scores[cell.world],
                num_threads=self.threads,
                log_dir=self.folder.items,
                name=cell.file,
                seed=cell.seed,
                progress=lambda done, total, cell=cell: self.progress(  # type: ignore[misc]
                    f"{cell.world}: {cell.method}, seed {cell.seed}", done, total
                ),
            )
            lm = player.get_lm()
            self.folder.finish(cell, n=len(result.rows), model=lm.model, parameters=parameters_of(lm))

    def _require(self, methods: Iterable[Contestant]) -> None:
        """Make what is to be played once, so that a missing package stops the run now and not after hours."""
        places: dict[str, tuple[str, int | None]] = {}
        for method in methods:
            self.student(method)
            for world in self.experiment.worlds:
                for one in self.examples(world, method):
                    if place := one.get("environment"):
                        places.setdefault(str(place).partition(":")[0], (place, one.get("seed")))
        for place, seed in places.values():
            with begun(place, seed):
                pass

    def judge(self, model: str) -> None:
        """Let a model score the answers and the stored entries of every finished cell; what it has scored is kept.

        Args:
            model: as `--model` takes it.

        Raises:
            ModelError: there is no such model.
            RewardError: it failed, or gave no number in [0, 1].
        """
        judge = RowJudge(choose_model(model).lm, threads=self.threads)
        worlds = {world.name: world for world in self.experiment.worlds}
        methods = {method.name: method for method in self.experiment.methods}
        for cell in cells_of(self.experiment):
            if self.folder.finished(cell) is not None:
                examples = self.examples(worlds[cell.world], methods[cell.method])
                judge.judge(
                    self.folder.rows(self.folder.items / f"{cell.file}.jsonl"),
                    {str(example.id): example for example in examples},
                    judged_folder(self.folder.path, model) / f"{cell.file}.jsonl",
                    progress=lambda done, total, cell=cell: self.progress(  # type: ignore[misc]
                        f"judging {cell.world}: {cell.method}, seed {cell.seed}", done, total
                    ),
                )

    def examples(self, world: World, method: Contestant) -> list[dspy.Example]:
        """Return what a contestant plays in a world.

        Raises:
            DataError: the world's data cannot be read.
        """
        if world.name not in self._examples:
            rows = load_dataset(world.data, limit=world.limit, difficulty=world.difficulty)
            if world.distractors is not None:
                rows = with_distractors(rows, world.distractors, split=_split(world.data))
            self._examples[world.name] = rows
        rows = self._examples[world.name]
        match method.control:
            case "shuffled":
                return shuffled_memory(rows)
            case "support":
                return gold_support(rows)
        return rows

    def trainset(self) -> list[dspy.Example]:
        """Return what the compiled methods learn from."""
        wanted = self.experiment
        if wanted.train is None:
            raise ConfigurationError(f"the experiment {wanted.name!r} names no data to learn from; add the key 'train'")
        return load_dataset(wanted.train, limit=wanted.train_limit, difficulty=wanted.train_difficulty)

    def student(self, method: Contestant, model: ChosenModel | None = None) -> Any:
        """Return a contestant's program as it is before compiling."""
        options: dict[str, Any] = {"memory_tools": TOOLS[method.tools]} if method.method is Method.AGEMEM else {}
        if "max_rounds" in options_of(method.method):
            options["max_rounds"] = self.experiment.max_rounds
        options |= method.options
        program = build_method(method.method, adapter=model.adapter if model is not None else None, **options)
        if model is not None:
            program.set_lm(model.lm)
        return program

    def metric(self, method: Contestant) -> TrajectoryReward:
        """Return the reward that a contestant is compiled with, judged by the experiment's `reward_judge`."""
        judge = self.experiment.reward_judge
        asked = LMJudge(JudgeAnswer, lm=choose_model(judge).lm) if judge is not None else None
        return TrajectoryReward(method.weights, answer_judge=asked)

    def player(self, method: Contestant, seed: int) -> Any:
        """Return a contestant's program, the saved one when it names one, compiled when it has phases."""
        model = self._model(seed)
        if method.program:
            program = load_saved(method, seed, model.lm, max_rounds=self.experiment.max_rounds)
        else:
            program = self.student(method, model)
        if method.phases:
            program = self._compiled(method, program, seed)
        if method.play:
            program = copy.deepcopy(program)
            for name, value in method.play.items():
                setattr(program.agent, name, value)
        return program

    def _compiled(self, method: Contestant, student: Any, seed: int) -> Any:
        if set(method.phases) - {"prompts"}:
            local_policy(student)  # said before anything is played: weights are to be trained
        optimizer = self.experiment.recipe.optimizer(
            self.metric(method),
            seed=seed,
            phases=method.phases,
            log_dir=self.folder.path / "training" / f"{slug(self.taught_as(method))}.{seed}",
            on_step=lambda line: self.progress(
                f"{method.name}, seed {seed}: {line['phase']}", line["step"], line["steps"]
            ),
        )
        shown = isinstance(student, ThreeStageEpisode)
        teacher = self.experiment.recipe.teacher(student, seed) if shown else None
        compiled = optimizer.compile(student, trainset=self.trainset(), teacher=teacher)
        if optimizer.interrupted is not None:
            raise KeyboardInterrupt
        return compiled

    def taught_as(self, method: Contestant) -> str:
        """Name the first of the contestants that share its training: compiled the same way, in the same phases so far.

        Two share when the phases of one begin with those of the other; what goes on in two ways is trained twice.
        """
        same = {"name", "phases", "play", "control", "published"}
        taught = method.model_dump(exclude=same)
        alike = [one for one in self.experiment.methods if one.phases and one.model_dump(exclude=same) == taught]

        def whole(one: Contestant) -> tuple[Phase, ...]:
            return max((other.phases for other in alike if other.phases[: len(one.phases)] == one.phases), key=len)

        return next(one.name for one in alike if whole(one) == whole(method))

    def _model(self, seed: int) -> ChosenModel:
        """Return the model that plays with a seed; a tiny one is made when it is not there yet."""
        wanted = self.experiment
        if self._chosen is not None and (wanted.model != "tiny" or self._chosen[0] == seed):
            model = self._chosen[1]
        else:
            self._chosen = None  # one engine at a time is in memory
            name = str(self._tiny(seed)) if wanted.model == "tiny" else wanted.model
            model = choose_model(name, temperature=wanted.temperature, max_tokens=wanted.max_tokens)
            self._chosen = (seed, model)
        if model.is_local or wanted.temperature == 0:
            return model
        return replace(model, lm=model.lm.copy(rollout_id=seed))  # else DSPy's cache gives every seed the same reply

    def _tiny(self, seed: int) -> Path:
        folder = self.folder.path / "models" / f"tiny-{seed}"
        if not folder.exists():
            from agemem_dspy.policy.compact import CompactAdapter

            making = folder.with_name(f".tiny-{seed}")
            shutil.rmtree(making, ignore_errors=True)
            agent = build_method(Method.AGEMEM, adapter=CompactAdapter(), max_rounds=self.experiment.max_rounds)
            self.experiment.recipe.pretrain(
                making,
                agent,
                self.trainset()[:_PRETRAINED_ON],
                seed=seed,
                on_step=lambda line: self.progress(f"tiny model, seed {seed}", line["step"], line["steps"]),
            )
            making.rename(folder)
        return folder


_PRETRAINED_ON = 300


def _split(data: str) -> Split | None:
    """Return the split that a data name belongs to, where splits are worded apart."""
    kind, _, where = data.partition(":")
    split = where.partition("@")[0]
    return split if kind == "assistant" and split in SPLITS else None
