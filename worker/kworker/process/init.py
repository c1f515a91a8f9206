"""Process 1 of a container without an init: reaps what it inherits, and hands signals on to the worker.

The worker becomes a child of it. So what plugins leave behind comes here, whose only other child is the worker, and
what they wait for stays with the worker: nothing is reaped from under a subprocess.Popen.
"""

from __future__ import annotations

import contextlib
import os
import signal

_FORWARDED = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
}


def stand_in() -> None:
    """Called by process 1, fork: the child returns and goes on; this process serves it, and ends with its exit code.

    Nothing in other processes. To be called before there are threads.
    """
    if os.getpid() != 1:
        return
    signals = {*_FORWARDED, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    while True:
        told = signal.sigwaitinfo(signals)
        if told.si_signo == signal.SIGCHLD:
            code = _reap(child)
            if code is not None:
                os._exit(code)
        elif told.si_code <= 0:  # above: by the kernel, from the terminal, whose whole process group has got it
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, told.si_signo)


def _reap(child: int) -> int | None:
    """Reap all that ended; the exit code of `child` when it was among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended
