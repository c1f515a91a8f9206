"""Executors run attempts in slots: threads now; processes and coroutines have their seam in base.py."""
