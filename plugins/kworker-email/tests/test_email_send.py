"""`email.send` to a real SMTP server on this machine: what arrives, what an answer leads to, what is never sent."""

from __future__ import annotations

import base64
import contextlib
import email
import socket
import threading
import time
import typing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from functools import partial
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from aiosmtpd.smtp import Envelope as Received

from kworker import Reject, Retry, testing
from kworker.testing import opened, result_of, run_task
from kworker.testing_fixtures import MakeWorker
from kworker_email import Attachment, Email

PUBLISHED = 1_764_000_000.25
HI: dict[str, Any] = {"subject": "Hi", "text": "Hi\n"}
BASE: dict[str, Any] = {
    "host": "127.0.0.1",
    "security": "none",
    "sender": "Shop <shop@example.org>",
    "allow": ["example.org", "example.com"],
    "hello": "worker.example.org",
    "templates": {"hello": {"subject": "Hello {{ name }}", "text": "Dear {{ name }}", "html": "<b>{{ name }}</b>"}},
}
context = partial(testing.context, "email.send", seconds=60, published_at=PUBLISHED)
email_of = partial(opened, Email, **BASE)


class Server:
    """What a mail server keeps and answers. refusals: answers to the next MAIL, RCPT <address> and DATA."""

    def __init__(self) -> None:
        self.mails: list[Received] = []
        self.connections = 0
        self.refusals: list[tuple[str, str]] = []
        self.port = 0
        self.lock = threading.Lock()

    def refuse(self, command: str) -> str | None:
        with self.lock:
            for refusal in self.refusals:
                if refusal[0] == command:
                    self.refusals.remove(refusal)
                    return refusal[1]
        return None

    async def handle_EHLO(self, server: SMTP, session: Any, envelope: Received, hostname: str, responses: Any) -> Any:
        session.host_name = hostname
        if not session.extended_smtp:
            session.extended_smtp = True
        return responses

    async def handle_MAIL(
        self, server: SMTP, session: Any, envelope: Received, address: str, options: list[str]
    ) -> str:
        if answer := self.refuse("MAIL"):
            return answer
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Any, envelope: Received, address: str, options: list[str]
    ) -> str:
        if answer := self.refuse(f"RCPT {address}"):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Received) -> str:
        if answer := self.refuse("DATA"):
            return answer
        self.mails.append(envelope)
        return "250 OK"

    def only(self) -> EmailMessage:  # no property: aiosmtpd looks at every attribute at its start
        (mail,) = self.mails
        assert isinstance(mail.content, bytes)
        parsed = email.message_from_bytes(mail.content, policy=SMTP_POLICY)
        assert isinstance(parsed, EmailMessage)
        return parsed


class CountingController(Controller):
    def factory(self) -> Any:
        self.handler.connections += 1
        return super().factory()  # type: ignore[no-untyped-call]  # aiosmtpd annotates not all of its functions


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[Server]:
    server = Server()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = CountingController(server, hostname="127.0.0.1", port=port, ready_timeout=60, **options)
    controller.start()
    server.port, server.connections = port, 0  # the controller has tried it
    try:
        yield server
    finally:
        controller.stop()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def mail(server: Server) -> Iterator[Email]:
    with email_of(port=server.port) as made:
        yield made


def test_it_offers_one_task_whose_payload_is_json(server: Server) -> None:
    (spec,) = Email().tasks()
    assert (spec.name, spec.executor, spec.needs_settings) == ("email.send", "thread", True)
    assert typing.get_type_hints(spec.function)["attachments"] == list[Attachment] | None
    attachment = {"name": "a.bin", "content": base64.b64encode(b"\0\xff").decode()}
    payload = {"to": "ada@example.org", **HI, "attachments": [attachment]}
    result_of(run_task(Email, payload, settings={**BASE, "port": server.port}))
    (attached,) = server.only().iter_attachments()
    assert (attached.get_filename(), attached.get_content()) == ("a.bin", b"\0\xff")


def test_a_template_is_sent(mail: Email, server: Server) -> None:
    result = mail.send("Ada <ada@example.org>", "hello", {"name": "Ada & Co"}, ctx=context())
    found = server.only()
    assert result == {"message_id": found["Message-ID"], "recipients": 1}
    assert server.mails[0].mail_from == "shop@example.org"
    assert server.mails[0].rcpt_tos == ["ada@example.org"]
    assert (found["From"], found["To"], found["Subject"]) == (
        "Shop <shop@example.org>",
        "Ada <ada@example.org>",
        "Hello Ada & Co",
    )
    assert found["Date"] == "Mon, 24 Nov 2025 16:00:00 +0000"
    html = found.get_body(("html",))
    assert html is not None
    assert html.get_content() == "<b>Ada &amp; Co</b>\r\n"


