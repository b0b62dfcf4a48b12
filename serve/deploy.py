"""The client's side of an endpoint: deploy a version, take an endpoint away, ask for an answer.

Works by Serve's REST interface alone and never imports Ray, so a command needs no connection to the cluster
but its dashboard. Serve's own words become one sentence here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cluster.config import Experiment, Serve
from cluster.errors import (
    ClusterError,
    ConfigError,
    DeadlineError,
    NotFoundError,
    TrimtabError,
    UnauthorisedError,
    UserError,
)
from cluster.session import APPLICATIONS, Session, resources, rest
from ladder.bundle import Bundle
from ladder.choose import Rung
from ladder.latency import Latency
from ladder.opening import executable
from serve import code, standing
from serve.adapt.bounds import TODAY, impossible
from serve.ladder import check_served
from serve.presence import DEPLOYMENT
from tasks import own
from tasks.task import code_version

if TYPE_CHECKING:
    import httpx

IMPORT_PATH = "serve.app:build"
GRPC_SERVICES = ("serve.oip.service.add_to_server", "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server")
POLL_S = 0.1
MAX_ASKED = 20  # times in a row that the new version must answer

Words = Callable[[str], None]


class DeployError(TrimtabError):
    """A version that Serve or the replica could not start."""


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint; `url` is its model's, to which `/predict` and `/infer` are added."""

    url: str
    name: str
    version: int
    bundle: str
    in_place: bool  # no replica was started or restarted
    seconds: float


def deploy(
    session: Session, bundle: Bundle, version: int, *, timeout_s: float = 300.0, on_word: Words = lambda _: None
) -> Endpoint:
    """Serve `bundle` as `version`, with the serve section its experiment carries; blocks until it answers.

    Where the endpoint runs already, only the version and the limits change: replicas load the new version
    beside the old one and swap. An endpoint that worked goes on with what it had when this fails.

    Raises:
        ConfigError: another experiment has the route, `serve.rungs` names a rung that the version has not, no
            rung reaches `serve.objective.accuracy_at_least`, or none answers within `latency_ms` even alone.
        DeployError: the version could not be started, in one sentence.
        DeadlineError: it does not answer within `timeout_s`; it may still come up.
    """
    started = time.monotonic()
    check_served(bundle)
    _check_possible(bundle)
    wanted = application(bundle, version, session.dashboard_url, own.ship(bundle.experiment, bundle.store))
    with _alone(session):
        before = _configs(session)
        _check_route(bundle.experiment, before)
        previous = before.get(bundle.name)
        _keep_replicas(wanted, previous, bundle.experiment)
        told = _standing_in(wanted, previous)
        in_place = previous is not None and _restarting(previous) == _restarting(wanted)
        on_word(f"version {version} into the running endpoint" if in_place else f"starting version {version}")
        _put(session, {**before, bundle.name: wanted})
    _wait(session, bundle, version, previous, wanted, started + timeout_s)
    standing.keep(bundle.store, bundle.name, told)
    took_s = time.monotonic() - started
    return Endpoint(url(session, bundle.experiment), bundle.name, version, bundle.key, in_place, took_s)


def replace(session: Session, bundle: Bundle, version: int, *, timeout_s: float = 300.0) -> None:
    """Put `version` in the place of the one that its endpoint serves, whose settings stay; blocks until it answers.

    No replica is started or restarted, and one that holds the version already loads nothing.

    Raises:
        NotFoundError: there is no such endpoint.
        ConfigError: the endpoint's settings allow no rung of the version, or promise what none of them can keep.
        DeployError, DeadlineError: as `deploy`.
    """
    deadline = time.monotonic() + timeout_s
    with _alone(session):
        before = _configs(session)
        previous = before.get(bundle.name)
        if previous is None:
            raise NotFoundError(f"no endpoint {bundle.name!r}; deploy it: trimtab deploy")
        (deployment,) = previous["deployments"]
        before_it = deployment["user_config"]
        told = standing.replacing(before_it, before_it | {"bundle": bundle.key, "version": version})
        today = bundle.experiment.model_copy(update={"serve": Serve.model_validate(told["serve"])})
        served = dataclasses.replace(bundle, experiment=today)
        check_served(served)
        _check_possible(served)
        wanted = previous | {"deployments": [deployment | {"user_config": told}]}
        _put(session, {**before, bundle.name: wanted})
    _wait(session, served, version, previous, wanted, deadline)
    standing.keep(bundle.store, bundle.name, told)


