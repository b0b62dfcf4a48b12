"""KubeRay's CRDs as an API server would use them: defaults, closed schemas, CEL rules."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CRDS = Path(os.environ.get("TRIMTAB_CRDS", Path(__file__).resolve().parents[3] / "shared" / "kuberay" / "crds"))
BOUNDS = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


@pytest.fixture(scope="session")
def admission() -> Callable[[dict[str, Any]], list[str]]:
    """What an API server would say against an object of KubeRay's kinds; nothing for other kinds."""
    if not CRDS.is_dir():
        pytest.skip(f"needs KubeRay's CRDs in {CRDS}; set TRIMTAB_CRDS to the folder that holds them")
    schemas = {}
    for file in sorted(CRDS.glob("*.yaml")):
        crd = yaml.load(file.read_text(), yaml.CSafeLoader)
        (version,) = (one for one in crd["spec"]["versions"] if one["name"] == "v1")
        schemas[crd["spec"]["names"]["kind"]] = version["schema"]["openAPIV3Schema"]
    validators: dict[str, Any] = {}

    def judge(one: dict[str, Any]) -> list[str]:
        import jsonschema

        schema = schemas.get(one["kind"])
        if schema is None:
            return []
        if one["kind"] not in validators:
            validators[one["kind"]] = jsonschema.Draft7Validator(_closed(schema, top=True))
        whole = _defaulted(copy.deepcopy(one), schema)
        errors = validators[one["kind"]].iter_errors(whole)
        refused = [f"{error.json_path}: {error.message[:200]}" for error in errors]
        return [*refused, *_unique(whole, schema, "$"), *_cel(whole, schema, "$")]

    return judge


def _closed(schema: dict[str, Any], top: bool = False) -> dict[str, Any]:
    """JSON Schema of a structural one: fields that it does not name are refused, as strict validation does."""
    made = {key: schema[key] for key in ("type", "enum", "pattern", "required", "minimum", "maximum") if key in schema}
    made |= {key: schema[key] for key in ("minLength", "maxLength", "minItems", "maxItems") if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"], **{key: schema[key] for key in ("pattern",) if key in schema}}
    if schema.get("format") in BOUNDS:
        low, high = BOUNDS[schema["format"]]
        made["minimum"], made["maximum"] = max(low, made.get("minimum", low)), min(high, made.get("maximum", high))
    if "properties" in schema:
        made["properties"] = {name: _closed(one) for name, one in schema["properties"].items()}
        made["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _closed(schema["additionalProperties"])
    if "items" in schema:
        made["items"] = _closed(schema["items"])
    if top:
        made["properties"]["metadata"] = {"type": "object"}  # the API server's own, with a schema of its own
    return made


def _defaulted(value: Any, schema: dict[str, Any]) -> Any:
    """Before `required` is looked at, as `minReplicas` is required and has a default."""
    if isinstance(value, dict):
        for name, one in schema.get("properties", {}).items():
            if name not in value and "default" in one:
                value[name] = copy.deepcopy(one["default"])
            if name in value:
                value[name] = _defaulted(value[name], one)
    elif isinstance(value, list):
        return [_defaulted(one, schema.get("items", {})) for one in value]
    return value


def _each(value: Any, schema: dict[str, Any], path: str) -> Iterator[tuple[Any, dict[str, Any], str]]:
    yield value, schema, path
    if isinstance(value, dict):
        for name, one in value.items():
            more = schema.get("additionalProperties")
            below = schema.get("properties", {}).get(name) or (more if isinstance(more, dict) else None)
            if below:
                yield from _each(one, below, f"{path}.{name}")
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _each(one, schema.get("items", {}), f"{path}[{index}]")


def _unique(tree: Any, schema: dict[str, Any], root: str) -> Iterator[str]:
    for value, below, path in _each(tree, schema, root):
        if isinstance(value, list) and below.get("x-kubernetes-list-type") == "map":
            keys = [tuple(one.get(key) for key in below["x-kubernetes-list-map-keys"]) for one in value]
            if len(set(keys)) < len(keys):
                yield f"{path}: the same key twice"


def _cel(tree: Any, schema: dict[str, Any], root: str) -> Iterator[str]:
    import celpy

    environment = celpy.Environment()
    for value, below, path in _each(tree, schema, root):
        for rule in below.get("x-kubernetes-validations", ()):
            if "oldSelf" in rule["rule"]:  # about a change, and there is none
                continue
            program = environment.program(environment.compile(rule["rule"]))
            if not program.evaluate({"self": celpy.json_to_cel(value)}):
                yield f"{path}: {rule.get('message', rule['rule'])}"
