"""The command line as a whole: help, errors, models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import agemem, refused, tiny_model

VERBS = [
    ["chat"], ["run"], ["eval"], ["compile"], ["tune"], ["models", "fetch"], ["models", "merge"],
    ["bench", "components"], ["bench", "compare"],
    *(["memory", verb] for verb in ("list", "search", "add", "forget", "audit", "export", "import")),
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help_with_an_example_and_json(capsys: pytest.CaptureFixture[str], verb: list[str]) -> None:
    shown = agemem(capsys, *verb, "--help")
    assert shown.code == 0
    assert f"Example: agemem {' '.join(verb)}" in " ".join(shown.out.split())
    assert "--json" in shown.out


def test_help_loads_no_torch() -> None:
    heavy = ("torch", "transformers", "optuna", "litellm", "qdrant_client", "onnxruntime", "matplotlib")
    code = (
        "import sys; from agemem_dspy.cli import main; assert main(['--help']) == 0; "
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(verb[0] in done.stdout for verb in VERBS)


def test_no_words_at_all_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    shown = agemem(capsys)
    assert shown.code == 0
    assert "compile" in shown.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bogus"], "No such command 'bogus'; see 'agemem --help'"),
        (["memory"], "see 'agemem memory --help'"),
        (["eval", "--bogus"], "No such option"),
        (["eval", "--limit", "-1"], "'--limit'"),
        (["eval", "--threads", "0"], "'--threads'"),
        (["eval", "--method", "magic"], "'--method'"),
        (["eval", "--data", "assistant:test"], "no model was named; give --model smollm2-135m"),
        (["eval", "--data", "assistant:nowhere", "--model", "x"], "unknown split in 'assistant:nowhere'; accepted:"),
        (["eval", "--limit", "1", "--model", "typo"], "a litellm name with its provider, such as openai/gpt-4o-mini"),
        (
            ["run", "--model", "./nowhere"],
            "unknown model './nowhere'; give a local name (smollm2-135m), a folder that holds config.json",
        ),
        (["run", "--program", "nowhere"], "nowhere"),
        (["run", "--model", "typo", "--trust-code"], "--trust-code says how far to trust a --program"),
        (["eval", "--program", "x", "--method", "rag"], "leave out --method"),
    ],
)
def test_bad_words_get_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    outcome = agemem(capsys, *words)
    assert said in refused(outcome)
    assert outcome.out == ""


def test_an_error_is_json_when_json_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = agemem(capsys, "run", "--model", "typo", "--json")
    assert outcome.json["type"] == "ModelError"
    assert refused(outcome) == f"error: {outcome.json['error']}"


def test_a_model_without_its_key_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    outcome = agemem(capsys, "run", "--model", "openai/gpt-4o-mini", "--difficulty", "easy")
    assert "OPENAI_API_KEY" in refused(outcome)


def test_fetch_prints_the_folder_that_model_takes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tiny")
    plain = agemem(capsys, "models", "fetch", folder)
    assert (plain.code, plain.out.strip()) == (0, str(folder))
    found = agemem(capsys, "models", "fetch", folder, "--json").json
    assert (found["path"], found["source"], len(found["sha256"])) == (str(folder), "folder", 64)


def test_fetch_refuses_what_is_not_there(capsys: pytest.CaptureFixture[str], agemem_home: Path) -> None:
    assert "offline was asked for" in refused(agemem(capsys, "models", "fetch", "--offline"))
    assert "'--source'" in refused(agemem(capsys, "models", "fetch", "--source", "moon"))
    assert json.loads(agemem(capsys, "models", "fetch", "typo", "--json").out)["type"] == "ModelError"
