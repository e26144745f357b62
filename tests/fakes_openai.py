"""A small server that speaks OpenAI's embeddings API over a real socket.

Its vectors are those of a `HashEmbedder`, not of length 1, so that what divides them is seen to. It refuses what the
real one refuses, keeps what it was asked, and can fail or drop connections.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from agemem_dspy.memory import HashEmbedder

KEY = "sk-of-the-test"
MODEL = "text-embedding-3-small"
DROP = 0  # among `failures`: end the connection without an answer


class EmbeddingServer:
    """Listens on a free port of this machine while it is a context.

    `requests` are the lists of texts it was sent; `failures` the statuses of its next answers, before it works again;
    `rows`, if set, is what it answers with.
    """

    def __init__(self, dimension: int = 256) -> None:
        self.dimension = dimension
        self.requests: list[list[str]] = []
        self.failures: list[int] = []
        self.rows: list[list[Any]] | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str, body: dict[str, Any], authorization: str | None) -> tuple[int, Any]:
        """Return the HTTP status and the JSON body for one request; the status `DROP` is no answer at all."""
        texts = body["input"]
        self.requests.append(texts)
        if self.failures:
            status = self.failures.pop(0)
            return status, _error(f"failing with {status} as told", "server_error" if status >= 500 else "requests")
        if authorization != f"Bearer {KEY}":
            return 401, _error("Incorrect API key provided")
        if path != "/v1/embeddings" or body["model"] != MODEL:
            return 404, _error(f"there is no model {body['model']!r} at {path}")
        if not texts or not all(isinstance(text, str) and text for text in texts):
            return 400, _error("'$.input' is invalid: it cannot be an empty string")
        rows = self.rows
        if rows is None:
            rows = (3 * HashEmbedder(body.get("dimensions", self.dimension)).embed(texts)).tolist()
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return 200, {"object": "list", "data": data, "model": body["model"], "usage": usage}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, result = server.answer(self.path, body, self.headers.get("Authorization"))
                if status == DROP:
                    self.close_connection = True
                    return
                reply = json.dumps(result).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *args: Any) -> None:
                return

        return Handler


def _error(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
