"""`kworker plugins --schema`: what each task takes, as one JSON document for those who publish.

By task name: `json_schema` (2020-12), `avro_schema`, `avro_origin` (`declared` by the plugin, `derived` from the
signature, or null) and `avro_missing` (why there is no Avro schema, or null).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kworker.codecs.arguments import Signature
from kworker.codecs.arguments_schema import avro_schema
from kworker.errors import ConfigError
from kworker.registry import LoadedTask, PluginInfo


def schemas(plugins: Iterable[PluginInfo], task: str) -> dict[str, Any]:
    """The document: of one task, or of every installed one for ''. Raises ConfigError when there is no such task."""
    found = {loaded.spec.name: loaded for plugin in plugins for loaded in plugin.tasks}
    if not task:
        return {name: _of(found[name]) for name in sorted(found)}
    if task not in found:
        raise ConfigError([f"--schema {task[:200]!r}: no loaded plugin has this task; there are: {', '.join(found)}"])
    return {task: _of(found[task])}


def _of(loaded: LoadedTask) -> dict[str, Any]:
    signature = loaded.signature
    assert isinstance(signature, Signature), "what is loaded from plugins is bound by it"
    avro = avro_schema(signature, loaded.spec)
    return {
        "json_schema": signature.json_schema(),
        "avro_schema": avro.definition,
        "avro_origin": avro.origin,
        "avro_missing": avro.missing,
    }
