"""Executors run attempts in slots: threads now; processes and coroutines have their seam in base.py."""

from __future__ import annotations

EXECUTORS = ("thread",)
"""The kinds that run here. A task of another kind loads as unavailable."""