def test_everyone_gets_it_and_bcc_is_not_shown(mail: Email, server: Server) -> None:
    to, cc, bcc = ["a@example.org", "b@example.org"], ["c@example.org", "a@example.org"], ["d@example.com"]
    result = mail.send(to, **HI, cc=cc, bcc=bcc, reply_to="Help <help@elsewhere.net>", ctx=context())
    assert result["recipients"] == 4
    assert server.mails[0].rcpt_tos == ["a@example.org", "b@example.org", "c@example.org", "d@example.com"]
    found = server.only()
    assert (found["To"], found["Cc"], found["Reply-To"]) == (
        "a@example.org, b@example.org",
        "c@example.org, a@example.org",
        "Help <help@elsewhere.net>",
    )
    assert b"d@example.com" not in (server.mails[0].content or b"")


@pytest.mark.parametrize(
    "text", [".\r\nMAIL FROM:<eve@example.net>\r\n", "a\r.\rb\n.\n.", "..\n.", "é\n.\n", "x" * 5000]
)
def test_a_body_ends_where_it_ends(mail: Email, server: Server, text: str) -> None:
    mail.send("ada@example.org", subject="Hi", text=text, ctx=context())
    mail.send("bob@example.org", **HI, ctx=context())
    assert [received.rcpt_tos for received in server.mails] == [["ada@example.org"], ["bob@example.org"]]
    del server.mails[1]
    content = server.only().get_content().replace("\r\n", "\n").rstrip("\n")
    assert content == text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"to": "eve@example.net", **HI}, "to: .* does not permit eve@example.net"),
        ({"to": "ada@example.org", **HI, "cc": ["eve@example.net"]}, "cc: .* does not permit"),
        ({"to": "ada@example.org", **HI, "bcc": ["eve@example.net"]}, "bcc: .* does not permit"),
        ({"to": "ada@example.org\r\nRCPT TO:<eve@example.net>", **HI}, "to: .* control character"),
        ({"to": "ada@example.org,eve@example.net", **HI}, "to: .* not one address"),
        ({"to": "ada@example.org", **HI, "reply_to": "a\nb@example.org"}, "reply_to: .* control character"),
        ({"to": [], **HI}, "to: give at least one"),
        ({"to": [f"a{n}@example.org" for n in range(51)], **HI}, "51 recipients: max_recipients is 50"),
        ({"to": "ada@example.org", "subject": "a\nBcc: eve@example.net", "text": "x"}, "subject: holds a line break"),
        ({"to": "ada@example.org", "template": "hello", "variables": {"name": "a\nBcc: x"}}, "subject: holds a line"),
        ({"to": "ada@example.org", "template": "hello"}, "'name' is undefined"),
        ({"to": "ada@example.org", "template": "nope"}, "'nope' is none of the templates"),
        ({"to": "ada@example.org", "template": "hello", **HI}, "not both"),
        ({"to": "ada@example.org", "template": "hello", "subject": ""}, "not both"),
        ({"to": "ada@example.org", **HI, "variables": {}}, "they belong to a template"),
        ({"to": "ada@example.org", "subject": "x"}, "or a subject with text or html"),
        ({"to": "ada@example.org", "text": "x"}, "or a subject with text or html"),
        ({"to": "ada@example.org", **HI, "attachments": [Attachment("x", b"x" * 20_000)]}, "max_bytes is 20000"),
    ],
)
def test_what_must_not_be_sent_is_rejected(server: Server, arguments: dict[str, Any], why: str) -> None:
    with email_of(port=server.port, max_bytes=20_000) as made, pytest.raises(Reject, match=why) as error:
        made.send(**arguments, ctx=context())
    assert "\n" not in str(error.value)
    assert (server.connections, server.mails) == (0, [])


def test_a_worker_may_send_templates_only(server: Server) -> None:
    with email_of(port=server.port, own_text=False) as made:
        with pytest.raises(Reject, match="own_text is false"):
            made.send("ada@example.org", **HI, ctx=context())
        made.send("ada@example.org", "hello", {"name": "Ada"}, ctx=context())
    assert server.only()["Subject"] == "Hello Ada"


def test_every_attempt_has_the_same_message_id(mail: Email, server: Server) -> None:
    server.refusals = [("DATA", "451 later")]
    with pytest.raises(Retry):
        mail.send("ada@example.org", **HI, ctx=context())
    ids = [
        mail.send("ada@example.org", **HI, ctx=context(id=name))["message_id"] for name in ("msg_1", "msg_1", "msg_2")
    ]
    assert ids[0] == ids[1] != ids[2]


