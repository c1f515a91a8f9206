"""`shell.run` with real processes: what they get, what their end means, and that nothing of them stays."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import tracemalloc
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from kworker import ConfigError, Reject, Retry, testing
from kworker_shell import CommandFailedError, Shell, ShellSettings

SH = shutil.which("sh") or "/bin/sh"


context = partial(testing.context, "shell.run", id="msg_1")


def shell(**commands: dict[str, Any]) -> Shell:
    plugin = Shell()
    plugin.setup(msgspec.convert({"commands": commands}, ShellSettings))
    return plugin


def script(text: str, **settings: Any) -> Shell:
    """A plugin whose command `it` runs `text` by sh; what a message adds becomes $1, $2 ..."""
    return shell(it={"argv": [SH, "-c", text, "it"], **settings})


def python(text: str, **settings: Any) -> Shell:
    return shell(it={"argv": [sys.executable, "-c", text], **settings})


def eventually(fact: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not fact():
        assert time.monotonic() < until, "it did not become true"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process of another parent has ended; whoever inherited it may not have reaped it yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def reaped(pid: int) -> bool:
    """Whether no zombie of our own child is left."""
    return not psutil.pid_exists(pid)


def pid_in(path: Path) -> int:
    eventually(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def test_it_offers_one_task_whose_signature_can_be_read() -> None:
    (spec,) = Shell().tasks()
    assert (spec.name, spec.executor, spec.needs_settings) == ("shell.run", "thread", True)
    assert typing.get_type_hints(spec.function)["args"] == tuple[str, ...]


def test_the_payload_goes_in_and_the_output_comes_out() -> None:
    assert script("tr a-z A-Z; echo warn >&2").run("it", "grüße\n", ctx=context()) == {
        "exit": 0,
        "stdout": "GRüßE\n",
        "stderr": "warn\n",
        "truncated": False,
    }


def test_a_name_on_the_path_is_found() -> None:
    assert shell(cat={"argv": ["cat"]}).run("cat", "x", ctx=context())["stdout"] == "x"


def test_without_a_payload_standard_input_is_empty() -> None:
    assert script("cat").run("it", ctx=context())["stdout"] == ""


def test_the_environment_is_minimal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    monkeypatch.setenv("REGION", "eu")
    plugin = python(
        "import json, os; print(json.dumps([dict(os.environ), os.getcwd()]))",
        env=["REGION", "NOT_SET"],
        cwd=str(tmp_path),
    )
    environ, cwd = msgspec.json.decode(plugin.run("it", ctx=context(attempt=3))["stdout"])
    environ.pop("LC_CTYPE", None)  # CPython sets it for itself
    assert environ == {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "REGION": "eu",
        "KWORKER_TASK_ID": "msg_1",
        "KWORKER_ATTEMPT": "3",
    }
    assert Path(cwd) == tmp_path.resolve()


def test_no_shell_reads_what_a_message_says(tmp_path: Path) -> None:
    plugin = shell(it={"argv": ["printf", "%s|"], "args": True, "cwd": str(tmp_path)})
    args = ("$(touch x)", "; touch x", "`touch x`", "*", "a b", "> x", "", "é")
    assert plugin.run("it", "touch x\n", args, ctx=context())["stdout"] == "".join(f"{arg}|" for arg in args)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "args", "why"),
    [
        ({}, ("a",), "takes none"),
        ({"args": True}, ("-rf",), "starts with '-'"),
        ({"args": True}, ("a", "--output=x"), "starts with '-'"),
        ({"args": ".*"}, ("-a",), "starts with '-'"),
        ({"args": "[a-z]+"}, ("abc", "abc1"), r"args\[1\]: does not match"),
        ({"args": "[a-z]+"}, ("abc\n",), "does not match"),
        ({"args": True}, ("a\0b",), "NUL"),
        ({"args": True, "max_args": 2}, ("a", "b", "c"), "at most 2"),
        ({"args": True}, ("x" * 3_000_000,), "longer than the system allows"),
    ],
)
def test_arguments_are_refused_unless_declared(
    settings: dict[str, Any], args: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    with pytest.raises(Reject, match=why):
        script("touch ran", cwd=str(tmp_path), **settings).run("it", None, args, ctx=context())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "args"),
    [({"args": True}, ("a", "/b")), ({"args": "[a-z]+"}, ("ab",)), ({"args": True, "options": True}, ("-a",))],
)
def test_declared_arguments_are_added(settings: dict[str, Any], args: tuple[str, ...]) -> None:
    result = script('printf "%s," "$@"', **settings).run("it", None, args, ctx=context())
    assert result["stdout"] == "".join(f"{arg}," for arg in args)


@pytest.mark.parametrize("name", ["other", "IT", "it ", "../it", SH, ""])
def test_an_unknown_command_is_rejected(name: str) -> None:
    with pytest.raises(Reject, match="none of"):
        script("true").run(name, ctx=context())


def test_an_id_that_no_variable_can_hold_is_rejected() -> None:
    with pytest.raises(Reject, match="NUL"):
        script("true").run("it", ctx=context(id="a\0b"))


def test_exit_codes_decide() -> None:
    plugin = script("echo because >&2; exit $1", args=True, success_codes=[0, 3], reject_codes=[64, 65])
    assert [plugin.run("it", None, (code,), ctx=context())["exit"] for code in ("0", "3")] == [0, 3]
    with pytest.raises(Retry, match="it ended with exit code 75: 'because'"):
        plugin.run("it", None, ("75",), ctx=context())
    with pytest.raises(Reject, match="it ended with exit code 65: 'because'"):
        plugin.run("it", None, ("65",), ctx=context())
    for code in ("1", "127", "255"):
        with pytest.raises(CommandFailedError, match=f"it ended with exit code {code}: 'because'"):
            plugin.run("it", None, (code,), ctx=context())


def test_a_signal_is_tried_again() -> None:
    with pytest.raises(Retry, match="it was killed by SIGSEGV"):
        script("kill -SEGV $$").run("it", ctx=context())


def test_output_that_is_not_utf8_is_replaced() -> None:
    result = script(r"printf 'a\377b\303'; printf '\200' >&2").run("it", ctx=context())
    assert (result["stdout"], result["stderr"]) == ("a\ufffdb\ufffd", "\ufffd")


def test_an_error_shows_the_end_of_stderr_and_no_control_character() -> None:
    with pytest.raises(CommandFailedError) as error:
        script(r"yes x | head -n 100000 >&2; printf '\033[2J\nlast line\n' >&2; exit 1").run("it", ctx=context())
    assert str(error.value).endswith("last line'")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1500


def test_100_mb_on_both_outputs_neither_block_nor_fill_memory() -> None:
    plugin = script("head -c 100000000 /dev/zero & head -c 100000000 /dev/zero >&2; wait", max_output=1000)
    tracemalloc.start()
    try:
        result = plugin.run("it", ctx=context())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (result["exit"], result["truncated"]) == (0, True)
    assert (len(result["stdout"]), len(result["stderr"])) == (1000, 1000)
    assert peak < 2_000_000


def test_of_stdout_the_start_and_of_stderr_the_end_is_kept() -> None:
    result = script("echo 1234567890; echo 1234567890 >&2", max_output=4).run("it", ctx=context())
    assert (result["stdout"], result["stderr"], result["truncated"]) == ("1234", "890\n", True)


def test_a_big_payload_meets_a_big_output() -> None:
    payload = "0123456789abcde\n" * 500_000
    assert script("cat", max_output=1 << 24).run("it", payload, ctx=context())["stdout"] == payload


@pytest.mark.parametrize("text", ["exit 0", "exec <&-; echo done", "head -c 1 >/dev/null"])
def test_a_payload_that_nobody_reads_is_no_failure(text: str) -> None:
    assert script(text).run("it", "x" * 1_000_000, ctx=context())["exit"] == 0


def test_a_command_that_closes_its_outputs_runs_to_its_end() -> None:
    assert script("exec >&- 2>&-; sleep 0.3; exit 3", success_codes=[3]).run("it", ctx=context())["exit"] == 3


HANG = "echo $$ > leader; sleep 1000 & echo $! > child; wait"
STUBBORN = "trap '' TERM; echo $$ > leader; (trap '' TERM; while :; do sleep 0.1; done) & echo $! > child; " + (
    "while :; do sleep 0.1; done"
)


@pytest.mark.parametrize("text", [HANG, STUBBORN])
def test_at_its_timeout_the_whole_group_ends(text: str, tmp_path: Path) -> None:
    plugin = script(text, cwd=str(tmp_path), timeout=2, grace=0.2)
    with pytest.raises(Retry, match="it was stopped: it did not end in time"):
        plugin.run("it", ctx=context())
    assert reaped(pid_in(tmp_path / "leader"))
    child = pid_in(tmp_path / "child")
    eventually(lambda: gone(child))


def test_at_the_tasks_deadline_the_whole_group_has_ended(tmp_path: Path) -> None:
    ctx = context(seconds=3)
    with pytest.raises(Retry, match="did not end in time"):
        script(STUBBORN, cwd=str(tmp_path)).run("it", ctx=ctx)
    assert (ctx.remaining() or 0) > 0
    assert reaped(pid_in(tmp_path / "leader"))


def test_a_cancelled_task_ends_its_command(tmp_path: Path) -> None:
    ctx = context()
    plugin = script(HANG, cwd=str(tmp_path))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(plugin.run, "it", ctx=ctx)
        leader, child = pid_in(tmp_path / "leader"), pid_in(tmp_path / "child")
        ctx.cancel()
        with pytest.raises(Retry, match="the worker gave the task up"):
            running.result(30)
    assert reaped(leader)
    eventually(lambda: gone(child))


def test_sigterm_comes_first(tmp_path: Path) -> None:
    ctx = context()
    text = "trap 'echo cleaned up >&2; exit 0' TERM; echo $$ > leader; while :; do sleep 0.05; done"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(script(text, cwd=str(tmp_path), grace=60).run, "it", ctx=ctx)
        pid_in(tmp_path / "leader")
        ctx.cancel()
        with pytest.raises(Retry, match=r"gave the task up: .*cleaned up'"):
            running.result(30)


def test_no_command_starts_when_no_time_is_left(tmp_path: Path) -> None:
    with pytest.raises(Retry, match="no time is left"):
        script("touch ran", cwd=str(tmp_path)).run("it", ctx=context(seconds=0.1))
    assert list(tmp_path.iterdir()) == []


def test_a_grandchild_that_holds_the_output_is_ended_and_not_waited_for(tmp_path: Path) -> None:
    plugin = script("sleep 1000 & echo $! > child; echo done", cwd=str(tmp_path))
    assert plugin.run("it", ctx=context())["stdout"] == "done\n"
    child = pid_in(tmp_path / "child")
    eventually(lambda: gone(child))


ESCAPE = """
import os
reading, writing = os.pipe()
if os.fork():
    os.read(reading, 1)
    os._exit(0)
