"""Executors run attempts in slots. Which one runs a task is the plugin's to say; a worker has several at once.

base.py         what each is, and what one attempt is
threads.py      plain functions; a hung one costs a slot, which is replaced
coroutines.py   async functions, in one event loop (eventloop.py)
processes.py    what needs a core of its own, or is not trusted: in the worker the children (children.py) are given
                tasks and heard (hearing.py); they are forked from a template (nursery.py, template.py) and serve
                (child.py); messages.py is what both sides say
"""

from __future__ import annotations

EXECUTORS = ("thread", "coroutine", "process")
"""The kinds. A task of a kind that a worker does not have loads as unavailable."""