def test_a_place_alone_is_no_message_id(mail: Email, server: Server) -> None:
    # tasks/0/0 is another message in another cluster, or when the topic was made again.
    contexts = [context(id=None, published_at=PUBLISHED + n) for n in (0, 0, 1)]
    ids = [mail.send("ada@example.org", **HI, ctx=each)["message_id"] for each in contexts]
    assert ids[0] == ids[1] != ids[2]
    ids = [mail.send("ada@example.org", **HI, ctx=context(published_at=PUBLISHED + n))["message_id"] for n in (0, 1)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("milliseconds", [0, -1, 1 << 62])
def test_a_record_without_a_time_has_todays_date(mail: Email, server: Server, milliseconds: int) -> None:
    mail.send("ada@example.org", **HI, ctx=context(published_at=milliseconds / 1000))
    assert abs(server.only()["Date"].datetime.timestamp() - time.time()) < 3600


@pytest.mark.parametrize(
    ("refusals", "error", "why"),
    [
        (
            [("RCPT ada@example.org", "451 4.7.1 Greylisted")],
            Retry,
            "ada@example.org was refused: 451 4.7.1 Greylisted",
        ),
        (
            [("RCPT ada@example.org", "550 5.1.1 No such user")],
            Reject,
            "ada@example.org was refused: 550 5.1.1 No such",
        ),
        ([("RCPT ada@example.org", "421 closing")], Retry, "421 closing"),
        ([("MAIL", "452 full")], Retry, "the sender was refused: 452 full"),
        ([("MAIL", "552 too big")], Reject, "the sender was refused: 552 too big"),
        ([("MAIL", "530 5.7.0 Authentication required")], Retry, "530"),
        ([("DATA", "451 later")], Retry, "the e-mail was refused: 451 later"),
        ([("DATA", "554 spam")], Reject, "the e-mail was refused: 554 spam"),
        (
            [("RCPT ada@example.org", "451 later"), ("RCPT bob@example.org", "550 never")],
            Reject,
            "bob@example.org was refused: 550 never",
        ),
    ],
)
def test_an_answer_decides(
    mail: Email, server: Server, refusals: list[tuple[str, str]], error: type[Exception], why: str
) -> None:
    server.refusals = refusals
    with pytest.raises(error, match=why):
        mail.send(["ada@example.org", "bob@example.org", "cid@example.org"], **HI, ctx=context())
    assert server.mails == []


def test_with_one_recipient_refused_nobody_gets_it_until_all_are_accepted(mail: Email, server: Server) -> None:
    server.refusals = [("RCPT bob@example.org", "451 4.7.1 Greylisted")]
    everyone = ["ada@example.org", "bob@example.org"]
    with pytest.raises(Retry, match=r"bob@example\.org was refused: 451"):
        mail.send(everyone, **HI, ctx=context())
    assert server.mails == []
    mail.send(everyone, **HI, ctx=context())
    assert [received.rcpt_tos for received in server.mails] == [everyone]


def test_a_connection_is_used_again_also_after_a_refusal(mail: Email, server: Server) -> None:
    server.refusals = [("RCPT ada@example.org", "550 no")]
    with pytest.raises(Reject):
        mail.send("ada@example.org", **HI, ctx=context())
    for _ in range(3):
        mail.send("bob@example.org", **HI, ctx=context())
    assert server.connections == 1
    assert [received.rcpt_tos for received in server.mails] == [["bob@example.org"]] * 3


def test_a_connection_that_broke_while_it_was_kept_costs_no_attempt(mail: Email, server: Server) -> None:
    mail.send("ada@example.org", **HI, ctx=context())
    (client,) = mail._relay._idle
    assert client.sock is not None
    client.sock.shutdown(socket.SHUT_RDWR)
    mail.send("ada@example.org", **HI, ctx=context())
    assert (server.connections, len(server.mails)) == (2, 2)


def test_many_at_once_have_a_connection_each(mail: Email, server: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        addresses = [f"a{n}@example.org" for n in range(100)]
        list(pool.map(lambda address: mail.send(address, **HI, ctx=context(id=address)), addresses))
    assert sorted(received.rcpt_tos[0] for received in server.mails) == sorted(addresses)
    assert server.connections <= 8


def test_without_starttls_nothing_is_sent_in_clear_text(server: Server) -> None:
    with email_of(port=server.port, security="starttls") as made, pytest.raises(Retry, match="STARTTLS"):
        made.send("ada@example.org", **HI, ctx=context())
    assert server.mails == []


def test_nothing_starts_when_no_time_is_left(mail: Email, server: Server) -> None:
    cancelled = context()
    cancelled.cancel()
    for ctx in (context(seconds=0.1), cancelled):
        with pytest.raises(Retry, match="no time is left"):
            mail.send("ada@example.org", **HI, ctx=ctx)
    assert server.connections == 0


def test_what_a_worker_makes_of_it(server: Server, memory_worker: MakeWorker) -> None:
    worker = memory_worker(Email, settings={"Email": {**BASE, "port": server.port}})
    server.refusals = [("RCPT ada@example.org", "451 4.7.1 Greylisted"), ("RCPT bob@example.org", "550 No such user")]
    for name in ("ada@example.org", "bob@example.org", "eve@example.net"):
        worker.publish("email.send", {"to": name, **HI})
    worker.run()
    assert (worker.succeeded, worker.waiting_retries) == (0, 1)
    assert [letter.reason for letter in worker.dead_letters] == ["rejected", "rejected"]
    assert worker.dead_letters[0].message == "bob@example.org was refused: 550 No such user"
    worker.advance("5m")
    assert (worker.succeeded, worker.committed) == (1, 3)
    assert [received.rcpt_tos for received in server.mails] == [["ada@example.org"]]
