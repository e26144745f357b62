"""The hub as a source, against a small server on this machine that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agemem_dspy.policy.sources import KNOWN_MODELS
from agemem_dspy.policy.tiny import tiny_llama
from agemem_dspy.policy.weights import model_sha256, read_source

KNOWN = KNOWN_MODELS["smollm2-135m"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCRIPT = """
import sys
from agemem_dspy.errors import ModelError
from agemem_dspy.policy.models import fetch
try:
    print("path", fetch(sys.argv[1], source=sys.argv[2], progress=lambda line: print("progress", line)))
except ModelError as error:
    print("error", error)
"""


class Hub(ThreadingHTTPServer):
    """Serves the files of one folder as the repositories `owner/tiny` and SmolLM2's."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"model.onnx": b"not wanted"}
        self.served: list[str] = []


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        repo = next((repo for repo in ("owner/tiny", KNOWN.hub_repo) if repo in path), None)
        if repo is None:
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        commit = COMMIT if repo == "owner/tiny" else KNOWN.hub_revision
        name = path.rsplit("/", 1)[-1]
        if path.startswith(f"{repo}/resolve/{commit}/") and name in self.server.files:
            if self.command == "GET":
                self.server.served.append(name)
            content = self.server.files[name]
            digest = hashlib.sha256(content).hexdigest()
            return self.reply(200, content, {"ETag": f'"{digest}"', "X-Repo-Commit": commit})
        if path.startswith(f"api/models/{repo}/tree"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.server.files.items()
            ]
            return self.reply(200, json.dumps(tree).encode(), {})
        if path.startswith(f"api/models/{repo}"):
            siblings = [{"rfilename": name} for name in self.server.files]
            return self.reply(200, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode(), {})
        return self.reply(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("tiny"), corpus=["Ana lives in Rome"])


@pytest.fixture
def hub(tiny_folder: Path) -> Iterator[Hub]:
    with Hub(tiny_folder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch_apart(hub: Hub, home: Path, name: str, source: str = "auto") -> list[str]:
    """Fetch in a process of its own: the hub client reads its address once, when it is imported."""
    environment = {
        **os.environ,
        "AGEMEM_HOME": str(home),
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", SCRIPT, name, source]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_repository_is_fetched_once_with_its_commit_and_without_other_formats(
    hub: Hub, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = tmp_path / "models" / "owner--tiny" / "hub"
    assert fetch_apart(hub, tmp_path, "owner/tiny")[-1] == f"path {folder}"
    assert read_source(folder)["origin"] == f"owner/tiny@{COMMIT}"
    assert model_sha256(folder) == model_sha256(tiny_folder)
    assert "model.onnx" not in hub.served
    assert {path.name for path in folder.iterdir()} == {path.name for path in tiny_folder.iterdir()} | {"source.json"}
    served = len(hub.served)
    assert fetch_apart(hub, tmp_path, "owner/tiny") == [f"path {folder}"]
    assert len(hub.served) == served


def test_a_repository_that_does_not_exist_says_so(hub: Hub, tmp_path: Path) -> None:
    (line,) = fetch_apart(hub, tmp_path, "owner/tinny")
    assert line.startswith("error the hub has no model 'owner/tinny'")


def test_other_weights_under_a_pinned_revision_are_refused(hub: Hub, tmp_path: Path) -> None:
    """A replaced file is no reason to go on with another source: it is an error, and nothing is kept."""
    last = fetch_apart(hub, tmp_path, "smollm2-135m")[-1]
    assert last.startswith("error model.safetensors has SHA-256")
    assert f"expected {KNOWN.hub_sha256['model.safetensors']}" in last
    assert [path.name for path in (tmp_path / "models").rglob("*") if path.is_file()] == [".hub.lock"]
