"""The tools that check the chart: from the PATH, or built once into .tools of the checkout; and Kubernetes' schemas."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # of use for its files only
import yaml
from filelock import FileLock

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".tools"
CHART = ROOT / "deploy" / "helm" / "kworker"
SOURCES = {
    "actionlint": "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
    "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
    "helm-docs": "github.com/norwoodj/helm-docs/cmd/helm-docs@v1.14.2",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0",
    "prometheus": "github.com/prometheus/prometheus/cmd/prometheus@v0.316.0",
    "promtool": "github.com/prometheus/prometheus/cmd/promtool@v0.316.0",
}
CRDS = {
    "github.com/kedacore/keda/v2@v2.21.0": "config/crd/bases",
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": "example/prometheus-operator-crd",
}
KUBERNETES = "v1.33.0-local-strict"


class _Loader(yaml.SafeLoader):
    """Reads a bare `=`, which YAML 1.1 has a type for, as text."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: node.value)


class ToolError(Exception):
    """A tool is missing and cannot be made: what, and how to get it."""


@cache
def tool(name: str) -> str:
    """The path of a tool. Raises ToolError."""
    if found := shutil.which(name):
        return found
    made = FOLDER / "bin" / name
    with _lock():
        if not made.exists():
            tags = "-tags=remove_all_sd"  # Prometheus without the clients of every cloud
            _go("install", tags, SOURCES[name], env={"GOBIN": str(made.parent)}, what=name)
    return str(made)


def run(name: str, *arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run a tool to its end."""
    return subprocess.run(
        [tool(name), *map(str, arguments)], input=given, capture_output=True, text=True, timeout=110, check=False
    )


def template(*arguments: str | Path, values: str = "", chart: Path = CHART) -> subprocess.CompletedProcess[str]:
    """The chart rendered for Kubernetes 1.33, with an image; `values` are YAML over those of the arguments."""
    fixed = ("--kube-version=1.33.0", "--set=image.repository=kworker")
    return run("helm", "template", "r", chart, *fixed, *arguments, "-f", "-", given=values or "{}")


@cache
def schemas() -> list[str]:
    """Where kubeconform finds schemas: Kubernetes' own, and those of the operators that the chart uses."""
    folder = FOLDER / "schemas"
    with _lock():
        if not (folder / "done").exists():
            _write_kubernetes(folder)
            for module, place in CRDS.items():
                _write_crds(Path(_module(module)) / place, folder)
            (folder / "done").touch()
    kind = "{{.ResourceKind}}"
    return [f"{folder}/{kind}{{{{.KindSuffix}}}}.json", f"{folder}/{kind}_{{{{.ResourceAPIVersion}}}}.json"]


def _write_kubernetes(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for source in (Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / KUBERNETES).glob("*.json"):
        schema = json.loads(source.read_text().replace('"/api/_definitions.json#', '"_definitions.json#'))
        schema.pop("$id", None)  # absolute, like the references were: what they name is beside them
        (folder / source.name).write_text(json.dumps(schema))


def _write_crds(source: Path, folder: Path) -> None:
    for path in source.glob("*.yaml"):
        for document in yaml.load_all(path.read_text(), _Loader):
            if document and document["kind"] == "CustomResourceDefinition":
                kind = document["spec"]["names"]["kind"].lower()
                for version in document["spec"]["versions"]:
                    schema = _closed(version["schema"]["openAPIV3Schema"])
                    (folder / f"{kind}_{version['name']}.json").write_text(json.dumps(schema))


def _closed(schema: Any) -> Any:
    """The same schema, refusing keys it does not know."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    known = schema.get("properties")
    if isinstance(known, dict) and "additionalProperties" not in schema and schema.get("type") == "object":
        closed["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
        if set(known) == {"apiVersion", "kind", "metadata", "spec", "status"}:
            closed["properties"]["metadata"] = {"type": "object"}
    return closed


def _module(name: str) -> str:
    return str(json.loads(_go("mod", "download", "-json", name, env={}, what=f"the CRDs of {name}"))["Dir"])


def _go(*arguments: str, env: dict[str, str], what: str) -> str:
    go = shutil.which("go")
    if go is None:
        raise ToolError(f"{what} is missing, and there is no go to build it: install {', '.join(SOURCES)}")
    answer = subprocess.run(
        [go, *arguments], capture_output=True, text=True, timeout=900, check=False, cwd="/", env=os.environ | env
    )
    if answer.returncode != 0:
        raise ToolError(f"{what} could not be made: {answer.stderr[-2000:]}")
    return answer.stdout


def _lock() -> FileLock:
    FOLDER.mkdir(exist_ok=True)
    return FileLock(FOLDER / "lock")
