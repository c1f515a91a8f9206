"""`make dashboards`: write the files."""

from __future__ import annotations

from grafana import FOLDER, files

FOLDER.mkdir(parents=True, exist_ok=True)
for path, text in files().items():
    path.write_text(text, "utf-8")
