"""Shared by the tests of the cluster files: the files, their schemas (in ``schemas/``), and the command lines in them."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[2]
CLUSTERS = PROJECT / "configs" / "clusters"
RAY_FILES = {"aws": PROJECT / "cluster.yaml", "gcp": CLUSTERS / "gcp.yaml", "static": CLUSTERS / "static.yaml"}
KUBERNETES = [CLUSTERS / f"kuberay-{n}.yaml" for n in ("raycluster", "rayjob", "storage")]
SLURM = CLUSTERS / "slurm.sh"
DOCKERFILE = CLUSTERS / "Dockerfile"
GUIDE = PROJECT / "docs" / "cluster.md"
SCHEMAS = Path(__file__).parent / "schemas"
EVERY = [*RAY_FILES.values(), *KUBERNETES, SLURM, DOCKERFILE, GUIDE]


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def documents(path: Path) -> list[dict[str, Any]]:
    """Every Kubernetes object of a file."""
    return list(yaml.safe_load_all(path.read_text()))


def kind(name: str) -> dict[str, Any]:
    """The only object of this kind in the Kubernetes files."""
    (found,) = [d for path in KUBERNETES for d in documents(path) if d["kind"] == name]
    return found


def ray_cluster(of: dict[str, Any]) -> dict[str, Any]:
    """The RayClusterSpec of a RayCluster or a RayJob."""
    return of["spec"].get("rayClusterSpec", of["spec"])


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod templates of a RayClusterSpec, the head's first."""
    return [spec["headGroupSpec"]["template"], *(g["template"] for g in spec["workerGroupSpecs"])]


@cache
def validator(file: str, root: str) -> Any:
    """A validator for one of the roots of a schema file."""
    from jsonschema import Draft202012Validator
    from referencing import Registry, Resource

    loaded = {p.name: json.loads(p.read_text()) for p in SCHEMAS.glob("*.json")}
    registry = Registry().with_resources((n, Resource.from_contents(c)) for n, c in loaded.items())
    name = loaded[file]["roots"][root]
    return Draft202012Validator({"$ref": f"{file}#/$defs/{name}"}, registry=registry)


SCHEMA_OF = {
    "RayCluster": ("kuberay.json", "RayCluster"),
    "RayJob": ("kuberay.json", "RayJob"),
    "PersistentVolumeClaim": ("kubernetes.json", "PersistentVolumeClaim"),
    "NetworkPolicy": ("kubernetes.json", "NetworkPolicy"),
}


def faults(document: dict[str, Any]) -> list[str]:
    """What is wrong with a Kubernetes object, each fault with its path."""
    return [f"{e.json_path}: {e.message[:200]}" for e in validator(*SCHEMA_OF[document["kind"]]).iter_errors(document)]


def load(name: str) -> Any:
    """A script of configs/clusters, as a module."""
    spec = importlib.util.spec_from_file_location(name, CLUSTERS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shell(path: Path) -> Iterator[str]:
    """The shell commands of a file: those that it runs, and those that its comments or its text name."""
    text = path.read_text()
    if path.suffix == ".md":
        for block in re.findall(r"^```\n(.*?)^```", text, flags=re.S | re.M):
            yield from re.sub(r"\\\n\s*", " ", block).splitlines()
        prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
        yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))
        return
    comments = re.findall(r"^\s*#(.*)$", text, flags=re.M)
    indented = [c.strip() for c in comments if c.startswith("   ")]  # other comments are prose
    yield from re.sub(r"\\\n\s*", " ", "\n".join(indented)).splitlines()
    yield from re.findall(r"`([^`]+)`", " ".join(c.strip() for c in comments))
    if path.suffix in (".sh", ""):
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        yield from re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
        return
    for document in documents(path):
        yield from (c for key, value in document.items() if key.endswith("_commands") for c in value)
        entrypoint = (document.get("spec") or {}).get("entrypoint")
        yield from [entrypoint] if entrypoint else []


PROGRAMS = ("ray", "raysweep", "nodes.py", "sbatch")


def calls(line: str) -> Iterator[tuple[str, list[str]]]:
    """Every call of Ray, of this project and of its scripts in a line of shell: the program, and its arguments.

    What follows a ``--`` of Ray or of nodes.py is a command line of its own.
    """
    for part in re.split(r";|&&|\|\||[|`]|\$\(|\)\"?|(?<=\s)&(?=\s|$)", re.sub(r"(^|\s)#.*", "", line)):
        try:
            words = shlex.split(part)
        except ValueError:  # prose with an apostrophe
            continue
        words = [w for w in words if not re.fullmatch(r"[A-Z_]+=.*|\d?>.*|…", w)]
        if words and words[0].lstrip("(") in ("python", "srun", "exec", *PROGRAMS):
            yield from _nested(words)


def _nested(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    for i, word in enumerate(words):
        program = Path(word.lstrip("(")).name
        if program not in PROGRAMS:
            continue
        rest = words[i + 1 :]
        if program == "sbatch" and any(w.endswith("slurm.sh") for w in rest):
            at = next(j for j, w in enumerate(rest) if w.endswith("slurm.sh"))
            yield "raysweep", rest[at + 1 :]
        elif program in ("ray", "nodes.py") and "--" in rest:
            at = rest.index("--")
            yield program, rest[:at]
            yield from _nested(rest[at + 1 :])
        elif program != "sbatch":
            yield program, rest
        return
