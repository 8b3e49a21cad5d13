"""Makes the schemas of AWS, GCP and Kubernetes from what their own packages ship: ``python tests/cluster/schemas/make.py``.

Needs ``pip install botocore google-api-python-client kubernetes-validate``; the tests need only the files made. Nothing
is left out but descriptions, and whatever the kinds of our files do not reach. A key that is not known is refused: the
providers ignore one, or refuse it when the machine is already paid for.
"""

from __future__ import annotations

import json
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DRAFT = "https://json-schema.org/draft/2020-12/schema"
KUBERNETES = "1.37.0"
KINDS = ("core.v1.PodTemplateSpec", "core.v1.Service", "core.v1.PersistentVolumeClaim", "networking.v1.NetworkPolicy")


def write(name: str, comment: str, roots: dict[str, str], definitions: dict[str, Any]) -> None:
    """One definition a line, so that a new version shows what changed."""
    head = {"$schema": DRAFT, "$comment": comment, "roots": roots}
    lines = [f"  {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in sorted(definitions.items())]
    text = json.dumps(head, indent=2)[:-2] + ',\n  "$defs": {\n' + ",\n".join(lines) + "\n  }\n}\n"
    json.loads(text)
    (HERE / name).write_text(text)


def reached(definitions: dict[str, Any], roots: list[str]) -> dict[str, Any]:
    """The definitions that ``roots`` refer to, directly or not."""
    found: dict[str, Any] = {}
    left = list(roots)
    while left:
        name = left.pop()
        if name not in found:
            found[name] = definitions[name]
            left += [r.rsplit("/", 1)[-1] for r in references(definitions[name])]
    return found


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [r for v in value for r in references(v)]
    if not isinstance(value, dict):
        return []
    mine = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return mine + [r for v in value.values() for r in references(v)]


def kubernetes() -> None:
    package = Path(str(import_module("kubernetes_validate").__file__)).parent
    folder = package / "kubernetes-json-schema" / f"v{KUBERNETES}-local-strict"
    source = json.loads((folder / "_definitions.json").read_text())["$defs"]

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(v) for v in value]
        if not isinstance(value, dict):
            return value
        kept = {k: plain(v) for k, v in value.items() if not k.startswith("x-kubernetes")}
        if isinstance(kept.get("description"), str):
            del kept["description"]
        if isinstance(kept.get("$ref"), str):
            kept["$ref"] = "#/$defs/" + kept["$ref"].rsplit("/", 1)[-1]
        return kept

    roots = {kind.rsplit(".", 1)[-1]: f"io.k8s.api.{kind}" for kind in KINDS}
    definitions = {k: plain(v) for k, v in reached(source, list(roots.values())).items()}
    comment = (
        f"Kubernetes {KUBERNETES}, from its OpenAPI document (Apache License 2.0, The Kubernetes Authors) as "
        f"kubernetes-validate {version('kubernetes-validate')} ships it, strict."
    )
    write("kubernetes.json", comment, roots, definitions)


def gcp() -> None:
    package = Path(str(import_module("googleapiclient").__file__)).parent
    document = json.loads((package / "discovery_cache" / "documents" / "compute.v1.json").read_text())

    def plain(value: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in value:
            return {"$ref": f"#/$defs/{value['$ref']}"}
        kind = value.get("type")
        if kind == "object":
            rest = plain(value["additionalProperties"]) if "additionalProperties" in value else False
            properties = {k: plain(v) for k, v in value.get("properties", {}).items()}
            return {"type": "object", "properties": properties, "additionalProperties": rest}
        if kind == "array":
            return {"type": "array", "items": plain(value["items"])}
        if value.get("format") in ("int64", "uint64"):  # JSON's numbers cannot hold them all; the service takes both
            return {"type": ["string", "integer"]}
        return {k: v for k, v in value.items() if k in ("type", "enum")}

    source = document["schemas"]
    definitions = {k: plain(v) for k, v in reached(source, ["Instance"]).items()}
    comment = (
        f"An instance of Google Compute Engine, discovery document compute v1, revision {document['revision']}, as "
        f"google-api-python-client {version('google-api-python-client')} ships it (Apache License 2.0, Google LLC)."
    )
    write("gcp.json", comment, {"Instance": "Instance"}, definitions)


def aws() -> None:
    loader = import_module("botocore.loaders").Loader()
    model = loader.load_service_model("ec2", "service-2")
    shapes = model["shapes"]
    used: dict[str, Any] = {}

    def plain(name: str) -> dict[str, Any]:
        if name not in used:
            used[name] = {}  # before its members, which may refer to it
            used[name] = convert(shapes[name])
        return {"$ref": f"#/$defs/{name}"}

    def convert(shape: dict[str, Any]) -> dict[str, Any]:
        kind = shape["type"]
        if kind == "structure":
            found = {k: plain(v["shape"]) for k, v in shape["members"].items()}
            needed = {"required": shape["required"]} if shape.get("required") else {}
            return {"type": "object", "properties": found, "additionalProperties": False, **needed}
        if kind == "list":
            return {"type": "array", "items": plain(shape["member"]["shape"])}
        kinds = {"string": "string", "boolean": "boolean", "integer": "integer", "long": "integer", "double": "number"}
        kinds |= {"float": "number", "timestamp": "string", "blob": "string"}
        return {"type": kinds[kind], **({"enum": shape["enum"]} if "enum" in shape else {})}

    plain("RunInstancesRequest")
    comment = (
        f"The request RunInstances of Amazon EC2 {model['metadata']['apiVersion']}, as botocore "
        f"{version('botocore')} ships it (Apache License 2.0, Amazon.com, Inc.)."
    )
    write("aws.json", comment, {"RunInstances": "RunInstancesRequest"}, used)


if __name__ == "__main__":
    kubernetes()
    gcp()
    aws()
