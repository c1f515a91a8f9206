"""The configured templates: compiled at the start, rendered in Jinja2's sandbox. A message is never a template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, DictLoader, FileSystemLoader, StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kworker import Reject
from kworker_email.message import Content
from kworker_email.settings import Template

SUBJECT, TEXT, HTML = ".subject", ".txt", ".html"


class Templates:
    """Every template of the settings; findings are added to `faults`, one line each."""

    def __init__(self, inline: Mapping[str, Template], folder: str | None, faults: list[str]) -> None:
        sources: dict[str, str] = {}
        for name, template in inline.items():
            parts = {SUBJECT: template.subject, TEXT: template.text, HTML: template.html}
            sources |= {name + suffix: part for suffix, part in parts.items() if part is not None}
        loaders: list[BaseLoader] = [DictLoader(sources)]
        files: list[str] = []
        if folder is not None:
            if not Path(folder).is_dir():
                faults.append(f"plugins.email: template_dir: {folder}: is not a folder")
            loader = FileSystemLoader(folder)
            files = [file for file in loader.list_templates() if file.endswith((SUBJECT, TEXT, HTML))]
            loaders.append(loader)
        faults += [f"plugins.email: templates: {file!r} is also in template_dir" for file in sources.keys() & files]
        self._loader = ChoiceLoader(loaders)
        self._plain = _environment(self._loader, autoescape=False)
        self._html = _environment(self._loader, autoescape=True)
        self._parts = {*sources, *files}
        self._names = {part.removesuffix(SUBJECT) for part in self._parts if part.endswith(SUBJECT)}
        for name in sorted(self._names):
            if self._parts.isdisjoint({name + TEXT, name + HTML}):
                faults.append(f"plugins.email: templates: {name!r} has neither a text nor an HTML part")
        for part in sorted(self._parts):
            self._check(part, faults)

    def render(self, name: str, variables: Mapping[str, Any]) -> Content:
        """The template `name` with these variables. Raises Reject when there is none, or they do not fit it."""
        if name not in self._names:
            raise Reject(f"template: {name[:40]!r} is none of the templates of [plugins.email]")
        return Content(
            self._part(name + SUBJECT, variables) or "",
            self._part(name + TEXT, variables),
            self._part(name + HTML, variables),
        )

    def _part(self, part: str, variables: Mapping[str, Any]) -> str | None:
        if part not in self._parts:
            return None
        try:
            return self._environment(part).get_template(part).render(variables)
        except Exception as error:  # a template is code: with the same variables it would raise the same again
            raise Reject(f"template {part}: {type(error).__name__}: {_line(error)}") from error

    def _environment(self, part: str) -> ImmutableSandboxedEnvironment:
        return self._html if part.endswith(HTML) else self._plain

    def _check(self, part: str, faults: list[str]) -> None:
        environment = self._environment(part)
        try:
            environment.get_template(part)
            for other in meta.find_referenced_templates(environment.parse(self._source(part))):
                if other is not None:  # None: which one is only known when it is rendered
                    environment.get_template(other)
        except (TemplateError, UnicodeError, OSError) as error:
            line = getattr(error, "lineno", None)
            faults.append(f"plugins.email: template {part}{f', line {line}' if line else ''}: {_line(error)}")

    def _source(self, part: str) -> str:
        return self._loader.get_source(self._plain, part)[0]


def _environment(loader: BaseLoader, *, autoescape: bool) -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        loader=loader, undefined=StrictUndefined, autoescape=autoescape, auto_reload=False
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
