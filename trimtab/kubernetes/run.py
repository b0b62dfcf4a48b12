"""`trimtab run FILE --kubernetes`: apply the training, follow it, apply the endpoint, say where it answers.

Level-triggered, so that it may be cut off and started again: a training with the same inputs that runs is followed
again, one that is done is not repeated. Knows the order and what a person hears; the objects come from `render`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

from cluster import progress
from cluster.config import Experiment
from cluster.errors import ClusterError, DataError, DeadlineError, TrimtabError
from cluster.experiment import fingerprint
from jobs import sources
from trimtab.kubernetes import check, manifests, verbs
from trimtab.kubernetes.api import Server
from trimtab.kubernetes.findings import at
from trimtab.kubernetes.pods import Manifest
from trimtab.kubernetes.render import RAY_API, Version
from trimtab.screen import Screen

INPUTS, BUNDLE, NUMBER = "trimtab.dev/inputs", "trimtab.dev/bundle", "trimtab.dev/version"
ENDED = ("Complete", "Failed", "ValidationFailed")
POLL_S, SERVICE_TIMEOUT_S, START_TIMEOUT_S = 2.0, 1200.0, 2400.0
LOG_LINES_SHOWN = 20


def run(experiment: Experiment, screen: Screen, context: str | None, overlay: str | None, dry_run: bool) -> None:
    """Train and serve on the cluster of `context`, or with `dry_run` print what would be applied.

    Raises:
        ClusterError: no cluster, no KubeRay, a Secret that is missing, or objects that KubeRay would refuse.
        TrimtabError: the training failed, in its own words.
        DeadlineError: pods or the endpoint did not come up.
    """
    objects, data = objects_of(experiment, None, overlay), _data(experiment)
    (job,) = _part(objects, "training")
    job["metadata"].setdefault("annotations", {})[INPUTS] = _inputs(experiment, job, data)
    _refuse_findings(objects)
    if dry_run:
        placeholder = Version("KNOWN-AFTER-THE-TRAINING", 0)
        every = objects + _part(objects_of(experiment, placeholder, overlay), "serving", "RayService")
        if screen.as_json:
            screen.json(every)
        else:
            screen.text(manifests.dump(every).rstrip())
        return
    server, say = Server.connect(context), _words(screen)
    _prepare(server, experiment, objects, say)
    with screen:
        version = _train(server, job, screen, sees_data=data is not None)
    served = objects_of(experiment, version, overlay)
    for one in _part(served, "serving") + _part(served, "schedule"):
        server.apply(one)
        say(f"applied {one['kind']} {one['metadata']['name']}")
    _wait_served(server, experiment, version, say)
    screen.record(
        {"model": experiment.name, "version": version.number, "bundle": version.bundle, **_where(experiment, served)}
    )


def objects_of(experiment: Experiment, version: Version | None, overlay: str | None) -> list[Manifest]:
    """What is applied, without the cluster that stays."""
    files = verbs.files(experiment, version, overlay)
    return [one for file in files.values() for one in file if verbs.part(one) != "cluster"]


def _inputs(experiment: Experiment, job: Manifest, data: str | None) -> str:
    shown = experiment.model_dump(mode="json", exclude={"kubernetes", "serve"}, exclude_defaults=True)
    return fingerprint(shown, job["spec"], data)


def _data(experiment: Experiment) -> str | None:
    """What is seen from here of the source's files; None where they lie on the cluster's own volume."""
    source = experiment.data.source
    paths = [value for name, value in source if name in ("path", "test_path", "items") and value]
    if source.kind == "torchvision":
        return source.kind  # a place for downloads, which are always the same
    try:
        return None if any("://" not in path for path in paths) else sources.fingerprint(experiment)
    except DataError:  # nor does this machine reach every bucket that the cluster does
        return None


def _refuse_findings(objects: list[Manifest]) -> None:
    found = check.objects_together(objects)
    if found:
        first = found[0]
        problem = f"{first.path} {first.problem} (and {len(found) - 1} more)" if len(found) > 1 else first.problem
        raise ClusterError("--kubernetes", first.object, problem, first.mend)


def _prepare(server: Server, experiment: Experiment, objects: list[Manifest], say: Callable[[str], None]) -> None:
    settings = experiment.kubernetes
    if server.get("v1", "Namespace", "", settings.namespace) is None:
        server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": settings.namespace}})
        say(f"made namespace {settings.namespace}")
    for name, key in ((settings.tokens_secret, "tokens"), (settings.ray_token_secret, "auth_token")):
        if server.get("v1", "Secret", settings.namespace, name) is None:
            problem = f"is not in namespace {settings.namespace}"
            mend = (
                f"make it: openssl rand -hex 32 | kubectl -n {settings.namespace} create secret generic {name} "
                f"--from-file={key}=/dev/stdin"
            )
            raise ClusterError("secret", name, problem, mend)
    for one in _part(objects, "shared"):
        if one["kind"] == "PersistentVolumeClaim" and server.get(
            "v1", one["kind"], settings.namespace, settings.claim or ""
        ):
            continue  # a claim cannot be changed
        server.apply(one)
    say("applied settings")


def _train(server: Server, job: Manifest, screen: Screen, *, sees_data: bool) -> Version:
    """Until there is a model version: the one of an earlier job with these inputs, or a new one's.

    Where the data cannot be seen a job looks at them each time; what it finds unchanged it does not do again.
    """
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    there = server.get(RAY_API, "RayJob", namespace, name)
    noted = at(there, "metadata.annotations") or {}
    same = noted.get(INPUTS) == job["metadata"]["annotations"][INPUTS]
    if same and sees_data and noted.get(BUNDLE):
        screen.word("kubernetes", f"training skipped: {name} made version {noted[NUMBER]} of the same inputs")
        return Version(noted[BUNDLE], int(noted[NUMBER]))
    if there is not None and (not same or _status(there) in ENDED):
        server.delete(RAY_API, "RayJob", namespace, name)
        _until(lambda: server.get(RAY_API, "RayJob", namespace, name) is None, 300.0, f"RayJob {name} is not gone")
        there = None
    if there is None:
        server.apply(job)
        screen.word("kubernetes", f"applied RayJob {name}")
    else:
        screen.word("kubernetes", f"RayJob {name} runs already; following it")
    version = _Following(server, namespace, name, screen).result()
    noted_job = copy.deepcopy(job)
    noted_job["metadata"]["annotations"] |= {BUNDLE: version.bundle, NUMBER: str(version.number)}
    server.apply(noted_job)
    return version


class _Following:
    """A RayJob from its start to its end, by its status and its submitter's log."""

    def __init__(self, server: Server, namespace: str, name: str, screen: Screen) -> None:
        self._server, self._namespace, self._name, self._screen = server, namespace, name, screen
        self._figures: dict[str, Any] = {}
        self._error: TrimtabError | None = None
        self._tail: list[str] = []

    def result(self) -> Version:
        """Raises what the training raised, or TrimtabError with its last words; of several tries, the last one's."""
        seen: set[str] = set()
        while (pod := self._submitter(seen)) is not None:
            seen.add(pod)
            self._figures, self._error, self._tail = {}, None, []
            for line in self._server.log(self._namespace, pod):
                self._line(line)
        job = _until(self._ended, START_TIMEOUT_S, f"RayJob {self._name} has not ended")
        if self._error is not None:
            raise self._error
        if at(job, "status.jobStatus") != "SUCCEEDED" or "bundle" not in self._figures:
            words = "\n".join(self._tail[-LOG_LINES_SHOWN:]) or at(job, "status.message", "no log")
            reason = at(job, "status.reason") or at(job, "status.jobStatus", "?")
            raise TrimtabError(f"RayJob {self._name} ended as {reason}; its last words:\n{words}")
        return Version(str(self._figures["bundle"]), int(self._figures["version"]))

    def _submitter(self, seen: set[str]) -> str | None:
        """The name of the next pod whose log is the training's, once it has one; None when the job ended before.

        Where `backoffLimit` allows another try, that has a cluster and a pod of its own.
        """
        said = ""

        def found() -> Manifest | None:
            nonlocal said
            job = self._server.get(RAY_API, "RayJob", self._namespace, self._name) or {}
            if _status(job) != said:
                said = _status(job)
                self._screen.word("kubernetes", f"{self._name}: {said or 'waiting for the operator'}")
            pods = self._server.pods(self._namespace, f"job-name={self._name}")
            started = [pod for pod in pods if at(pod, "status.phase") in ("Running", "Succeeded", "Failed")]
            fresh = [pod["metadata"]["name"] for pod in started if pod["metadata"]["name"] not in seen]
            return {"pod": fresh[-1] if fresh else None} if fresh or said in ENDED else None

        made = _until(found, START_TIMEOUT_S, f"RayJob {self._name} has not started; see kubectl describe")
        return str(made["pod"]) if made["pod"] else None

    def _ended(self) -> Manifest | None:
        job = self._server.get(RAY_API, "RayJob", self._namespace, self._name)
        return job if job is not None and _status(job) in ENDED else None

    def _line(self, line: str) -> None:
        event = progress.parse(line)
        if event is None:
            self._tail.append(line)
            del self._tail[:-LOG_LINES_SHOWN]
        elif event.kind == "result":
            self._figures |= event.figures
        elif event.kind == "error":
            self._error = event.exception()
        else:
            self._screen.progress(event.step, event.done, event.total, event.figures)