def _wait(
    session: Session,
    bundle: Bundle,
    version: int,
    previous: dict[str, Any] | None,
    wanted: dict[str, Any],
    deadline: float,
) -> None:
    """Until the version answers; where it cannot be started, what was there before is put again.

    Not where somebody has deployed another one meanwhile.
    """
    try:
        _wait_running(session, bundle.name, deadline)
        _wait_version(session, bundle, version, deadline)
    except DeployError:
        with _alone(session):
            present = _configs(session)
            others = {name: config for name, config in present.items() if name != bundle.name}
            if _told(present.get(bundle.name)) == _told(wanted):
                _put(session, others | ({bundle.name: previous} if previous else {}))
        raise


def _told(config: dict[str, Any] | None) -> Any:
    """What an application's replicas are told, its version among it."""
    return config and [deployment.get("user_config") for deployment in config["deployments"]]


def serving(session: Session, name: str) -> tuple[int | None, str]:
    """The version that the endpoint `name` was told to serve, and its route. Raises UserError as `undeploy`."""
    return _serving(_configs(session), name)


def undeploy(session: Session, name: str, *, timeout_s: float = 60.0) -> tuple[int | None, str]:
    """Take the endpoint `name` away, its replicas and its adaptation actor; others stay. Returns what it served.

    Raises:
        UserError: there is no such endpoint; it names those there are.
        DeadlineError: it is still stopping after `timeout_s`; it will be gone.
    """
    deadline = time.monotonic() + timeout_s
    with _alone(session):
        configs = _configs(session)
        served = _serving(configs, name)
        _put(session, {other: config for other, config in configs.items() if other != name})
    while name in _details(session):
        if time.monotonic() > deadline:
            raise DeadlineError(f"endpoint {name} is still stopping after {timeout_s:.0f} s; see trimtab status")
        time.sleep(POLL_S)
    return served


def _serving(configs: dict[str, dict[str, Any]], name: str) -> tuple[int | None, str]:
    if name not in configs:
        known = ", ".join(sorted(configs)) or "none"
        raise UserError("NAME", name, "is no endpoint of this cluster", f"endpoints there are: {known}")
    deployment = (configs[name].get("deployments") or [{}])[0]
    version = (deployment.get("user_config") or {}).get("version")  # somebody else's application has none
    return version, str(configs[name].get("route_prefix", "/"))


def url(session: Session, experiment: Experiment) -> str:
    """Where the experiment's model answers on this cluster, deployed or not."""
    host = urlsplit(session.dashboard_url).hostname
    return f"http://{host}:{session.http_port}{_route(experiment).rstrip('/')}/v2/models/{experiment.name}"


def predict(model_url: str, token: str, body: bytes, content_type: str, *, timeout_s: float = 60.0) -> dict[str, Any]:
    """The endpoint's answer to one body.

    Raises:
        UserError: it refused the body.
        UnauthorisedError, NotFoundError, DeadlineError: it refused the token, knows no such model, or was late.
        ClusterError: nothing answers there.
        TrimtabError: it failed.
    """
    headers = {"content-type": content_type, "x-request-timeout-seconds": str(timeout_s)}
    response = _ask("POST", f"{model_url}/predict", token, timeout_s, headers=headers, content=body)
    if response.status_code == 200:
        answer: dict[str, Any] = response.json()
        return answer
    raise _refusal(response, model_url, "INPUT", f"{len(body)} bytes of {content_type}")


def feedback(model_url: str, token: str, body: bytes, *, timeout_s: float = 60.0) -> int:
    """Bring words of feedback in JSON; returns how many were accepted. Raises as `predict` does."""
    headers = {"content-type": "application/json"}
    response = _ask("POST", f"{model_url}/feedback", token, timeout_s, headers=headers, content=body)
    if response.status_code != 202:
        raise _refusal(response, model_url, "WORDS", f"{len(body)} bytes")
    return int(response.json()["accepted"])


