"""The command line, `agemem`: one module a noun; heavy imports wait inside the commands, so that help is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from agemem_dspy.cli import audit, bench, chat, episodes, memory, models, quarantine, reembed, training, tuning
from agemem_dspy.cli.output import Interrupted, report
from agemem_dspy.errors import AgeMemError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Agents that manage their own memory: talk to one, play and evaluate episodes, compile prompts and weights.",
    epilog="Example: agemem eval --data assistant:test --difficulty easy --limit 10 --model smollm2-135m",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(epilog=chat.EXAMPLE)(chat.chat)
app.command(epilog=episodes.RUN_EXAMPLE)(episodes.run)
app.command("eval", epilog=episodes.EVAL_EXAMPLE)(episodes.evaluate)
app.command("compile", epilog=training.EXAMPLE)(training.compile_program)
app.command(epilog=tuning.EXAMPLE)(tuning.tune)
memory.app.command("audit", epilog=audit.EXAMPLE)(audit.audit_memories)
memory.app.command("reembed", epilog=reembed.EXAMPLE)(reembed.reembed_memories)
memory.app.add_typer(quarantine.app, name="quarantine")
app.add_typer(memory.app, name="memory")
app.add_typer(models.app, name="models")
app.add_typer(bench.app, name="bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for bad input, 130 after Ctrl-C.

    Args:
        arguments: the words after `agemem`; the process's own when left out.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    as_json = "--json" in words
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else litellm fetches its price list when imported
    try:
        code = typer.main.get_command(app).main(words, prog_name="agemem", standalone_mode=False)
    except Interrupted as stop:
        report(str(stop), "Interrupted", as_json=as_json)
        return 130
    except AgeMemError as error:
        report(str(error), type(error).__name__, as_json=as_json)
        return 2
    except TyperException as error:
        context = getattr(error, "ctx", None)
        where = f"; see '{context.command_path} --help'" if context is not None else ""
        report(f"{error.format_message().rstrip('.')}{where}", "UsageError", as_json=as_json)
        return 2
    if code == 130:  # typer's own answer to Ctrl-C, where a command keeps nothing
        report("nothing was written", "Interrupted", as_json=as_json)
    return int(code or 0)
