"""Whether this process may have the address space that a worker's threads take.

A Kafka client whose threads cannot be started may hang while it is made, and hold the GIL then: nothing in this process
could say so. So it is asked before the first one. Measured: 1.24 GiB with one broker and 31 threads, of which little
is used; a client hung below 1.2 GiB.
"""

from __future__ import annotations

import resource

_BASE = 1 << 30  # code, and the arenas of the allocator
_CLIENTS = 40  # threads that are not the tasks', as long as there are few brokers
_STACK = 8 << 20  # of a thread, where the system sets no limit to one


def refusal(tasks: int) -> str:
    """Why a worker with so many threads for tasks cannot run within the limits of this process; '' when it can."""
    limit, stack = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_STACK))
    need = _BASE + (_CLIENTS + tasks) * (_STACK if stack == resource.RLIM_INFINITY else stack)
    if limit == resource.RLIM_INFINITY or limit >= need:
        return ""
    return (
        f"the limit of this process on address space (ulimit -v) is {limit >> 20:,} MiB, and the threads of a worker"
        f" take up to {need >> 20:,} MiB of it: raise it, or limit the memory that is used with a cgroup instead"
        " (MemoryMax= of systemd, resources.limits.memory of Kubernetes)"
    )
