"""Each part of a program reads back as it was written: settings, demos, tools, LMs; no code, no secrets."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pydantic
import pytest

import agemem_dspy as am
from agemem_dspy.errors import ConfigurationError, RunError
from agemem_dspy.memory import CachedEmbedder, HashEmbedder
from agemem_dspy.paths import file_sha256
from agemem_dspy.programs.predictor_state import dump_predictor, load_predictor
from agemem_dspy.programs.program import Program
from agemem_dspy.programs.rival import Rival
from agemem_dspy.programs.rivals import ExtractUpdateAgent, SchemaManagerAgent
from agemem_dspy.programs.saved import _SETTINGS
from agemem_dspy.programs.signature_state import dump_signature
from agemem_dspy.signatures import Transcript

DEMO = {
    "augmented": True,
    "context": {"messages": [{"role": "user", "kind": "message", "content": "I live in Oslo — «now»."}]},
    "reasoning": "",
    "tool_calls": {"tool_calls": [{"name": "add_memory", "args": {"content": "lives in Oslo"}}]},
}


class Booking(pydantic.BaseModel):
    """A type that only this module has."""

    hotel: str
    nights: int = 1


class Travel(dspy.Signature):
    """Book a hotel."""

    wish: str = dspy.InputField(desc="what the guest says")
    booking: Booking = dspy.OutputField()


def capital(country: str, year: int = 2024) -> str:
    """Look up a capital."""
    return f"the capital of {country} in {year}"


@pytest.mark.parametrize(
    "adapter", [dspy.ChatAdapter(use_json_adapter_fallback=False), dspy.JSONAdapter(parallel_tool_calls=True)]
)
def test_dspys_adapters_come_back_with_their_options(tmp_path: Path, adapter: dspy.Adapter) -> None:
    am.AgeMemAgent("question -> answer", adapter=adapter).save(tmp_path / "program")
    loaded = am.load(tmp_path / "program").adapter
    assert type(loaded) is type(adapter)
    assert vars(loaded) == vars(adapter)


def bootstrapped_demo(agent: am.AgeMemAgent) -> dspy.Example:
    """A demo as DSPy's own bootstrapping makes them: every input and output as the object it was."""
    calls = dspy.ToolCalls.from_dict_list([{"name": "add_memory", "args": {"content": "x", "metadata": {"a": [1]}}}])
    return dspy.Example(
        augmented=True,
        context=Transcript(messages=[{"role": "user", "kind": "message", "content": "hello"}]),
        tools=agent.session(agent.memory).toolkit.tools,
        reasoning="so",
        tool_calls=calls,
    ).with_inputs("context", "tools")


@pytest.mark.parametrize("adapter", [am.CompactAdapter(), dspy.ChatAdapter(), dspy.JSONAdapter()])
def test_typed_demos_come_back_as_they_were(tmp_path: Path, adapter: dspy.Adapter) -> None:
    agent = am.AgeMemAgent(Travel, memory=am.LongTermMemory.open(":memory:", embedder=HashEmbedder()), adapter=adapter)
    last = {**DEMO, "booking": Booking(hotel="Ritz", nights=2), "tool_calls": dspy.ToolCalls(tool_calls=[])}
    agent.step.demos = [bootstrapped_demo(agent), DEMO, last]
    agent.save(tmp_path / "agent")
    loaded = am.load(tmp_path / "agent")
    inputs = {"context": Transcript(messages=[{"role": "user", "kind": "message", "content": "now"}])}
    prompts = []
    for one in (agent, loaded):
        tools = one.session(one.memory).toolkit.tools
        prompts.append(one.adapter.format(one.step.signature, one.step.demos, {**inputs, "tools": tools}))
    assert prompts[0] == prompts[1]
    assert loaded.step.demos[2]["booking"] == Booking(hotel="Ritz", nights=2)
    assert loaded.step.demos[0].inputs().keys() == agent.step.demos[0].inputs().keys()


def test_a_demo_that_json_cannot_hold_is_named(tmp_path: Path) -> None:
    agent = am.AgeMemAgent("question -> answer")
    agent.step.demos = [{**DEMO, "answer": object()}]
    with pytest.raises(ConfigurationError, match=r"step.demos\[0\]\['answer'\] holds a object"):
        agent.save(tmp_path / "agent")


def test_decision_fields_and_options_of_a_predictor_travel() -> None:
    one, two = (dspy.Predict("text -> label: bool", temperature=t) for t in (0.3, 0.9))
    one.fields = {"label": {"threshold": 0.7}}
    state = json.loads(json.dumps(dump_predictor(one, name="p", fields=["text", "label"])))
    load_predictor(two, state)
    assert (two.config, two.fields) == (one.config, one.fields)
    with pytest.raises(ConfigurationError, match="the saved predictor has the fields"):
        load_predictor(dspy.Predict("text, more -> label: bool"), state)
    with pytest.raises(ConfigurationError, match="change the program's signature instead"):
        dump_predictor(one, name="p", fields=["other"])


