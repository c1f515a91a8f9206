"""`python -m kworker` is the command `kworker`."""

from __future__ import annotations

from kworker.cli import main

if __name__ == "__main__":
    main()
