"""`agemem chat`: a conversation over a pipe, and what it says it did to the memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import agemem, refused, tiny_model
from dspy import lm15
from fakes_chat import ChatServer, step_reply
from typer.testing import CliRunner, Result

from agemem_dspy.cli import app


@contextmanager
def scripted(*replies: str) -> Iterator[ChatServer]:
    """Serve prepared replies as the model `scripted/one`."""
    with ChatServer(replies) as server:
        access = lm15.AccessPolicy(provider="scripted", base_url=server.url, env_keys=())
        provider = lm15.ProviderDefinition.chat(access, compat=lm15.OpenAIChatCompat(), placeholder_key="none")
        lm15.register_provider(provider)
        try:
            yield server
        finally:
            lm15.unregister_provider("scripted")


def chat(typed: str, where: Path, *words: str, model: object = "scripted/one") -> Result:
    arguments = ["chat", "--model", str(model), "--where", str(where), *words]
    result = CliRunner().invoke(app, arguments, input=typed)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"name": name, "args": arguments}


def test_undo_takes_back_what_the_last_turn_changed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = tmp_path / "memories"
    replies = [
        step_reply(call("add_memory", content="Ana is celiac.")),
        step_reply(answer="Noted."),
        step_reply(
            call("update_memory", memory_id="m1", content="Ana eats fish."),
            call("add_memory", content="Ana flies from Lyon."),
        ),
        step_reply(answer="Changed."),
        step_reply(answer="Hello."),
    ]
    with scripted(*replies):
        said = chat("I am celiac.\nI eat fish and fly from Lyon.\n/undo\n/undo\n/memory\nHi.\n/undo\n", where, "--json")
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert [one["content"] for one in lines[2]["undone"]] == [None, "Ana is celiac."]
    assert lines[3] == {"undone": [], "restored": []}
    assert [one["content"] for one in lines[4]["memories"]] == ["Ana is celiac."]
    assert lines[6] == {"undone": [], "restored": []}
    told = agemem(capsys, "memory", "history", lines[4]["memories"][0]["id"], "--where", where, "--json")
    (added, changed, undone) = told.json["versions"]
    assert added["by"] | {"turn": 1, "tool": "add_memory", "said": "I am celiac."} == added["by"]
    assert changed["by"]["said"] == "I eat fish and fly from Lyon."
    assert undone["by"] == {"tool": "/undo"}


def test_undo_takes_back_all_that_a_turn_did_to_one_memory(tmp_path: Path) -> None:
    replies = [
        step_reply(call("add_memory", content="Bo lives in Lyon."), call("add_memory", content="Bo likes tea.")),
        step_reply(answer="Noted."),
        step_reply(
            call("update_memory", memory_id="m1", content="Bo lives in Nice."),
            call("delete_memory", memory_id="m1", confirmation=True),
            call("update_memory", memory_id="m2", content="Bo likes mate."),
            call("update_memory", memory_id="m2", content="Bo likes water."),
        ),
        step_reply(answer="Changed."),
        step_reply(call("update_memory", memory_id="m1", content="Bo lives in Rome.")),
        step_reply(answer="Moved."),
    ]
    with scripted(*replies):
        typed = (
            "I am Bo, in Lyon, with tea.\nNice, forget it, mate, water.\n/undo\n/memory\nI moved to Rome.\n/memory\n"
        )
        said = chat(typed, tmp_path / "memories", "--json")
    lines = [json.loads(line) for line in said.stdout.splitlines()]
    assert [one["content"] for one in lines[2]["undone"]] == ["Bo likes tea.", "Bo lives in Lyon."]
    assert [one["content"] for one in lines[3]["memories"]] == ["Bo lives in Lyon.", "Bo likes tea."]
    assert lines[4]["failed"] == []  # m1 is known again
    assert [one["content"] for one in lines[5]["memories"]] == ["Bo lives in Rome.", "Bo likes tea."]


def test_each_turn_shows_what_it_did_and_the_next_process_remembers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = tmp_path / "memories"
    replies = [
        step_reply(call("add_memory", content="Ana is vegan.")),
        step_reply(answer="Noted."),
        step_reply(
            call("update_memory", memory_id="m1", content="Ana eats fish."), call("delete_memory", memory_id="m9")
        ),
        step_reply(answer="Changed."),
        step_reply(call("add_memory", content="Ana flies from Lyon.")),
        step_reply(call("delete_memory", memory_id="m1", confirmation=True), answer="Gone."),
    ]
    with scripted(*replies) as server:
        typed = "I am vegan.\n\nI eat fish.\nI fly from Lyon; forget the fish.\n/memory\n/quit\nnever sent\n"
        said = chat(typed, where)
        assert len(server.requests) == len(replies)
    assert said.exit_code == 0
    lines = said.stdout.splitlines()
    assert lines[:2] == ["  + stored: Ana is vegan.", "agent> Noted."]
    assert "  ~ changed: Ana eats fish.   (was: Ana is vegan.)" in lines
    assert any(line.startswith("  ! failed: ") and "confirmation" in line for line in lines)
    assert "  - forgot: Ana eats fish." in lines
    assert lines[-1].endswith("  Ana flies from Lyon.")

    with scripted(step_reply(answer="From Lyon.")) as server:
        again = chat("Where do I fly from?\n", where, "--json")
        asked = json.dumps(server.requests[0])
    turn = json.loads(again.stdout)
    assert turn["answer"] == {"answer": "From Lyon."}
    assert [entry["content"] for entry in turn["retrieved"]] == ["Ana flies from Lyon."]
    assert "Ana flies from Lyon." in asked
    listed = agemem(capsys, "memory", "list", "--where", where, "--json").json["memories"]
    assert [memory["content"] for memory in listed] == ["Ana flies from Lyon."]


def test_the_conversation_goes_on_and_json_is_one_object_a_line(tmp_path: Path) -> None:
    replies = [step_reply(answer="Hello Ana."), step_reply(answer="Ana.")]
    with scripted(*replies) as server:
        said = chat("I am Ana.\nWho am I?\n/memory\n/bogus\n", tmp_path / "memories", "--json", "--user", "ana")
        assert "Hello Ana." in json.dumps(server.requests[1])
    rows = [json.loads(line) for line in said.stdout.splitlines()]
    assert [row.get("answer") for row in rows] == [{"answer": "Hello Ana."}, {"answer": "Ana."}, None]
    assert rows[2] == {"memories": []}
    assert "there is no command /bogus" in said.stderr


def test_a_conversation_that_is_too_long_goes_on_and_says_what_the_system_dropped(tmp_path: Path) -> None:
    said = [f"{day}: " + "it rained all day long " * n for day, n in (("Mo", 900), ("Tu", 200), ("We", 500))]
    replies = [step_reply(answer=f"reply {n}") for n in range(3)]
    typed = "\n".join([*said, "/undo", "/undo"]) + "\n"
    with scripted(*replies) as server:
        shown = chat(typed, tmp_path / "memories")
        assert "Mo: it" not in json.dumps(server.requests[2])
        assert "Tu: it" in json.dumps(server.requests[2])
    lines = shown.stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("  / ")]
    assert line.startswith("  / the system dropped 2 messages to make room: ")
    assert line.endswith("limit 8,192")
    assert "agent> reply 2" in lines
    back = [line for line in lines if line.startswith("  < back in the conversation: ")]
    assert [part in line for part, line in zip(("Mo: it", "reply 0"), back, strict=True)] == [True, True]
    assert lines[-1] == "the last turn changed nothing"
    with scripted(*replies):
        rows = [json.loads(line) for line in chat(typed, tmp_path / "again", "--json").stdout.splitlines()]
    assert [len(row["guard"]) for row in rows[:3]] == [0, 0, 1]
    (room,) = rows[2]["guard"]
    assert (room["turn"], room["summary"], len(room["removed"]), room["limit"]) == (3, None, 2, 8192)
    assert room["tokens_before"] > 8192 > room["tokens_after"]
    assert rows[3]["restored"] == room["removed"]
    assert rows[4] == {"undone": [], "restored": []}


def test_a_line_that_cannot_be_stored_does_not_end_the_conversation(tmp_path: Path) -> None:
    with scripted(step_reply(answer="Hello.")):
        said = chat("nul \x00 here\nHello.\n", tmp_path / "memories", "--json")
    rows = [json.loads(line) for line in said.stdout.splitlines()]
    assert "NUL" in rows[0]["error"]
    assert rows[1]["answer"] == {"answer": "Hello."}


def test_the_memories_may_have_another_embedder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = tmp_path / "memories"
    with scripted(step_reply(call("add_memory", content="Ana is celiac.")), step_reply(answer="Noted.")):
        chat("I am celiac.\n", where, "--embedder", "hash-ngram-64")
    assert "--embedder" in refused(agemem(capsys, "memory", "list", "--where", where))
    told = agemem(capsys, "memory", "list", "--where", where, "--embedder", "hash-ngram-64", "--json")
    assert [memory["content"] for memory in told.json["memories"]] == ["Ana is celiac."]


def test_an_untrained_local_model_is_shown_as_it_is(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny")
    said = chat("Hello.\n", tmp_path / "memories", "--max-rounds", "2", "--max-tokens", "4", model=model)
    assert said.exit_code == 0
    assert said.stdout.splitlines()[-1] == "agent> (no answer: unreadable replies)"
    assert said.stdout.count("! failed:") == 2


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no model was named" in refused(agemem(capsys, "chat", "--where", tmp_path / "memories"))
    words = ("chat", "--model", "typo", "--where", tmp_path / "memories")
    assert "unknown model 'typo'" in refused(agemem(capsys, *words))
    assert not (tmp_path / "memories").exists()


def test_a_memory_is_stored_corrected_expired_and_undone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = tmp_path / "memories"
    code = agemem(capsys, "memory", "add", "The door code is 1234.", "--where", where).out.strip()
    replies = [
        step_reply(call("add_memory", content="Ana is vegan."), call("add_memory", content="Ana is vegan.")),
        step_reply(answer="Noted."),
        step_reply(call("update_memory", memory_id="m1", content="The door code is 5678.")),
        step_reply(answer="Corrected."),
        step_reply(answer="I do not know."),
    ]
    typed = f"I am vegan.\nThe code is 5678.\n/expire {code[:13]}\nTell me.\n/expire {code}\n/memory\n"
    with scripted(*replies):
        said = chat(typed, where)
    lines = said.stdout.splitlines()
    assert "  + stored: Ana is vegan." in lines
    assert "  ! failed: nothing was added: that is stored already, as m2" in lines
    assert "  ~ changed: The door code is 5678.   (was: The door code is 1234.)" in lines
    assert lines.count("  × expired: The door code is 5678.") == 1
    assert lines[-1].endswith("  Ana is vegan.")
    assert "say /expire ID" in said.stderr  # out of sight, it is no memory any more
    undo = agemem(capsys, "memory", "undo", code, "--where", where)
    assert undo.out == f"{code}  The door code is 5678.\n"


def test_what_expires_is_said_once_and_can_be_undone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    where = tmp_path / "memories"
    added = agemem(capsys, "memory", "add", "The code is 1234.", "--where", where, "--json").json["memory"]["id"]
    ends = f"/expire {added} 2001-01-01T00:00:00Z\n/memory\n/undo\n/memory\n/expire\n/expire {added} tomorrow\n"
    with scripted(step_reply(answer="Hello.")):
        said = [json.loads(line) for line in chat(ends, where, "--json").stdout.splitlines()]
    assert said[0]["ends"]["expires_at"] == "2001-01-01T00:00:00.000000+00:00"
    assert said[1] == {"expired": [{"id": added, "content": "The code is 1234."}]}
    assert said[2] == {"memories": []}
    assert [one["content"] for one in said[3]["undone"]] == ["The code is 1234."]
    assert [one["id"] for one in said[4]["memories"]] == [added]
    assert "say /expire ID" in said[5]["error"]
    assert "a time with a zone" in said[6]["error"]
