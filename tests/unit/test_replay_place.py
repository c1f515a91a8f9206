"""Which record `kworker replay` is asked for, and that one attempt ends as it would in a worker."""

from __future__ import annotations

import pytest

from kworker import Reject, task
from kworker.cli import main
from kworker.cli.replay import Given
from kworker.codecs.arguments import Signature
from kworker.dlq.place import Place
from kworker.errors import ConfigError
from kworker.executors import here
from kworker.plugin import MARK
from kworker.registry import Registry
from kworker.task import Reason, Refused, Success, Task


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("tasks:0:0", ("tasks", 0, 0)),
        ("a.b_c-D9:12:9223372036854775807", ("a.b_c-D9", 12, (1 << 63) - 1)),
        ("tasks/3/42", ("tasks", 3, 42)),
    ],
)
def test_a_place_is_read(text: str, place: tuple[str, int, int]) -> None:
    assert Place.parse(text) == place
    assert str(Place.parse(text)) == "/".join(map(str, place))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tasks",
        "tasks:0",
        "tasks:0:",
        ":0:0",
        "tasks:0:0:0",
        "tasks:0/0",
        "tasks:-1:0",
        "tasks:0:-1",
        "tasks: 0:0",
        "ta sks:0:0",
        "tasks:0:0\n",
        "tasks:٣:0",
        "tasks:2147483648:0",
        "tasks:0:9223372036854775808",
        "t" * 250 + ":0:0",
    ],
)
def test_what_is_no_place_is_told_on_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError):
        Place.parse(text)
    with pytest.raises(SystemExit) as ended:
        main(["replay", "--", text])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.endswith("is not the place of a record: write TOPIC:PARTITION:OFFSET")


@task("plain")
def plain(n: int) -> int:
    if n == 0:
        raise Reject("none")
    return n


@task("async")
async def asynchronous(n: int) -> int:
    return plain(n)


@task("stop")
def stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["plain", "async"])
def test_an_attempt_ends_as_in_a_worker(name: str) -> None:
    registry = Registry.from_specs([getattr(each, MARK) for each in (plain, asynchronous)], Signature)

    def attempt(value: bytes) -> object:
        outcome, error = here.attempt(Given(Task(name, "t", 0, 0, None, value, [], 0), 1), registry.tasks[name])
        assert (error is None) is isinstance(outcome, Success)
        return outcome

    assert attempt(b'{"n": 2}') == Success(2)
    rejected, invalid = attempt(b'{"n": 0}'), attempt(b'{"n": "x"}')
    assert isinstance(rejected, Refused)
    assert rejected.reason is Reason.REJECTED
    assert "test_replay_place.py" in rejected.error.stack
    assert "executors/here.py" not in rejected.error.stack
    assert isinstance(invalid, Refused)
    assert invalid.reason is Reason.INVALID


def test_an_interrupt_ends_it() -> None:
    registry = Registry.from_specs([getattr(stop, MARK)], Signature)
    with pytest.raises(KeyboardInterrupt):
        here.attempt(Given(Task("stop", "t", 0, 0, None, None, [], 0), 1), registry.tasks["stop"])