def _refusal(response: httpx.Response, model_url: str, field: str, value: str) -> TrimtabError:
    message = _error(response)
    if response.status_code in (400, 413, 415, 422):
        problem, _, mend = message.rpartition("; ")
        return UserError(field, value, f"refused ({problem or message})", mend)
    known: dict[int, type[TrimtabError]] = {
        401: UnauthorisedError,
        403: UnauthorisedError,
        404: NotFoundError,
        408: DeadlineError,
        504: DeadlineError,
    }
    return known.get(response.status_code, TrimtabError)(f"{model_url}: {message}")


def application(
    bundle: Bundle, version: int, dashboard: str = "", environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Serve's configuration of one endpoint, as its REST interface and a RayService take it.

    `dashboard` is where the adaptation actor finds that interface on a cluster that `trimtab up` did not start;
    `environment` what replicas have in theirs beside the cluster's own: where the code of one's own task is.
    """
    experiment, serve, adapt = bundle.experiment, bundle.experiment.serve, bundle.experiment.adapt
    replicas = serve.replicas
    sections = {name: getattr(experiment, name).model_dump(mode="json") for name in TODAY}
    gpus = {"num_gpus": serve.gpus_per_replica} if serve.gpus_per_replica else {}
    deployment: dict[str, Any] = {
        "name": DEPLOYMENT,
        "user_config": {"bundle": bundle.key, "version": version, **sections},
        "ray_actor_options": {"num_cpus": serve.cpus_per_replica, **gpus},
        # More than the replica's own queue holds, so that it is the replica that answers 429.
        "max_ongoing_requests": serve.max_queue + serve.max_batch + 1024,
    }
    if adapt.enabled or replicas.min == replicas.max:
        deployment["num_replicas"] = replicas.min
    else:
        deployment["autoscaling_config"] = {
            "min_replicas": replicas.min,
            "max_replicas": replicas.max,
            "target_ongoing_requests": serve.max_batch,
        }
    serving_code = code_version(experiment, *code.modules())
    return {
        **({"runtime_env": {"env_vars": dict(environment)}} if environment else {}),
        "name": bundle.name,
        "route_prefix": _route(experiment),
        "import_path": IMPORT_PATH,
        "args": {
            "name": bundle.name,
            "store": bundle.store.uri,
            "code": serving_code,
            "adapt": adapt.enabled,
            "dashboard": dashboard,
        },
        "external_scaler_enabled": adapt.enabled,
        "deployments": [deployment],
    }


def grpc_options(port: int) -> dict[str, Any]:
    """Serve's configuration of gRPC, as its REST interface and a RayService take it."""
    # Reflection would answer anyone, past our tokens.
    return {"port": port, "grpc_servicer_functions": list(GRPC_SERVICES), "enable_reflection": False}


def _route(experiment: Experiment) -> str:
    return experiment.serve.route.rstrip("/") or "/"


def check_place(session: Session, experiment: Experiment) -> None:
    """Whether the cluster has a place for the experiment's endpoint: to be asked before hours of training.

    Raises:
        ConfigError: another endpoint has its route, or its replicas have no room beside those of the others.
    """
    configs = _configs(session)
    _check_route(experiment, configs)
    if session.pid:  # one elsewhere may get more nodes when it is asked for them
        serve, others = experiment.serve, [config for name, config in configs.items() if name != experiment.name]
        has = resources(session)
        for kind, field, each in (
            ("CPU", "cpus_per_replica", serve.cpus_per_replica),
            ("GPU", "gpus_per_replica", serve.gpus_per_replica),
        ):
            held = sum(_reserved(config, kind) for config in others)
            _check_room(kind, field, each, serve.replicas.min, has.get(kind, 0.0), held)


def _check_route(experiment: Experiment, configs: dict[str, dict[str, Any]]) -> None:
    for name, config in configs.items():
        if name != experiment.name and config.get("route_prefix", "/") == _route(experiment):
            problem = f"is taken by the endpoint {name} of this cluster"
            mend = f"set another one, for example /{experiment.name}, or take {name} away: trimtab undeploy {name}"
            raise ConfigError("serve.route", experiment.serve.route, problem, mend)


def _check_room(kind: str, field: str, each: float, num: int, has: float, held: float) -> None:
    """Of all that the cluster has of a kind, whatever uses it now: a training ends, endpoints stay."""
    if each * num > has - held + 1e-6:
        problem = f"replicas.min {num} of them need {each * num:g} {kind}s, and the cluster has {has:g}"
        other = f", of which other endpoints hold {held:g}" if held else ""
        mend = f"lower one of the two, take an endpoint away (trimtab undeploy), or use a cluster with more {kind}s"
        raise ConfigError(f"serve.{field}", each, problem + other, mend)


def _reserved(config: dict[str, Any], kind: str) -> float:
    """What an application's replicas hold of a kind, those at least that scale by load."""
    num, option, default = 0.0, f"num_{kind.lower()}s", 1.0 if kind == "CPU" else 0.0
    for deployment in config.get("deployments", ()):
        least = deployment.get("autoscaling_config", {}).get("min_replicas", 1)
        num += deployment.get("ray_actor_options", {}).get(option, default) * deployment.get("num_replicas", least)
    return num


def _check_possible(bundle: Bundle) -> None:
    """By the times that were measured when the ladder was made; a bundle without them says nothing."""
    variants = executable(bundle)
    table = [entry for entry in (bundle.ladder or {}).get("rungs", ()) if entry["variant"] in variants]
    if not table or not all("latency" in entry for entry in table):
        return
    rungs = [Rung(entry["variant"], entry["accuracy"], Latency.from_json(entry["latency"])) for entry in table]
    if error := impossible(bundle.experiment, rungs):
        raise error


def _keep_replicas(wanted: dict[str, Any], previous: dict[str, Any] | None, experiment: Experiment) -> None:
    """As many as run now, within the bounds of today: a new version is no reason to begin with the fewest."""
    (deployment,) = wanted["deployments"]
    has = (previous or {}).get("deployments", [{}])[0].get("num_replicas")
    if "num_replicas" in deployment and isinstance(has, int):
        bounds = experiment.serve.replicas
        deployment["num_replicas"] = min(max(has, bounds.min), bounds.max)


def _standing_in(wanted: dict[str, Any], previous: dict[str, Any] | None) -> dict[str, Any]:
    """The `user_config` that is wanted, which says from now on what it has replaced."""
    (deployment,) = wanted["deployments"]
    for before in (previous or {}).get("deployments", ()):
        deployment["user_config"] = standing.replacing(before["user_config"], deployment["user_config"])
    told: dict[str, Any] = deployment["user_config"]
    return told


def _restarting(config: dict[str, Any]) -> tuple[Any, ...]:
    """The part of a configuration whose change makes Serve start new replicas."""
    deployment = (config.get("deployments") or [{}])[0]
    is_autoscaled = "autoscaling_config" in deployment
    environment = config.get("runtime_env") or {}
    return config["import_path"], config.get("args"), environment, deployment.get("ray_actor_options"), is_autoscaled


# Serve's REST interface


def _details(session: Session) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = rest(session, "GET", APPLICATIONS).get("applications") or {}
    return found


def _configs(session: Session) -> dict[str, dict[str, Any]]:
    """What was put for each application, without those that are going: to name one of them would bring it back.

    An application that somebody runs from Python has no configuration, and Serve leaves it as it is.
    """
    found = {name: details for name, details in _details(session).items() if details.get("status") != "DELETING"}
    configs = {name: details.get("deployed_app_config") for name, details in found.items()}
    put = {name: config for name, config in configs.items() if config and config.get("import_path")}
    return {name: _as_scaled(config, found[name]) for name, config in put.items()}


def _as_scaled(config: dict[str, Any], details: dict[str, Any]) -> dict[str, Any]:
    """With the number of replicas that the actor has ordered since: to put the first one again would undo that."""
    if not config.get("external_scaler_enabled"):
        return config
    now = details.get("deployments") or {}
    deployments = [
        {**one, "num_replicas": now[one["name"]]["target_num_replicas"]} if one["name"] in now else one
        for one in config["deployments"]
    ]
    return {**config, "deployments": deployments}


def _put(session: Session, configs: dict[str, dict[str, Any]]) -> None:
    # One call states all applications: one that is left out is deleted. Serve reads the HTTP and gRPC options only
    # when it starts, with its first application.
    body = {
        "proxy_location": "HeadOnly" if session.pid else "EveryNode",
        "http_options": {"host": "127.0.0.1" if session.pid else "0.0.0.0", "port": session.http_port},  # noqa: S104
        "grpc_options": grpc_options(session.grpc_port),
        "applications": list(configs.values()),
    }
    rest(session, "PUT", APPLICATIONS, body, timeout_s=60.0)


def _wait_running(session: Session, name: str, deadline: float) -> None:
    details: dict[str, Any] = {}
    while True:
        with contextlib.suppress(ClusterError):  # a dashboard on a busy machine may be late once
            details = _details(session).get(name, {})
        status = details.get("status", "missing")
        if status == "RUNNING":
            return
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise DeployError(f"endpoint {name} could not be started: {_reason(details)}")
        if time.monotonic() > deadline:
            raise DeadlineError(f"endpoint {name} is still {status} ({_reason(details)}); see trimtab status")
        time.sleep(POLL_S)


def _reason(details: dict[str, Any]) -> str:
    """The last line of Serve's message that says why: it often holds a traceback or two."""
    deployments = details.get("deployments", {}).values()
    messages = [str(deployment.get("message", "")) for deployment in deployments] + [str(details.get("message", ""))]
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if line.split(": ")[0].endswith(("Error", "Exception")) and ": " in line]
    if errors:
        return errors[-1].partition(": ")[2]
    return lines[0] if lines else "Serve gives no reason"


