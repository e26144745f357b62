"""A small server that speaks the part of Qdrant's REST that the library uses, over a real socket.

It answers from the embedded engine, so it shows that requests are well-formed and mean what they should; it does not
show how a real server performs. It keeps what it was asked, and can drop connections and fail.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from qdrant_client import QdrantClient, models

Answer = Callable[[QdrantClient, str, dict[str, Any]], Any]


def _create(client: QdrantClient, name: str, body: dict[str, Any]) -> bool:
    request = models.CreateCollection(**body)
    return client.create_collection(name, vectors_config=request.vectors, sparse_vectors_config=request.sparse_vectors)


def _upsert(client: QdrantClient, name: str, body: dict[str, Any]) -> models.UpdateResult:
    request = models.PointsList(**body)
    return client.upsert(name, request.points, update_filter=request.update_filter, update_mode=request.update_mode)


def _query(client: QdrantClient, name: str, body: dict[str, Any]) -> list[models.QueryResponse]:
    return client.query_batch_points(name, models.QueryRequestBatch(**body).searches)


def _scroll(client: QdrantClient, name: str, body: dict[str, Any]) -> dict[str, Any]:
    request = models.ScrollRequest(**body)
    points, offset = client.scroll(
        name,
        scroll_filter=request.filter,
        limit=request.limit or 10,
        offset=request.offset,
        with_payload=request.with_payload or False,
    )
    return {"points": points, "next_page_offset": offset}


def _overwrite_payload(client: QdrantClient, name: str, body: dict[str, Any]) -> models.UpdateResult:
    request = models.SetPayload(**body)
    if request.filter is None:
        raise ValueError("a filter is needed")
    return client.overwrite_payload(name, request.payload, points=request.filter)


ROUTES: list[tuple[str, str, Answer]] = [
    ("GET", r"/collections", lambda client, _, __: client.get_collections()),
    ("GET", r"/collections/([^/]+)/exists", lambda client, name, _: {"exists": client.collection_exists(name)}),
    ("PUT", r"/collections/([^/]+)", _create),
    ("DELETE", r"/collections/([^/]+)", lambda client, name, _: client.delete_collection(name)),
    ("PUT", r"/collections/([^/]+)/index", lambda _, __, ___: {"operation_id": 1, "status": "completed"}),
    ("PUT", r"/collections/([^/]+)/points", _upsert),
    ("POST", r"/collections/([^/]+)/points", lambda client, name, body: client.retrieve(name, body["ids"])),
    ("PUT", r"/collections/([^/]+)/points/payload", _overwrite_payload),
    ("POST", r"/collections/([^/]+)/points/query/batch", _query),
    ("POST", r"/collections/([^/]+)/points/scroll", _scroll),
    (
        "POST",
        r"/collections/([^/]+)/points/count",
        lambda client, name, body: client.count(name, count_filter=models.CountRequest(**body).filter),
    ),
    (
        "POST",
        r"/collections/([^/]+)/points/delete",
        lambda client, name, body: client.delete(name, models.FilterSelector(**body)),
    ),
]


class _Listening(ThreadingHTTPServer):
    request_queue_size = 128  # connections that may wait to be taken up

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # who asked has gone
            super().handle_error(request, client_address)


class QdrantServer:
    """Listens on a free port of this machine while it is a context. `requests` are (method, path, body)."""

    def __init__(self, api_key: str | None = None) -> None:
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.drop = 0  # how many of the next connections end without an answer
        self.fail = 0  # how many of the next requests the server fails at, with `failure`
        self.failure = 503
        self.meet: threading.Barrier | None = None  # where requests wait until as many are there at once
        self._api_key = api_key
        self._client = QdrantClient(":memory:")
        self._lock = threading.Lock()
        self._server = _Listening(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

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
        self._client.close()

    def answer(self, method: str, path: str, body: dict[str, Any], api_key: str | None) -> tuple[int, Any]:
        """Return the HTTP status and the JSON body for one request."""
        if self._api_key is not None and api_key != self._api_key:
            return 401, {"status": {"error": "Must provide an API key"}}
        if self.meet is not None:
            self.meet.wait(30)
        with self._lock:
            if self.fail > 0:
                self.fail -= 1
                return self.failure, {"status": {"error": "not now"}}
            self.requests.append((method, path, body))
            for wanted, pattern, answer in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and method == wanted:
                    try:
                        result = answer(self._client, match[1] if match.groups() else "", body)
                    except ValueError as error:
                        return 400, {"status": {"error": str(error)}}
                    return 200, {"result": _plain(result), "status": "ok", "time": 0.0}
        return 404, {"status": {"error": f"no route {method} {path}"}}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                if server.drop > 0:
                    server.drop -= 1
                    self.close_connection = True
                    return
                super().handle_one_request()

            def _reply(self) -> None:
                text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                body = json.loads(text) if text else {}
                status, result = server.answer(self.command, path, body, self.headers.get("api-key"))
                reply = json.dumps(result).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            do_GET = do_PUT = do_POST = do_DELETE = _reply

            def log_message(self, *args: Any) -> None:
                return

        return Handler


def _plain(result: Any) -> Any:
    if isinstance(result, dict):
        return {key: _plain(value) for key, value in result.items()}
    if isinstance(result, list):
        return [_plain(item) for item in result]
    return result.model_dump(mode="json") if hasattr(result, "model_dump") else result
