"""`http.deliver` against real servers on this machine: what arrives, what an answer leads to, what is never reached."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import typing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from standardwebhooks import Webhook

from kworker import ConfigError, Reject, Retry, testing
from kworker.testing import START, opened
from kworker_http import Endpoint, Http, HttpSettings

SECRET, OLD_SECRET = "whsec_" + "c2VjcmV0" * 4, "whsec_" + "b2xka2V5" * 4
PUBLISHED = 1_700_000_000_250


context = partial(testing.context, "http.deliver", id="msg_1", offset=17, published_at=START + 0.25)
plugin = partial(opened, Http, allow_internal=["127.0.0.0/8"])


class Receiver:
    """A webhook receiver: keeps what came, answers what it is told to."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.answer: Callable[[BaseHTTPRequestHandler], None] = reply(200)
        receiver = self

        class Requests(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                receiver.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                receiver.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def only(self) -> tuple[str, dict[str, str], bytes]:
        (request,) = self.requests
        return request


def reply(status: int, body: bytes = b"", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        if status != 204:
            request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver(tls)
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with serving() as receiver:
        yield receiver


def test_it_offers_one_task_whose_signature_can_be_read() -> None:
    (spec,) = Http().tasks()
    assert (spec.name, spec.executor, spec.needs_settings) == ("http.deliver", "thread", True)
    assert typing.get_type_hints(spec.function)["headers"] == dict[str, str] | None


def test_a_signed_webhook_arrives(receiver: Receiver) -> None:
    with plugin(allow=[receiver.url], secrets=[SECRET, OLD_SECRET]) as http:
        assert http.deliver(receiver.url + "/in?a=1", {"text": "grüße", "n": [1, None]}, ctx=context()) == {
            "status": 200
        }
    path, headers, body = receiver.only
    assert path == "/in?a=1"
    assert body == '{"text":"grüße","n":[1,null]}'.encode()
    assert headers["content-type"] == "application/json"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert headers["webhook-id"] == "msg_1"
    for secret in (SECRET, OLD_SECRET):
        assert Webhook(secret).verify(body, headers) == {"text": "grüße", "n": [1, None]}


def test_with_an_event_the_body_has_the_specifications_form(receiver: Receiver) -> None:
    with plugin(allow=[receiver.url], secrets=[SECRET]) as http:
        http.deliver(receiver.url, {"id": 7}, "user.created", ctx=context())
        http.deliver(receiver.url, None, "user.created", ctx=context(published_at=2**62 / 1000))
    stable, beyond = (json.loads(body) for _, _, body in receiver.requests)
    assert list(stable.items()) == [
        ("type", "user.created"),
        ("timestamp", "2023-11-14T22:13:20.250Z"),
        ("data", {"id": 7}),
    ]
    assert beyond["timestamp"].startswith("2")


def test_a_retry_has_the_same_id_and_body_and_a_default_id_is_the_records_place(receiver: Receiver) -> None:
    with plugin(allow=[receiver.url], secrets=[SECRET]) as http:
        for _ in range(2):
            http.deliver(receiver.url, 1, "e", ctx=context(id=None))
    (_, first, body), (_, second, again) = receiver.requests
    assert first["webhook-id"] == second["webhook-id"] == "tasks/0/17"
    assert body == again


def test_the_most_specific_endpoint_signs_and_labels(receiver: Receiver) -> None:
    endpoints = {receiver.url + "/a": {"secrets": [OLD_SECRET], "headers": {"X-Team": "a"}}, receiver.url + "/b": {}}
    with plugin(allow=[receiver.url], secrets=[SECRET], headers={"x-all": "1"}, endpoints=endpoints) as http:
        for path in ("/a/x", "/b", "/c"):
            http.deliver(receiver.url + path, 1, headers={"X-Own": "o"}, ctx=context())
    for (_, headers, body), secret in zip(receiver.requests, (OLD_SECRET, SECRET, SECRET), strict=True):
        Webhook(secret).verify(body, headers)
        assert (headers["x-all"], headers["x-own"]) == ("1", "o")
    assert [headers.get("x-team") for _, headers, _ in receiver.requests] == ["a", None, None]


def test_secrets_come_from_files(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n{OLD_SECRET}\n")
    with plugin(allow=[receiver.url], secret_files=[str(tmp_path / "secret")]) as http:
        http.deliver(receiver.url, 1, ctx=context())
    assert receiver.only[1]["webhook-signature"].count("v1,") == 2


def test_without_a_secret_it_is_unsigned(receiver: Receiver) -> None:
    with plugin(allow=[receiver.url]) as http:
        http.deliver(receiver.url, 1, ctx=context())
    assert "webhook-signature" not in receiver.only[1]


@pytest.mark.parametrize(
    "headers",
    [
        *({name: "x"} for name in ("Host", "Content-Length", "Webhook-Id", "transfer-encoding", "proxy-x", "a b", "")),
        *({"x-a": value} for value in ("a\r\nb: c", "a\nb", "é", " a", "\0")),
        {"X-Fixed": "other"},
    ],
)
def test_a_message_cannot_send_every_header(receiver: Receiver, headers: dict[str, str]) -> None:
    with plugin(allow=[receiver.url], headers={"x-fixed": "1"}) as http, pytest.raises(Reject, match="headers: "):
        http.deliver(receiver.url, 1, headers=headers, ctx=context())
    assert receiver.connections == 0


def test_only_what_is_allowed_is_reached_and_no_path_is_shown(receiver: Receiver) -> None:
    with plugin(allow=[receiver.url + "/in"]) as http:
        for url in (f"{receiver.url}/out?k=s3cret", receiver.url + "/in/../s3cret", "http://a@127.0.0.1/s3cret"):
            with pytest.raises(Reject, match=r"^url: ") as error:
                http.deliver(url, 1, ctx=context())
            assert "s3cret" not in str(error.value)
    assert receiver.connections == 0


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0.0.0.0", "127.0.0.1."),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1]", "[::]", "169.254.169.254", "10.0.0.1"),
    ],
)
def test_internal_addresses_are_refused_however_written(receiver: Receiver, host: str) -> None:
    with (
        plugin(allow=[f"http://*:{receiver.port}/"], allow_internal=False) as http,
        pytest.raises(Reject, match="internal address"),
    ):
        http.deliver(f"http://{host}:{receiver.port}/", 1, ctx=context())
    assert receiver.connections == 0