def _wait_version(session: Session, bundle: Bundle, version: int, deadline: float) -> None:
    """Until each replica has the version: HAProxy gives every new connection to the one with the fewest."""
    model_url, num_right = url(session, bundle.experiment), 0
    while num_right < min(MAX_ASKED, 2 * bundle.experiment.serve.replicas.min - 1):
        found = _metadata(session, model_url)
        refused = found.get("parameters", {}).get("refused") or {}
        if refused.get("version") == version:
            raise DeployError(f"version {version} was not loaded, the one before goes on: {refused['reason']}")
        if found.get("versions") == [str(version)]:
            num_right += 1
            continue
        num_right = 0
        if time.monotonic() > deadline:
            raise DeadlineError(f"{model_url} does not answer with version {version}; see trimtab status")
        time.sleep(POLL_S)


def _metadata(session: Session, model_url: str) -> dict[str, Any]:
    """What the model says about itself, or nothing while the way to it is still being laid."""
    try:
        response = _ask("GET", model_url, session.api_token, 10.0)
        found: dict[str, Any] = response.json() if response.status_code == 200 else {}
    except (ClusterError, DeadlineError, json.JSONDecodeError):
        return {}
    if response.status_code == 401:
        raise UnauthorisedError(f"{model_url}: {_error(response)}")
    return found


@contextlib.contextmanager
def _alone(session: Session) -> Iterator[None]:
    """One change of a local cluster's applications at a time: each states them all."""
    if not session.pid:
        yield
        return
    with Path(session.api_token_path).with_name("deploy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# The endpoint


def _ask(method: str, address: str, token: str, timeout_s: float, **more: Any) -> httpx.Response:
    import httpx

    headers = {"authorization": f"Bearer {token}", **more.pop("headers", {})}
    try:
        # No proxy from the environment may come between a command and the cluster.
        with httpx.Client(timeout=timeout_s + 1.0, trust_env=False) as client:
            return client.request(method, address, headers=headers, **more)
    except httpx.TimeoutException as error:
        raise DeadlineError(f"{address} did not answer within {timeout_s:.0f} s") from error
    except httpx.HTTPError as error:
        mend = "deploy it: trimtab deploy, or see trimtab status"
        raise ClusterError("endpoint", address, f"does not answer ({error})", mend) from error


def _error(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"answered {response.status_code}: {response.text.strip()[:200]}"