def test_the_embedder_comes_back_or_is_asked_for(tmp_path: Path) -> None:
    plain = am.AgeMemAgent("question -> answer")
    hashed = am.AgeMemAgent("question -> answer", memory=store(CachedEmbedder(HashEmbedder(32))))
    plain.save(tmp_path / "plain")
    hashed.save(tmp_path / "hashed")
    assert am.load(tmp_path / "plain")._memory is None
    assert am.load(tmp_path / "hashed").memory.embedder.name == "hash-ngram-32"
    given = store(HashEmbedder(16))
    assert am.load(tmp_path / "hashed", memory=given).memory is given
    am.RetrieveOnlyAgent("question -> answer", embedder=HashEmbedder(32)).save(tmp_path / "rag")
    assert am.load(tmp_path / "rag").embedder.dimension == 32
    assert am.load(tmp_path / "rag", memory=given).embedder is given.embedder


def test_an_embedder_of_the_users_must_be_brought_again(tmp_path: Path) -> None:
    class Letters:
        name, dimension = "letters", 8

        def embed(self, texts: list[str]) -> Any:
            return HashEmbedder(8).embed(texts)

    am.AgeMemAgent("question -> answer", memory=store(Letters())).save(tmp_path / "agent")
    with pytest.raises(ConfigurationError, match="embedder 'letters', which only you can make; pass memory="):
        am.load(tmp_path / "agent")
    assert am.load(tmp_path / "agent", memory=store(Letters())).memory.embedder.name == "letters"


def store(embedder: Any) -> am.LongTermMemory:
    return am.LongTermMemory.open(":memory:", embedder=embedder)


@pytest.mark.parametrize(
    "make",
    [
        lambda: am.NoMemoryAgent("question, n: int -> answer: list[str]", max_context_tokens=99),
        lambda: am.RetrieveOnlyAgent("question -> answer", top_k=7, max_context_tokens=99),
        lambda: am.AgeMemAgent("question -> answer", max_rounds=9, memory_tools=["add_memory", "retrieve_memory"]),
        lambda: ExtractUpdateAgent("question -> answer", neighbours=4, top_k=2),
        lambda: SchemaManagerAgent("question -> answer", messages_per_call=2, max_rounds=1),
        lambda: am.ThreeStageEpisode(am.AgeMemAgent("question -> answer"), recall="always"),
        lambda: am.ThreeStageEpisode(am.AgeMemAgent("question -> answer"), stages=2),
    ],
)
def test_every_kind_of_program_keeps_its_settings(make: Callable[[], Any], tmp_path: Path) -> None:
    program = make()
    program.save(tmp_path / "program")
    loaded = am.load(tmp_path / "program")
    assert type(loaded) is type(program)
    agents = [getattr(one, "agent", one) for one in (program, loaded)]
    for name in _SETTINGS[type(agents[0])]:
        assert getattr(agents[1], name) == getattr(agents[0], name)
    for name in ("stages", "recall"):
        assert getattr(loaded, name, None) == getattr(program, name, None)
    assert dump_signature(agents[1].signature) == dump_signature(agents[0].signature)


@pytest.mark.parametrize("agent", list(_SETTINGS))
def test_no_option_of_a_program_is_forgotten(agent: Any) -> None:
    parts = {"self", "signature", "memory", "tools", "adapter", "embedder", "options"}
    makers = [base.__init__ for base in agent.__mro__ if issubclass(base, Program) and base not in (Program, Rival)]
    assert set(_SETTINGS[agent]) == {name for maker in makers for name in inspect.signature(maker).parameters} - parts


def test_other_programs_are_refused(tmp_path: Path) -> None:
    class Mine(am.AgeMemAgent):
        pass

    for program in (Mine("question -> answer"), am.ThreeStageEpisode(Mine("question -> answer"))):
        with pytest.raises(ConfigurationError, match="a Mine cannot be saved into a folder"):
            program.save(tmp_path / "mine")
    am.NoMemoryAgent("question -> answer").save(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="leave memory out"):
        am.load(tmp_path / "none", memory=store(HashEmbedder()))


def test_dspys_own_format_still_works(tmp_path: Path) -> None:
    agent = am.AgeMemAgent("question -> answer")
    agent.operations["add_memory"].signature = agent.operations["add_memory"].signature.with_instructions("Keep it.")
    agent.save(tmp_path / "state.json")
    again = am.AgeMemAgent("question -> answer")
    again.load(tmp_path / "state.json")
    assert again.operations["add_memory"].signature.instructions == "Keep it."
    with pytest.raises(ConfigurationError, match="holds no metric"):
        agent.save(tmp_path / "state.json", metric=am.TrajectoryReward())


# Tools


