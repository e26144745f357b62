"""The demo behind `make demo`: compile the bundled assistant and print what each phase was worth.

    python examples/demo.py                SmolLM2-135M; ten minutes on two cores
    python examples/demo.py --quick        a tiny model trained on the spot; 2 minutes

Every phase is scored on the same held-out episodes. The run directory holds config.json, results.json,
metrics.jsonl, one JSONL file of episodes a phase, the compiled programs and two plots.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import dspy
import matplotlib.pyplot as plt
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import agemem_dspy as am
from agemem_dspy.data.assistant import generate, load
from agemem_dspy.optimizers.estimate import peak_memory_gib
from agemem_dspy.optimizers.recipe import Recipe

COLUMNS = {
    "reward": "reward",
    "answer": "answer",
    "task": "R_task",
    "compression": "compr.",
    "preventive": "prevent.",
    "preservation": "preserv.",
    "storage": "storage",
    "maintenance": "maint.",
    "relevance": "relev.",
    "penalty": "P",
    "memory_quality": "MQ",
    "parse_rate": "parsed",
    "tool_success": "calls ok",
    "prompt_tokens": "prompt tok.",
}
INTERVALS = ("reward", "answer")
SAMPLED = "{}_sampled"  # what a phase's test at the temperature of training is called


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Recipe):
    """Everything that decides a run; written to config.json.

    With `val_episodes` the prompt phase keeps its demos only if they help on so many further episodes. The test is
    played at `test_temperature`, after the phases `sampled` also at the temperature that GRPO trains at.
    """

    model: str = "smollm2-135m"
    seed: int = 0
    test_split: Literal["train", "test"] = "test"
    test_episodes: int = 24
    test_temperature: float = 0.0
    sampled: tuple[str, ...] = ("warm_start", "grpo")
    val_episodes: int = 0
    max_rounds: int = 3
    max_tokens: int = 64


# A tiny model knows the words of its training alone, so it is tested on new episodes of the training world.
QUICK = DemoConfig.tiny(
    model="tiny", test_split="train", test_episodes=32, test_temperature=1.0, sampled=(), val_episodes=32
)


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model trained on the spot")
    parser.add_argument("--seed", type=int, default=0, help="of sampling, task order and adapter weights")
    parser.add_argument("--steps", type=int, help="of GRPO")
    parser.add_argument("--mistakes", type=float, help="share of the demonstrated decisions that are careless")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="the run directory")
    arguments = parser.parse_args()
    config = replace(QUICK if arguments.quick else DemoConfig(), seed=arguments.seed)
    if arguments.steps is not None:
        if arguments.steps < 1:
            parser.error("--steps must be at least 1")
        config = replace(config, max_steps=arguments.steps)
    if arguments.mistakes is not None:
        config = replace(config, mistakes=arguments.mistakes)
    try:
        Demo(config, arguments.out).run()
    except am.AgeMemError as error:
        sys.exit(f"error: {error}")


class Demo:
    """One run: compile phase by phase, score each, report."""

    def __init__(self, config: DemoConfig, out: Path) -> None:
        self.config, self.out = config, out
        self.console = Console()
        self.phases: list[dict[str, Any]] = []
        self.results: dict[str, Any] = {}
        self.steps: list[dict[str, Any]] = []
        if config.test_split == "test":
            self.test = load("test", difficulty="easy", limit=config.test_episodes)
        else:
            self.test = generate("train", config.test_episodes, seed=config.seed + 1000)
        self.train = generate("train", 400, seed=config.seed + 1)
        self.val = generate("train", config.val_episodes, seed=config.seed + 3)
        self.metric = am.TrajectoryReward()
        self.progress = Progress(
            TextColumn("[bold]{task.description:<12}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}  {task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
        )

    def run(self) -> None:
        """Play everything; a run that is interrupted keeps the phases it finished."""
        self.out.mkdir(parents=True, exist_ok=True)
        self._write("config.json", asdict(self.config))
        (self.out / "metrics.jsonl").write_text("", encoding="utf-8")
        started = time.perf_counter()
        with self.progress:
            student = self._student()
            teacher = self.config.teacher(student, self.config.seed)
            self._score("base", student, 0.0)
            self.began = time.perf_counter()
            optimizer = self.config.optimizer(
                self.metric,
                seed=self.config.seed,
                log_dir=self.out,
                resume=False,
                on_step=self._on_step,
                on_phase=self._on_phase,
            )
            optimizer.compile(student, trainset=self.train, valset=self.val, teacher=teacher)
        self.console.print(self.table())
        for ours, theirs in (("grpo", "warm_start"), (SAMPLED.format("grpo"), SAMPLED.format("warm_start"))):
            if ours in self.results:
                gain = self.results[ours].paired_gain(self.results[theirs], "reward")
                self.console.print(
                    f"{ours} over {theirs}: {gain.mean:+.3f} reward, 95 % interval [{gain.low:+.3f}, "
                    f"{gain.high:+.3f}], {len(self.test)} held-out episodes"
                )
        self._plot()
        self.console.print(f"{time.perf_counter() - started:.0f} s; everything is in {self.out}/")

    def _student(self) -> am.ThreeStageEpisode:
        self.console.print(f"model {self.config.model}")
        agent = am.AgeMemAgent("question -> answer", adapter=am.CompactAdapter(), max_rounds=self.config.max_rounds)
        episode = am.ThreeStageEpisode(agent)
        model: str | Path = self.config.model
        if self.config.pretrain_steps:
            model = self.out / "tiny"
            examples = generate("train", 300, seed=self.config.seed + 2)
            self.config.pretrain(model, episode, examples, seed=self.config.seed, on_step=self._on_step)
        lm = am.local_lm(model, max_tokens=self.config.max_tokens, temperature=self.config.test_temperature)
        episode.set_lm(lm)
        return episode

    def _on_step(self, line: dict[str, Any]) -> None:
        if line["phase"] != "grpo":  # which writes its own
            with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self.steps.append(line)
        note = f"reward {line['reward']:.2f}" if "reward" in line else f"loss {line['loss']:.2f}"
        task = self._task(line["phase"], line["steps"])
        self.progress.update(task, completed=line["step"], note=note)

    def _on_phase(self, name: str, program: dspy.Module) -> None:
        self._score(name, program, time.perf_counter() - self.began)
        self.began = time.perf_counter()

    def _score(self, name: str, program: dspy.Module, seconds: float) -> None:
        """Play the held-out episodes with a phase's program and keep the scores."""
        phase = {"name": name, **self._play(name, program).summary(), "train_seconds": seconds}
        if name in self.config.sampled:
            sampler = copy.deepcopy(program)
            sampler.set_lm(program.get_lm().copy(temperature=self.config.temperature))
            phase["sampled"] = self._play(SAMPLED.format(name), sampler).summary()
        self.phases.append({**phase, "peak_memory_gib": peak_memory_gib()})
        self._write("results.json", {"phases": self.phases, "config": asdict(self.config)})

    def _play(self, name: str, program: dspy.Module) -> am.EvaluationResult:
        task = self._task(f"test {name}", len(self.test))
        result = am.evaluate(
            program,
            self.test,
            self.metric,
            num_threads=self.config.threads,
            log_dir=self.out,
            name=name,
            resume=False,
            progress=lambda done, _: self.progress.update(task, completed=done),
        )
        self.progress.update(task, note=f"reward {result.mean('reward'):.2f}")
        self.results[name] = result
        return result

    def _task(self, description: str, total: int) -> Any:
        for task in self.progress.tasks:
            if task.description == description:
                return task.id
        return self.progress.add_task(description, total=total, note="")

    def table(self) -> Table:
        """Return the phases side by side; reward and answer with 95 % bootstrap intervals."""
        table = Table(title=f"{len(self.test)} held-out episodes, {self.config.model}, seed {self.config.seed}")
        table.add_column("")
        for phase in self.phases:
            table.add_column({"base": "base"}.get(phase["name"], f"+{phase['name']}"), justify="right")
        for term, label in COLUMNS.items():
            cells = []
            for phase in self.phases:
                value = phase.get(term)
                if value is None:
                    cells.append("–")
                elif term == "prompt_tokens":
                    cells.append(f"{value['mean']:.0f}")
                elif term in INTERVALS:
                    cells.append(_shown(value))
                else:
                    cells.append(f"{value['mean']:.2f}")
            table.add_row(label, *cells)
        if self.config.sampled:
            sampled = [_shown(phase["sampled"]["reward"]) if "sampled" in phase else "–" for phase in self.phases]
            table.add_row("reward, sampled", *sampled)
        table.add_row("training s", *(f"{phase['train_seconds']:.0f}" for phase in self.phases))
        table.add_row("peak GiB so far", *(f"{phase['peak_memory_gib']:.1f}" for phase in self.phases))
        return table

    def _plot(self) -> None:
        figure, axes = plt.subplots(figsize=(6, 3.5))
        names = [phase["name"] for phase in self.phases]
        for term in INTERVALS:
            means = [phase[term]["mean"] for phase in self.phases]
            spread = [
                [m - phase[term]["low"] for m, phase in zip(means, self.phases, strict=True)],
                [phase[term]["high"] - m for m, phase in zip(means, self.phases, strict=True)],
            ]
            axes.errorbar(names, means, yerr=spread, marker="o", capsize=4, label=term)
        axes.set_ylabel("held-out mean, 95 % interval")
        axes.legend()
        figure.savefig(self.out / "phases.png", dpi=150, bbox_inches="tight")
        plt.close(figure)
        figure, axes = plt.subplots(figsize=(6, 3.5))
        rollouts = [line for line in self.steps if line["phase"] == "grpo"]
        axes.plot([line["step"] for line in rollouts], [line["reward"] for line in rollouts], marker="o")
        axes.set_xlabel("GRPO step")
        axes.set_ylabel("mean sampled reward")
        figure.savefig(self.out / "grpo.png", dpi=150, bbox_inches="tight")
        plt.close(figure)

    def _write(self, name: str, value: Any) -> None:
        (self.out / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _shown(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


if __name__ == "__main__":
    main()
