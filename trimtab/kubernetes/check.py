"""A linter for manifests with KubeRay's own rules: what an API server admits and the operator then refuses.

Needs no cluster. Reads a folder's objects together, since some mistakes are between two of them: a name that
nothing has, two versions of Ray. Knows nothing of experiments: it checks anybody's manifests.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import DataError, first_line
from trimtab.kubernetes import manifests, overlay
from trimtab.kubernetes.findings import Finding, Said, at, walk
from trimtab.kubernetes.kind_rules import MAX_NAME, cluster_specs, ray_object
from trimtab.kubernetes.pod_rules import pod_rules, pods
from trimtab.kubernetes.pods import Manifest
from trimtab.kubernetes.render import PROVIDED


def folder(path: Path) -> tuple[int, list[Finding]]:
    """Number of objects of a folder and what is wrong with them; a kustomization is built first.

    Raises:
        UserError: what is there is no manifest, or needs more of kustomize than `overlay` knows.
    """
    if (path / overlay.FILE).is_file():
        objects = overlay.build(path)
    else:
        objects = [one for file in manifests.folder(path).values() for one in file]
    return len(objects), objects_together(objects)


def objects_together(objects: list[Manifest]) -> list[Finding]:
    """What is wrong with each object and between them."""
    found: list[Finding] = []
    for one in objects:
        found += [Finding(_title(one), *said) for said in _one(one)]
    found += list(_twice(objects)) + list(_versions(objects)) + list(_references(objects))
    return found


def _title(one: Manifest) -> str:
    return f"{one.get('kind', '?')}/{at(one, 'metadata.name', '?')}"


def _one(one: Manifest) -> Said:
    missing = [field for field in ("apiVersion", "kind", "metadata") if not one.get(field)]
    if missing:
        yield "object", missing[0], "is not set", "write it"
        return
    for path, value in walk(one):
        if value is None:
            yield "null", path, "is null, which server-side apply refuses", "leave the key away"
    if one["kind"] in MAX_NAME and str(one["apiVersion"]).startswith("ray.io/"):
        yield from ray_object(one)
        if one["kind"] == "RayService":
            yield from serve_config(at(one, "spec.serveConfigV2"))
    yield from pod_rules(one)


def serve_config(text: Any) -> Said:
    """Ray's own schema on `serveConfigV2`, which nothing in a cluster checks at admission, and its import paths."""
    path = "spec.serveConfigV2"
    if not isinstance(text, str) or not text.strip():
        yield "serve-config", path, "is empty", "write Serve's configuration as text"
        return
    from ray.serve.schema import ServeDeploySchema

    try:
        (tree,) = manifests.load(text, path)
        schema = ServeDeploySchema.model_validate(tree)
    except (ValueError, DataError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        yield "serve-config", path, f"is refused by Serve: {said[:300]}", "mend it"
        return
    for application in schema.applications:
        module, _, name = application.import_path.rpartition(":")
        try:
            if not hasattr(importlib.import_module(module), name):
                raise ImportError(f"{module} has no {name}")
        except (ImportError, ValueError) as error:
            problem = f"import_path {application.import_path!r} cannot be imported ({first_line(error)})"
            yield "serve-config", path, problem, "name MODULE:OBJECT of the image"


def _twice(objects: list[Manifest]) -> Iterator[Finding]:
    keys = [(_title(one), at(one, "metadata.namespace")) for one in objects]
    for title, _ in sorted({key for key in keys if keys.count(key) > 1}, key=str):
        yield Finding(title, "twice", "metadata.name", "is there twice", "name one of them otherwise")


def _versions(objects: list[Manifest]) -> Iterator[Finding]:
    said = {
        (_title(one), path): spec["rayVersion"]
        for one in objects
        for path, spec in cluster_specs(one)
        if spec.get("rayVersion")
    }
    if len(set(said.values())) > 1:
        (title, path), odd = list(said.items())[-1]
        problem = f"is {odd}, and others say {', '.join(sorted(set(said.values()) - {odd}))}"
        yield Finding(title, "ray-version", f"{path}.rayVersion", problem, "write one version everywhere")


def _references(objects: list[Manifest]) -> Iterator[Finding]:
    """Every ConfigMap, Secret, ServiceAccount and claim that a pod names is in the folder or said to be provided."""
    there = {_title(one) for one in objects} | {"ServiceAccount/default"}
    for one in objects:
        for name, value in (at(one, "metadata.annotations") or {}).items():
            if name.startswith(PROVIDED):
                there |= {word.strip() for word in str(value).split(",")}
    for one in objects:
        for path, wanted in _wanted(one):
            if wanted not in there:
                problem = f"names {wanted}, which is not here"
                yield Finding(_title(one), "reference", path, problem, f"add it, or say so in annotation {PROVIDED}")


def _wanted(one: Manifest) -> Iterator[tuple[str, str]]:
    for path, pod in pods(one):
        for index, volume in enumerate(pod.get("volumes") or ()):
            for kind, way in _VOLUMES.items():
                if at(volume, way) and not at(volume, f"{way.split('.')[0]}.optional"):
                    yield f"{path}.volumes[{index}]", f"{kind}/{at(volume, way)}"
        if pod.get("serviceAccountName"):
            yield f"{path}.serviceAccountName", f"ServiceAccount/{pod['serviceAccountName']}"
    for path, value in walk(one.get("spec") or {}, "spec"):
        if isinstance(value, dict) and not value.get("optional"):
            for field, kind in _SELECTORS.items():
                if field in path.rsplit(".", 1)[-1] and value.get("name"):
                    yield path, f"{kind}/{value['name']}"
    for path, spec in cluster_specs(one):
        if at(spec, "authOptions.secretName"):
            yield f"{path}.authOptions.secretName", f"Secret/{at(spec, 'authOptions.secretName')}"
    if one["kind"] == "Ingress":
        for index, tls in enumerate(at(one, "spec.tls") or ()):
            yield f"spec.tls[{index}].secretName", f"Secret/{tls.get('secretName')}"
        for path, value in walk(one["spec"]):
            if path.endswith("backend.service"):
                yield f"spec.{path}", f"Service/{value.get('name')}"
    for subject in one.get("subjects") or ():
        if subject.get("kind") == "ServiceAccount":
            yield "subjects", f"ServiceAccount/{subject.get('name')}"
    if one["kind"] == "RoleBinding":
        yield "roleRef", f"{at(one, 'roleRef.kind')}/{at(one, 'roleRef.name')}"


_VOLUMES = {
    "ConfigMap": "configMap.name",
    "Secret": "secret.secretName",
    "PersistentVolumeClaim": "persistentVolumeClaim.claimName",
}
_SELECTORS = {
    "configMapRef": "ConfigMap",
    "configMapKeyRef": "ConfigMap",
    "secretRef": "Secret",
    "secretKeyRef": "Secret",
}