def test_a_tool_is_called_again_only_by_who_trusts_the_folder(tmp_path: Path) -> None:
    tool = dspy.Tool(capital, name="capital_of", desc="Capitals.")
    am.AgeMemAgent("question -> answer", tools=[tool]).save(tmp_path / "agent")
    with pytest.raises(ConfigurationError, match="the tool 'capital_of', which calls .*:capital.*trust_code=True"):
        am.load(tmp_path / "agent")
    (loaded,) = am.load(tmp_path / "agent", trust_code=True).tools
    for name in ("name", "desc", "args", "arg_types"):
        assert getattr(loaded, name) == getattr(tool, name)
    assert loaded(country="Italy") == "the capital of Italy in 2024"


@pytest.mark.parametrize("func", [lambda place: place, HashEmbedder().embed], ids=["lambda", "method"])
def test_a_tool_that_nobody_else_can_import_is_refused(tmp_path: Path, func: Callable[..., Any]) -> None:
    agent = am.AgeMemAgent("question -> answer", tools=[dspy.Tool(func, name="mine")])
    with pytest.raises(ConfigurationError, match="the tool 'mine' cannot be saved: .* move it to the top level"):
        agent.save(tmp_path / "agent")


# Remote LMs


def saved_with(lm: Any, folder: Path) -> Path:
    program = am.NoMemoryAgent("question -> answer")
    program.set_lm(lm)
    program.save(folder)
    return folder


def test_a_remote_lm_comes_back_without_its_secrets(tmp_path: Path) -> None:
    secrets = {"api_key": "sk-1234", "extra_headers": {"Authorization": "Bearer 1234"}, "aws_secret_access_key": "1234"}
    lm = dspy.LM("openai/gpt-4o-mini", temperature=0.7, max_tokens=77, num_retries=2, **secrets)
    folder = saved_with(lm, tmp_path / "program")
    assert not any("1234" in path.read_text() for path in folder.iterdir())
    loaded = am.load(folder).get_lm()
    assert (loaded.model, loaded.num_retries) == ("openai/gpt-4o-mini", 2)
    assert loaded.kwargs == {"temperature": 0.7, "max_tokens": 77}
    other = dspy.LM("openai/gpt-4o")
    assert am.load(folder, lm=other).get_lm() is other


def test_an_endpoint_elsewhere_needs_trust(tmp_path: Path) -> None:
    near = saved_with(dspy.LM("ollama_chat/llama3", api_base="http://localhost:11434"), tmp_path / "near")
    far = saved_with(dspy.LM("openai/x", api_base="https://models.example.org/v1"), tmp_path / "far")
    assert am.load(near).get_lm().kwargs["api_base"] == "http://localhost:11434"
    with pytest.raises(ConfigurationError, match="an LM at https://models.example.org/v1.*trust_code=True"):
        am.load(far)
    assert am.load(far, trust_code=True).get_lm().kwargs["api_base"] == "https://models.example.org/v1"
    assert am.load(far, lm=dspy.LM("openai/y")).get_lm().model == "openai/y"


def test_an_lm_that_cannot_be_written_down_is_refused(tmp_path: Path) -> None:
    class Engine:
        def complete(self, request: Any) -> Any:
            raise NotImplementedError

    lm = dspy.LM("mine/engine", engine=Engine())
    with pytest.raises(ConfigurationError, match="the LM 'mine/engine' cannot be saved .*set_lm\\(None\\)"):
        saved_with(lm, tmp_path / "program")
    with dspy.context(lm=lm):  # not the program's own: it is left to whoever configures an LM
        am.NoMemoryAgent("question -> answer").save(tmp_path / "program")
    assert am.load(tmp_path / "program").respond.lm is None


def test_a_configured_lm_and_adapter_are_taken_up_unless_others_are_configured(tmp_path: Path) -> None:
    with dspy.context(lm=dspy.LM("openai/then"), adapter=dspy.JSONAdapter()):
        am.NoMemoryAgent("question -> answer").save(tmp_path / "program")
    alone = am.load(tmp_path / "program")
    assert alone.respond.lm.model == "openai/then"
    assert type(alone.adapter) is dspy.JSONAdapter
    with dspy.context(lm=dspy.LM("openai/now"), adapter=dspy.ChatAdapter()):
        configured = am.load(tmp_path / "program")
        assert configured.respond.lm is None
        assert configured.adapter is None


def test_an_adapter_that_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the adapter XMLAdapter cannot be saved; use one of CompactAdapter"):
        am.NoMemoryAgent("question -> answer", adapter=dspy.XMLAdapter()).save(tmp_path / "program")


def test_a_part_that_is_not_known_is_named(tmp_path: Path) -> None:
    am.NoMemoryAgent("question -> answer").save(tmp_path)
    text = (tmp_path / "program.json").read_text("utf-8").replace('"actor.step"', '"agent.step"')
    (tmp_path / "program.json").write_text(text, "utf-8")
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    manifest["files"]["program.json"] = file_sha256(tmp_path / "program.json")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(RunError, match="has a part 'agent.step', which this version does not know; compile it again"):
        am.load(tmp_path)