def answers(monkeypatch: pytest.MonkeyPatch, port: int, *rounds: list[str]) -> list[str]:
    """Let the resolver give these addresses, a list at a time; returns the names it was asked for."""
    asked: list[str] = []

    def resolve(host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in rounds[len(asked) - 1]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def test_the_checked_address_is_the_one_connected_to(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, receiver.port, ["10.0.0.1", "127.0.0.1"], ["10.0.0.1"])
    url = f"http://hooks.example.org:{receiver.port}"
    with plugin(allow=[url]) as http:
        http.deliver(url, 1, ctx=context())
        assert asked == ["hooks.example.org"]  # once: what was checked cannot have changed
        http.deliver(url, 2, ctx=context())  # over the connection that is kept
        receiver.answer = reply(200, connection="close")
        http.deliver(url, 3, ctx=context())
        with pytest.raises(Reject, match=r"hooks.example.org is at 10.0.0.1, an internal address"):
            http.deliver(url, 4, ctx=context())
    assert {headers["host"] for _, headers, _ in receiver.requests} == {f"hooks.example.org:{receiver.port}"}
    assert [body for _, _, body in receiver.requests] == [b"1", b"2", b"3"]


def test_a_dead_address_gives_way_to_the_next(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, receiver.port, ["127.0.0.2", "127.0.0.1"])
    url = f"http://hooks.example.org:{receiver.port}"
    with plugin(allow=[url]) as http:
        assert http.deliver(url, 1, ctx=context()) == {"status": 200}


def test_an_unknown_name_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with plugin(allow=["https://*/"]) as http, pytest.raises(Retry, match=r"https://a\.example: .*not known"):
        http.deliver("https://a.example/", 1, ctx=context())


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA, tmp_path: Path) -> Iterator[tuple[Receiver, str, list[str | None]]]:
    """A receiver with a certificate for hooks.example.org, the authority's file, and the names asked for."""
    names: list[str | None] = []
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.sni_callback = lambda _, name, __: names.append(name)
    authority.issue_cert("hooks.example.org").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with serving(tls) as receiver:
        yield receiver, str(tmp_path / "ca.pem"), names


