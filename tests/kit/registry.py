"""A schema registry in this process, over real HTTP: Confluent's REST API as far as serializers and kworker use it."""

from __future__ import annotations

import base64
import json
import re
import ssl
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit


class Registry:
    """One registry on a port of its own, which it keeps while it is down. Use it as a context manager.

    login: `user:password` that it asks for. answers: what it says to a path instead, (status, body) each. slow: set
    while it does not answer; asked: every path that was asked for, in order.
    """

    def __init__(self, login: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.login = login
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self._tls = tls
        self._schemas: list[dict[str, Any]] = []
        self._subjects: dict[str, list[int]] = {}
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    def register(self, subject: str, schema: Any, **more: Any) -> int:
        """The id of `schema` (text, or what JSON can hold), under `subject` as well from now on."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        entry = {"schema": text, **more}
        if entry not in self._schemas:
            self._schemas.append(entry)
        id = self._schemas.index(entry) + 1
        versions = self._subjects.setdefault(subject, [])
        if id not in versions:
            versions.append(id)
        return id

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> Self:
        """Answer, on the same port as before."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry._serve(self, None)

            def do_POST(self) -> None:
                registry._serve(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        if self._tls:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Close the port."""
        self.open.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _serve(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        path = urlsplit(handler.path).path
        self.asked.append(path)
        self.open.wait(60)
        expected = "Basic " + base64.b64encode(self.login.encode()).decode()
        if self.login and handler.headers.get("Authorization") != expected:
            status, answer = 401, b'{"error_code": 401, "message": "Unauthorized"}'
        elif path in self.answers:
            status, answer = self.answers[path]
        else:
            status, found = self._answer([unquote(part) for part in path.split("/")[1:]], body)
            answer = json.dumps(found).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)

    def _answer(self, parts: Sequence[str], body: Any) -> tuple[int, Any]:
        match parts:
            case ["schemas", "types"]:
                return 200, ["AVRO", "JSON", "PROTOBUF"]
            case ["schemas", "ids", id, *rest] if re.fullmatch("[0-9]+", id):
                if not 1 <= int(id) <= len(self._schemas):
                    return 404, {"error_code": 40403, "message": f"Schema {id} not found"}
                return 200, self._versions(int(id)) if rest == ["versions"] else self._schemas[int(id) - 1]
            case ["subjects", subject, "versions"] if body is not None:
                more = {name: body[name] for name in ("schemaType", "references") if body.get(name)}
                return 200, {"id": self.register(subject, body["schema"], **more)}
            case ["subjects", subject, "versions", version] if subject in self._subjects:
                number = len(self._subjects[subject]) if version == "latest" else int(version)
                id_ = self._subjects[subject][number - 1]
                return 200, {"subject": subject, "version": number, "id": id_, **self._schemas[id_ - 1]}
            case ["subjects", subject] if body is not None and subject in self._subjects:
                id_ = self.register(subject, body["schema"])
                return 200, {"subject": subject, "version": 1, "id": id_, **self._schemas[id_ - 1]}
        return 404, {"error_code": 40401, "message": "not found"}

    def _versions(self, id: int) -> list[dict[str, Any]]:
        return [
            {"subject": subject, "version": ids.index(id) + 1} for subject, ids in self._subjects.items() if id in ids
        ]