def _wait_served(server: Server, experiment: Experiment, version: Version, say: Callable[[str], None]) -> None:
    """Until the operator has seen this very RayService and says Ready. Not all its pods are: some have no replica."""
    namespace, name = experiment.kubernetes.namespace, experiment.name
    say(f"waiting for RayService {name} with version {version.number}")

    def ready() -> bool:
        service = server.get(RAY_API, "RayService", namespace, name) or {}
        seen = at(service, "status.observedGeneration", 0) >= at(service, "metadata.generation", 1)
        states = {one.get("type"): one.get("status") for one in at(service, "status.conditions") or ()}
        return seen and states.get("Ready") == "True" and states.get("UpgradeInProgress") != "True"

    _until(ready, SERVICE_TIMEOUT_S, f"RayService {name} is not Ready; see kubectl -n {namespace} describe rayservice")


def _where(experiment: Experiment, objects: list[Manifest]) -> dict[str, str]:
    route = f"{experiment.serve.route.rstrip('/')}/v2/models/{experiment.name}"
    service, namespace = f"{experiment.name}-serve-svc", experiment.kubernetes.namespace
    where = {
        "endpoint": f"http://{service}.{namespace}.svc:8000{route}",
        "from here": f"kubectl -n {namespace} port-forward svc/{service} 8000:8000",
    }
    hosts = [at(rule, "host") for one in objects if one["kind"] == "Ingress" for rule in at(one, "spec.rules") or ()]
    return {**where, **({"public endpoint": f"https://{hosts[0]}{route}"} if hosts else {})}


def _part(objects: list[Manifest], part: str, kind: str = "") -> list[Manifest]:
    return [one for one in objects if verbs.part(one) == part and kind in ("", one["kind"])]


def _status(job: Manifest) -> str:
    return str(at(job, "status.jobDeploymentStatus", ""))


def _until(found: Callable[[], Any], timeout_s: float, words: str) -> Any:
    deadline = time.monotonic() + timeout_s
    while True:
        value = found()
        if value:
            return value
        if time.monotonic() > deadline:
            raise DeadlineError(f"{words} after {timeout_s:.0f} s")
        time.sleep(POLL_S)


def _words(screen: Screen) -> Callable[[str], None]:
    return lambda text: screen.word("kubernetes", text)
