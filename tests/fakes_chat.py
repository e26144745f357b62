"""A small server that speaks the part of OpenAI's chat API that LM clients use, over a real socket.

It gives prepared replies in order and keeps what it was asked.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class ChatServer:
    """Serves `replies` in order at `url`; `requests` holds the bodies that came. A context manager."""

    def __init__(self, replies: Iterable[str]) -> None:
        self.replies = list(replies)
        self.requests: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                outer.requests.append(json.loads(self.rfile.read(length)))
                body = json.dumps(outer._completion(len(outer.requests) - 1)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Say nothing; the default writes every request to stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def _completion(self, number: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.replies[number]}
        return {
            "id": f"chat-{number}",
            "object": "chat.completion",
            "created": 1,
            "model": "scripted",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def step_reply(*calls: dict[str, Any], answer: str | None = None) -> str:
    """Return an agent step as DSPy's chat adapter reads it; a call is {"name", "args"}."""
    fields = {
        "reasoning": "brief",
        "tool_calls": json.dumps({"tool_calls": list(calls)}),
        "answer": "null" if answer is None else answer,
    }
    return "\n\n".join([f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()] + ["[[ ## completed ## ]]"])