os.setsid()
os.write(1, b"done")
with open("child", "w") as file:
    print(os.getpid(), file=file)
os.write(writing, b"x")
while True:
    os.write(1, b"x" * 65536)
"""


def test_a_process_that_left_the_group_is_not_waited_for(tmp_path: Path) -> None:
    assert python(ESCAPE, cwd=str(tmp_path)).run("it", ctx=context())["stdout"].startswith("done")
    child = pid_in(tmp_path / "child")
    eventually(lambda: gone(child))  # it ends of SIGPIPE: nobody reads any more


def test_many_at_once_leave_no_zombie_descriptor_or_thread() -> None:
    plugin = script("cat; echo $$ >&2")
    threads, descriptors = threading.active_count(), psutil.Process().num_fds()
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda n: plugin.run("it", str(n), ctx=context()), range(100)))
    assert [result["stdout"] for result in results] == [str(n) for n in range(100)]
    assert all(reaped(int(result["stderr"])) for result in results)
    assert threading.active_count() <= threads
    assert psutil.Process().num_fds() <= descriptors


def test_a_program_that_vanished_is_an_ordinary_failure(tmp_path: Path) -> None:
    shutil.copy(SH, tmp_path / "tool")
    plugin = shell(it={"argv": [str(tmp_path / "tool"), "-c", "exit 0"]})
    assert plugin.run("it", ctx=context())["exit"] == 0
    (tmp_path / "tool").unlink()
    descriptors = psutil.Process().num_fds()
    with pytest.raises(FileNotFoundError):
        plugin.run("it", ctx=context())
    assert psutil.Process().num_fds() == descriptors


def test_every_fault_of_the_settings_is_reported() -> None:
    with pytest.raises(ConfigError) as error:
        shell(
            a={"argv": ["no-such-program-anywhere"]},
            b={"argv": ["./tool"]},
            c={"argv": [SH, "a\0b"], "cwd": "relative", "args": "["},
            d={"argv": [SH], "success_codes": [0, 75]},
        )
    assert len(error.value.faults) == 6
    assert all(fault.startswith("plugins.shell: commands.") and "\n" not in fault for fault in error.value.faults)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"commands": {}},
        {"commands": {"a": {}}},
        {"commands": {"a": {"argv": []}}},
        {"commands": {"a": {"argv": "rm -rf"}}},
        {"commands": {"a": {"argv": ["a"], "shell": True}}},
        {"commands": {"a": {"argv": ["a"], "retry_codes": [256]}}},
    ],
)
def test_settings_are_strict(settings: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, ShellSettings)
