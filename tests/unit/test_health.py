"""What the admin port answers, over real sockets on loopback, and the heartbeats behind liveness."""

from __future__ import annotations

import http.client
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from kit.admin import DEADLINE, AdminPort
from kworker import health
from kworker.health import Liveness


@pytest.fixture(scope="module")
def served() -> Iterator[AdminPort]:
    """One server for all tests here: what it shows is reset for each."""
    with AdminPort() as port:
        yield port


@pytest.fixture
def admin(served: AdminPort) -> AdminPort:
    served.reset()
    return served


def test_metrics_come_with_their_type_for_the_accept_header(admin: AdminPort) -> None:
    answer = admin.ask("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert (answer.status, answer.text) == (200, "kworker_tasks_in_flight 3\n")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert admin.ask("/metrics?x=1").status == 200
    assert admin.accepted == ["application/openmetrics-text", ""]


@pytest.mark.parametrize("path", ["/", "/metrics", "/livez", "/readyz", "/status", "/none"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_every_answer_forbids_caching_and_sniffing(admin: AdminPort, path: str, method: str) -> None:
    answer = admin.ask(path, method)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Server"] == "kworker"
    assert not answer.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize(("path", "attribute"), [("/livez", "live"), ("/readyz", "ready")])
def test_health_is_ok_or_the_reasons_one_a_line(admin: AdminPort, path: str, attribute: str) -> None:
    assert (admin.ask(path).status, admin.ask(path).text) == (200, "ok\n")
    setattr(admin, attribute, ["group not joined", "orders/3 is paused:\r\nno \x1b[31mdlq"])
    answer = admin.ask(path)
    assert answer.status == 503
    assert answer.text == "group not joined\norders/3 is paused:\\r\\nno \\x1b[31mdlq\n"
    setattr(admin, attribute, [])
    assert admin.ask(path).status == 200


def test_verbose_lists_each_check(admin: AdminPort) -> None:
    admin.ready = {"group": "", "producer": ""}
    assert admin.ask("/readyz").text == "ok\n"
    assert admin.ask("/readyz?verbose").text == "[+] group: ok\n[+] producer: ok\nok\n"
    admin.ready = {"group": "", "producer": "producer: no broker"}
    assert admin.ask("/readyz").text == "producer: no broker\n"
    answer = admin.ask("/readyz?verbose")
    assert (answer.status, answer.text) == (503, "[+] group: ok\n[-] producer: no broker\n")
    admin.ready = ["producer: no broker"]
    assert admin.ask("/readyz?a=b&verbose").text == "[-] producer: no broker\n"


def test_status_is_json(admin: AdminPort) -> None:
    answer = admin.ask("/status")
    assert answer.headers["Content-Type"] == "application/json"
    assert json.loads(answer.text) == admin.status
    assert "\x1b" not in answer.text


def test_head_is_get_without_the_body(admin: AdminPort) -> None:
    whole = admin.ask("/status")
    head = admin.ask("/status", "HEAD")
    assert (head.status, head.text) == (200, "")
    assert admin.say(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n").endswith(b"\r\n\r\n")
    assert head.headers["Content-Length"] == whole.headers["Content-Length"] == str(len(whole.text))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_are_not_allowed(admin: AdminPort, method: str) -> None:
    answer = admin.ask("/metrics", method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/metrics/../status",
        "/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/metrics/",
        "/METRICS",
        "metrics",
    ],
)
def test_an_unknown_path_gets_the_list_of_paths(admin: AdminPort, path: str) -> None:
    answer = admin.ask(path)
    assert answer.status == 404
    assert answer.text == "not found; there is:\n/\n/metrics\n/livez\n/readyz\n/status\n"


def test_the_root_lists_the_paths(admin: AdminPort) -> None:
    answer = admin.ask("/")
    assert (answer.status, answer.text) == (200, "/\n/metrics\n/livez\n/readyz\n/status\n")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "LOCALHOST:9464", "[::1]:9464", "127.9.9.9"])
def test_loopback_names_are_answered(admin: AdminPort, host: str) -> None:
    assert admin.ask("/metrics", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9464", "localhost.evil.example", "10.0.0.1", "0.0.0.0", "[::1", "", "a@b", "::1"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_host_is_refused_on_a_loopback_port(admin: AdminPort, host: str, method: str) -> None:
    answer = admin.ask("/metrics", method, headers={"Host": host})
    assert answer.status == 403
    assert admin.accepted == []


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: evil.example\r\n"], ids=["none", "two"])
def test_a_request_needs_one_host_on_a_loopback_port(admin: AdminPort, hosts: bytes) -> None:
    assert admin.say(b"GET /metrics HTTP/1.1\r\n" + hosts + b"\r\n").startswith(b"HTTP/1.1 403 ")


def test_a_port_open_to_the_network_answers_any_host() -> None:
    with AdminPort("0.0.0.0") as admin:
        assert admin.ask("/metrics", headers={"Host": "worker-7.tasks.svc"}).status == 200


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_ipv6_loopback() -> None:
    with AdminPort("::1") as admin:
        assert admin.ask("/livez").status == 200
        assert admin.ask("/livez", headers={"Host": "evil.example"}).status == 403


def test_a_raising_page_is_a_500_with_its_trace_in_the_debug_log(
    admin: AdminPort, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(accept: str) -> tuple[bytes, str]:
        raise RuntimeError("engine is gone")

    admin.metrics = broken
    admin.status = object()
    with caplog.at_level(logging.DEBUG, logger="kworker.health"):
        answers = [admin.ask(path) for path in ("/metrics", "/status")]
    assert [answer.status for answer in answers] == [500, 500]
    assert "engine is gone" not in answers[0].text
    traces = [record for record in caplog.records if record.exc_info]
    assert [record.levelno for record in traces] == [logging.DEBUG] * 2
    assert "engine is gone" in caplog.text
    assert admin.ask("/livez").status == 200


def test_nothing_is_logged_above_debug_and_control_characters_are_escaped(
    admin: AdminPort, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="kworker.health"):
        answers = [
            admin.say(b"GET /\x1b[2J\x07%0d%0aevil HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            admin.say(b"\x1b]0;x\x07 / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            admin.say(b"GET / HTTP/\x1b[31m\r\n\r\n"),
        ]
    messages = [record.getMessage() for record in caplog.records]
    assert any("/\\x1b[2J\\x07%0d%0aevil" in message for message in messages)
    assert all(message.isprintable() for message in messages)
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    assert all(b"\x1b" not in answer for answer in answers)


def test_one_connection_serves_many_requests(admin: AdminPort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "REQUEST_BYTES", 100)  # for each of them, not for all
    with closing(http.client.HTTPConnection("127.0.0.1", admin.server.port, timeout=DEADLINE)) as connection:
        connection.connect()
        kept = connection.sock
        for path, status in (("/livez", 200), ("/none", 404), ("/readyz", 200)) * 3:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            assert (response.status, connection.sock) == (status, kept)


@pytest.mark.parametrize(
    ("beats", "now", "stale"),
    [
        ([], 1000.0, ["poll: did not move for 1000.0 s (limit 5 s)"]),
        ([("loop", 0.0), ("poll", 0.0)], 5.0, []),
        ([("loop", 0.0), ("poll", 0.0)], 5.5, ["poll: did not move for 5.5 s (limit 5 s)"]),
        ([("loop", 0.0), ("poll", 0.0), ("poll", 4.0)], 8.0, []),
        ([("loop", 1.0), ("poll", 40.0)], 41.0, ["loop: did not move for 40.0 s (limit 30 s)"]),
        ([("loop", 40.0), ("poll", 40.0), ("other", 0.0)], 41.0, []),
        ([("loop", 42.0), ("poll", 42.0)], 41.0, []),
    ],
)
def test_liveness(beats: list[tuple[str, float]], now: float, stale: list[str]) -> None:
    liveness = Liveness()
    liveness.expect("loop", 30)  # from its first beat on
    liveness.expect("poll", 5, now=0.0)
    for name, at in beats:
        liveness.beat(name, at)
    assert liveness.stale(now) == stale
    checks = liveness.checks(now)
    assert list(checks) == ["loop", "poll"]
    assert [reason for reason in checks.values() if reason] == stale


def test_expecting_again_starts_anew() -> None:
    liveness = Liveness()
    liveness.expect("commits", 10, now=0.0)
    assert liveness.stale(11.0)
    liveness.expect("commits", 20, now=11.0)
    assert not liveness.stale(31.0)
    assert liveness.stale(31.5) == ["commits: did not move for 20.5 s (limit 20 s)"]
