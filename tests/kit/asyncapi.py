"""The official JSON Schema of AsyncAPI 3.0, from the npm package that the AsyncAPI project publishes it in.

The cache is $KWORKER_ASYNCAPI_HOME, or ~/.cache/kworker/asyncapi-<version>.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from filelock import FileLock

VERSION = "6.11.1"
_SCHEMA = "package/schemas/3.0.0.json"


class Missing(Exception):
    """It cannot be had here; says why."""


def asyncapi_schema() -> dict[str, Any]:
    """The schema, fetched when it is not there yet. Raises Missing."""
    home = Path(os.environ.get("KWORKER_ASYNCAPI_HOME") or Path("~/.cache/kworker", f"asyncapi-{VERSION}")).expanduser()
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "lock"):
        if not (home / "complete").exists():
            _fetch(home)
            (home / "complete").touch()
    found: dict[str, Any] = json.loads((home / _SCHEMA).read_text())
    return found


def _fetch(home: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Missing(f"the schema of AsyncAPI {VERSION} is fetched with npm: install it (Debian: apt-get install npm)")
    command = [npm, "pack", "--silent", f"@asyncapi/specs@{VERSION}"]
    answer = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False, timeout=100)
    if answer.returncode != 0:
        raise Missing(f"npm could not fetch the schema of AsyncAPI {VERSION}:\n{answer.stderr[-2000:]}")
    (archive,) = home.glob("*.tgz")
    with tarfile.open(archive) as content:
        content.extract(_SCHEMA, home, filter="data")
    archive.unlink()
