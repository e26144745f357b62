"""Experiments: the shipped ones are whole, wrong ones are refused by file and key, what they cost is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy
import pytest
from bench_runs import TOML, experiment

from agemem_dspy.bench import Bench, load_experiment, shipped
from agemem_dspy.bench.budget import budget, prompt_lengths
from agemem_dspy.bench.experiment import Contestant, slug
from agemem_dspy.bench.folder import cells_of
from agemem_dspy.bench.published import published
from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers.recipe import Recipe
from agemem_dspy.programs.methods import Method, build_method

NAMES = (
    "compiled", "components", "distractors", "filter-threshold", "main", "rewards", "rivals-rl", "seeds", "tokens",
    "tool-use",
)  # fmt: skip


def test_the_experiments_of_the_docs_are_shipped() -> None:
    assert shipped() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_experiment_is_whole(name: str) -> None:
    made = load_experiment(name)
    assert made.name == name
    assert made.model == "smollm2-135m"
    for method in made.methods:
        assert build_method(method.method, **method.options) is not None
    if made.published is not None:
        known = [world.published for world in made.worlds if world.published]
        shown = {method.published or method.name for method in made.methods}
        theirs = {name for world in known for values in published(made.published, world).values() for name in values}
        assert known
        assert theirs & shown  # the paper's rows and ours have names in common


@pytest.mark.parametrize("name", [name for name in NAMES if name != "rivals-rl"])
def test_the_quick_variant_is_played_by_a_tiny_model(name: str) -> None:
    made = load_experiment(name, quick=True)
    assert made.model == "tiny"
    assert made.recipe.pretrain_steps > 0
    assert len(made.seeds) <= 2
    assert all(world.data.startswith("assistant:") and world.limit for world in made.worlds)
    assert [method.name for method in made.methods] == [method.name for method in load_experiment(name).methods]


def test_the_values_of_quick_and_of_the_command_go_over_the_others(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TOML.format(model="m", data="assistant:test"), encoding="utf-8")
    whole, quick = load_experiment(path), load_experiment(path, quick=True)
    assert (whole.name, whole.seeds, len(whole.methods)) == ("mine", (0,), 5)
    assert (quick.seeds, [method.name for method in quick.methods]) == ((3,), ["base"])
    assert quick.recipe == Recipe(warm_examples=2, max_steps=1, tasks_per_step=1, num_generations=2, top_layers=1)
    changed = load_experiment(path, changes={"model": "tiny", "recipe": {"max_steps": 2}})
    assert changed.recipe.pretrain_steps == Recipe.tiny().pretrain_steps
    assert (changed.recipe.max_steps, changed.recipe.warm_examples) == (2, 2)


def test_an_experiment_can_be_narrowed() -> None:
    made = experiment(worlds=[{"name": "w", "data": "assistant:test", "limit": 9}, {"name": "v", "data": "jsonl:x"}])
    other = made.narrowed(data=["w=jsonl:mine", "new=assistant:val"], worlds=["w", "new"], methods=["ours"], limit=4)
    assert [(world.name, world.data, world.limit) for world in other.worlds] == [
        ("w", "jsonl:mine", 4), ("new", "assistant:val", 4),
    ]  # fmt: skip
    assert ([method.name for method in other.methods], other.against) == (["ours"], "ours")
    named = experiment(published="main").narrowed(data=["alfworld=agentboard:x", "v=jsonl:x"]).worlds
    assert [world.published for world in named] == [None, "ALFWorld", None]
    for options, said in (
        ({"data": ["jsonl:mine"]}, "must be NAME=SPEC"),
        ({"programs": ["folder"]}, "must be NAME=SPEC or NAME=FOLDER"),
        ({"worlds": ["x"]}, "has no world 'x'; it has w, v"),
        ({"methods": ["x"]}, "has no method 'x'; it has base, ours"),
        ({"data": ["W/=x", "W-=y"]}, "make the same file name"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            made.narrowed(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "A test"', 'titel = "A test"', "title: field required; titel: there is no such key"),
        ('method = "rag"', 'method = "rug"', r"methods\[another's\].method: input should be 'agemem'"),
        ('control = "shuffled"', 'control = "mixed"', r"methods\[another's\].control: input should be 'shuffled'"),
        ('control = "shuffled"', 'tools = "long-term"', r"methods\[another's\]: tools: the method rag has no choice"),
        ('control = "shuffled"', "options = { top = 3 }", "the method rag takes no 'top'; it takes top_k"),
        ('control = "shuffled"', 'phases = ["warm_start"]', "nobody demonstrates the method rag; it takes grpo alone"),
        ('method = "rag"', 'method = "mem0-package"\nphases = ["grpo"]', "cannot be saved .*; train mem0"),
        ('control = "shuffled"', 'weights = "answer_only"', "weights: they are for training"),
        ('control = "shuffled"', "play = { max_rounds = 2 }", "play: the method rag has no such attributes"),
        ("filter_threshold = 0.4", "threshold = 0.4", r"methods\[\+RL\].play.threshold"),
        ('["warm_start", "grpo"]', '["grpo", "warm_start"]', "phases: they come in this order: prompts, warm_start"),
        ('against = "base"', 'against = "nobody"', "against: no method is called 'nobody'"),
        ("max_steps = 1", 'max_steps = "many"', "recipe.max_steps: input should be a valid integer"),
        ("max_steps = 1", "steps = 1", "recipe.steps: there is no such key"),
        ("max_steps = 1", "pretrain_steps = 1", 'recipe: pretrain_steps go with model = "tiny"'),
        ('name = "small"', 'name = ""', r"worlds\[0\].name: string should have at least 1 character"),
        ('name = "taught"', 'name = "base"', "methods: 'base' and 'base' make the same file name"),
        ('["warm_start", "grpo"]', '["grpo"]\nprogram = "x"', "program: a saved one has its phases, options and tools"),
        ("max_tokens = 6", "max_tokens = 0", "max_tokens: input should be greater than or equal to 1"),
        ("max_tokens = 6", "seeds = [1, 1]", "seeds: give each once"),
        ('train = "', '# train = "', "train: 'taught' has phases, so name what it learns from"),
        ("[recipe]", "[recipe", "no TOML"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named_with_its_file(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "wrong.toml"
    text = TOML.format(model="m", data="assistant:test")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=rf"wrong.toml: .*{said}"):
        load_experiment(path)


def test_an_experiment_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no experiment 'magic'; choose one of compiled, components"):
        load_experiment("magic")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_experiment(tmp_path)
    with pytest.raises(ConfigurationError, match=r"rivals-rl.toml: it has no \[quick\] table"):
        load_experiment("rivals-rl", quick=True)


def test_a_saved_program_takes_the_place_of_a_compiled_one() -> None:
    methods = [{"name": "base", "method": "agemem"}, {"name": "ours", "method": "agemem", "phases": ["grpo"]}]
    made = experiment(methods=methods, train="assistant:train", seeds=[0, 1])
    other = made.narrowed(programs=["ours=runs/{seed}/grpo", "new=runs/other"])
    assert [(one.name, one.program, one.phases) for one in other.methods] == [
        ("base", None, ()), ("ours", "runs/{seed}/grpo", ()), ("new", "runs/other", ()),
    ]  # fmt: skip
    assert [other.seeds_of(one) for one in other.methods] == [(0,), (0, 1), (0,)]
    assert [other.methods[1].folder(seed) for seed in (0, 1)] == [Path("runs/0/grpo"), Path("runs/1/grpo")]


def test_what_seeds_cannot_change_is_played_once() -> None:
    made = experiment(seeds=[0, 1])
    assert [cell.seed for cell in cells_of(made)] == [0, 0]
    assert [cell.seed for cell in cells_of(experiment(seeds=[0, 1], temperature=1.0))] == [0, 0, 1, 1]


def test_the_rewards_judge_is_the_experiments(tmp_path: Path) -> None:
    methods = [{"name": "base", "method": "agemem", "phases": ["grpo"], "weights": "answer_only"}]
    for judge, judges in ((None, {}), ("openai/gpt-4o-mini", {"answer_judge": "JudgeAnswer of openai/gpt-4o-mini"})):
        made = experiment(methods=methods, train="assistant:train", reward_judge=judge)
        told = Bench(made, tmp_path / "run").metric(made.methods[0]).describe()
        assert (told["judges"], told["weights"]["task"]) == (judges, 1.0)


def test_a_seed_of_a_remote_model_has_replies_of_its_own(tmp_path: Path) -> None:
    """DSPy's cache would give every seed the same ones."""
    for temperature, rollouts in ((1.0, [0, 1]), (0.0, [None])):
        made = experiment(model="openai/gpt-4o-mini", temperature=temperature, seeds=[0, 1])
        bench = Bench(made, tmp_path / "run")
        lms = [bench.player(made.methods[1], seed).get_lm() for seed in made.seeds_of(made.methods[1])]
        assert [lm.kwargs.get("rollout_id") for lm in lms] == rollouts