def test_tls_keeps_the_name_while_the_address_is_pinned(
    secure: tuple[Receiver, str, list[str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, ca_file, names = secure
    url = f"https://hooks.example.org:{receiver.port}"
    asked = answers(monkeypatch, receiver.port, ["127.0.0.1"])
    with plugin(allow=[url], secrets=[SECRET], ca_file=ca_file) as http:
        for data in (1, 2):
            assert http.deliver(url, data, ctx=context()) == {"status": 200}
    assert names == asked == ["hooks.example.org"]
    for _, headers, body in receiver.requests:
        Webhook(SECRET).verify(body, headers)


@pytest.mark.parametrize(("host", "trusted"), [("hooks.example.org", False), ("other.example.org", True)])
def test_tls_is_verified(
    secure: tuple[Receiver, str, list[str | None]], monkeypatch: pytest.MonkeyPatch, host: str, trusted: bool
) -> None:
    receiver, ca_file, _ = secure
    answers(monkeypatch, receiver.port, ["127.0.0.1"])
    url = f"https://{host}:{receiver.port}"
    with (
        plugin(allow=[url], ca_file=ca_file if trusted else None) as http,
        pytest.raises(Retry, match="certificate verify failed"),
    ):
        http.deliver(url, 1, ctx=context())
    assert receiver.requests == []


def test_answers_decide(receiver: Receiver) -> None:
    with plugin(allow=[receiver.url], max_retry_after=60) as http:
        receiver.answer = reply(503, b"later", retry_after="120")
        with pytest.raises(Retry, match="answered 503: 'later'") as retry:
            http.deliver(receiver.url, 1, ctx=context())
        assert retry.value.after == 60
        receiver.answer = reply(410, b"gone")
        with pytest.raises(Reject, match="answered 410: 'gone'"):
            http.deliver(receiver.url, 1, ctx=context())
        receiver.answer = reply(307, location="/elsewhere")
        with pytest.raises(Reject, match="redirects are not followed"):
            http.deliver(receiver.url, 1, ctx=context())
    assert [path for path, _, _ in receiver.requests] == ["/", "/", "/"]
    assert receiver.connections == 1


def chunked(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("transfer-encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"3\r\nabc\r\n0\r\n\r\n")


def test_a_connection_is_used_again(receiver: Receiver) -> None:
    with plugin(allow=[receiver.url]) as http:
        for answer in (reply(200, b"x" * 60_000), reply(204), chunked, reply(500), reply(200)):
            receiver.answer = answer
            with contextlib.suppress(Retry):
                http.deliver(receiver.url, 1, ctx=context())
    assert len(receiver.requests) == 5
    assert receiver.connections == 1


def test_many_threads_deliver_at_once(receiver: Receiver) -> None:
    with plugin(allow=[receiver.url], secrets=[SECRET], keep_alive=4) as http, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: http.deliver(receiver.url, n, ctx=context(id=f"m{n}")), range(100)))
    assert {headers["webhook-id"]: body for _, headers, body in receiver.requests} == {
        f"m{n}": str(n).encode() for n in range(100)
    }
    for _, headers, body in receiver.requests:
        Webhook(SECRET).verify(body, headers)


def test_every_fault_of_the_settings_is_reported_and_no_secret_shown(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError) as error:
        Http().setup(
            HttpSettings(
                allow=["hooks.example.org", "https://hooks.example.org/"],
                secrets=["whsec_s3cret"],
                secret_files=[str(tmp_path / "absent"), str(tmp_path / "empty")],
                headers={"host": "x"},
                endpoints={
                    "https://other.example.org/": msgspec.convert({"secrets": ["s3cret"]}, Endpoint),
                },
                allow_internal=["10.0.0.1/8"],
            )
        )
    assert len(error.value.faults) == 8
    assert all(fault.startswith("plugins.http: ") and "\n" not in fault for fault in error.value.faults)
    assert "s3cret" not in str(error.value)
    with pytest.raises(ConfigError, match="ca_file"):
        Http().setup(HttpSettings(allow=["https://a.org"], ca_file=str(tmp_path / "absent")))


@pytest.mark.parametrize("settings", [{}, {"allow": []}, {"allow": ["https://a.org"], "alow": 1}])
def test_settings_are_strict(settings: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, HttpSettings)


def test_settings_do_not_show_secrets() -> None:
    settings = HttpSettings(allow=["https://a.org"], secrets=[SECRET], headers={"authorization": "s3cret"})
    assert SECRET not in repr(settings)
    assert "s3cret" not in repr(settings)