def test_a_turn_has_the_experiments_rounds_for_every_method_that_has_turns(tmp_path: Path) -> None:
    methods = [
        {"name": "base", "method": "agemem"},
        {"name": "rival", "method": "mem0", "options": {"short_term_tools": True}},
        {"name": "own", "method": "langmem", "options": {"max_rounds": 4}},
    ]
    made = experiment(methods=methods, max_rounds=2)
    programs = [Bench(made, tmp_path / "run").student(method) for method in made.methods]
    assert [getattr(one, "agent", one).max_rounds for one in programs] == [2, 2, 4]


def test_contestants_share_a_training_folder_where_one_goes_on_from_the_other(tmp_path: Path) -> None:
    phases = {
        "base": (),
        "prompts": ("prompts",),
        "all": ("prompts", "warm_start", "grpo"),
        "no warm start": ("prompts", "grpo"),
        "grpo": ("grpo",),
        "warm": ("warm_start",),
        "warm and grpo": ("warm_start", "grpo"),
    }
    methods = [{"name": name, "method": "agemem", "phases": own} for name, own in phases.items()]
    methods.append({"name": "by answers", "method": "agemem", "phases": ("warm_start",), "weights": "answer_only"})
    made = experiment(methods=methods, train="assistant:train")
    bench = Bench(made, tmp_path / "run")
    assert {one.name: bench.taught_as(one) for one in made.methods if one.phases} == {
        "prompts": "prompts",
        "all": "prompts",
        "no warm start": "no warm start",
        "grpo": "grpo",
        "warm": "warm",
        "warm and grpo": "warm",
        "by answers": "by answers",
    }


def test_slugs_are_file_names() -> None:
    assert [slug(text) for text in ("+LT/ST/RL", "control: gold", "///")] == ["+LT-ST-RL", "control-gold", "unnamed"]


def example(**changes: Any) -> dspy.Example:
    values = {"messages": ["a b c"] * 3, "distractors": ["d e"] * 2, "question": "why not?", **changes}
    return dspy.Example(**values)


@pytest.mark.parametrize(
    ("method", "options", "calls"),
    [
        ("no-memory", {}, 1), ("full-context", {}, 1), ("rag", {}, 1), ("agemem", {}, 3 + 2 + 2),
        ("mem0", {}, 2 * 5 + 1), ("mem0", {"short_term_tools": True}, 2 * 5 + 2 + 1), ("a-mem", {}, 2 * 5 + 1),
        ("langmem", {}, 1 + 1 + 1), ("langmem", {"messages_per_call": 2}, 2 + 1 + 1), ("mem0-package", {}, 2 * 5 + 1),
        ("langmem-package", {}, 3),
    ],
)  # fmt: skip
def test_the_calls_of_an_episode_are_counted(method: str, options: dict[str, Any], calls: int) -> None:
    made = Contestant.model_validate({"name": "x", "method": method, "options": options})
    assert len(prompt_lengths(made, example())) == calls
    assert all(tokens > 0 for tokens in prompt_lengths(made, example()))
    assert prompt_lengths(made, example(messages=[], distractors=[]))


def test_in_a_world_every_step_is_counted() -> None:
    for method in ("no-memory", "mem0"):
        made = Contestant.model_validate({"name": "x", "method": method})
        question, world = (prompt_lengths(made, example(**{key: "x"})) for key in ("question", "environment"))
        assert len(world) == len(question) + 29
        assert world[-1] - world[-30] == 29 * (world[-1] - world[-2]) > 0


def test_every_method_has_its_count() -> None:
    for method in Method:
        assert prompt_lengths(Contestant(name="x", method=method), example())


def test_the_budget_is_of_what_is_still_to_do(tmp_path: Path) -> None:
    methods = [
        {"name": "base", "method": "no-memory"},
        {"name": "trained", "method": "agemem", "phases": ["warm_start", "grpo"]},
        {"name": "at 0.4", "method": "agemem", "phases": ["warm_start", "grpo"], "play": {"filter_threshold": 0.4}},
    ]
    worlds = [{"name": "w", "data": "assistant:test", "limit": 5}]
    made = experiment(methods=methods, train="assistant:train", train_limit=5, worlds=worlds, seeds=[0, 1])
    rows = budget(Bench(made, tmp_path / "run"))
    recipe = Recipe()
    trajectories = recipe.max_steps * recipe.tasks_per_step * recipe.num_generations
    assert [(row.what, row.episodes) for row in rows] == [
        ("GRPO of trained, seed 0", trajectories), ("GRPO of trained, seed 1", trajectories),
        ("w: base", 5), ("w: trained", 10), ("w: at 0.4", 10),
    ]  # fmt: skip
    assert rows[2].lm_calls == 5
    assert all(row.prompt_tokens > 100 * row.lm_calls for row in rows)
    assert not (tmp_path / "run").exists()
