"""The Ray cluster a command works on: started, found, stopped and connected to.

The only `ray.init`; a cluster's environment is set here and in `head`, which knows its processes. A
local cluster outlives the command that started it, one elsewhere is named by its dashboard's URL.
Knows nothing of experiments, models or what runs on the cluster; imports Ray only to connect.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from dataclasses import replace
from typing import Any

from cluster import dashboard, head, ports, state
from cluster.errors import ClusterError, DeadlineError, NotFoundError, TrimtabError
from cluster.state import Session, Words, home

__all__ = ["Session", "connect", "down", "driver_env", "find", "home", "require", "resources", "rest", "status", "up"]

NAMESPACE = "trimtab"
APPLICATIONS = "/api/serve/applications/"  # all of Serve: answers once a head is ready


def up(
    name: str = "default",
    *,
    num_cpus: int | None = None,
    http_port: int | None = None,
    store: str | None = None,
    timeout_s: float = 180.0,
    on_word: Words = lambda _: None,
) -> Session:
    """Start the local cluster `name`, or return it when it already runs; blocks until it answers.

    `num_cpus` is logical (default: the machine's, at least 4); `http_port` is the endpoint's (default:
    8000, or the next that is free); `store` defaults to TRIMTAB_STORE, then to a folder in `home()`.

    Raises:
        ClusterError: the asked port is taken, or the head could not start.
        DeadlineError: the head did not answer within `timeout_s`.
    """
    if num_cpus is not None and num_cpus < 1:
        raise ClusterError("--num-cpus", num_cpus, "a cluster needs a CPU", "give 1 or more, or leave it away")
    with state.lock(name, on_word):
        running = _mend(name, on_word)
        if running is not None:
            for asked, has in ((http_port, running.http_port), (store, running.store)):
                if asked not in (None, has):
                    on_word(f"cluster {name} already runs with {has}; for {asked}: trimtab down, then trimtab up")
            return running
        try:
            return _start(name, num_cpus, http_port, store, timeout_s)
        except _HeadEnded:
            on_word("Ray's head ended while starting; trying once more")
        try:
            return _start(name, num_cpus, http_port, store, timeout_s)
        except _HeadEnded as e:
            problem = f"Ray's head ended while starting ({e}): the machine is overloaded or short of memory"
            raise ClusterError("cluster", name, problem, f"try again later, or read {state.log_path(name)}") from e


class _HeadEnded(Exception):
    pass


def _start(name: str, num_cpus: int | None, http_port: int | None, store: str | None, timeout_s: float) -> Session:
    chosen = ports.choose(http_port)
    made = _draft(name, chosen, store)
    try:
        process = head.spawn(made, chosen, num_cpus or max(4, os.cpu_count() or 1))
        made = replace(made, pid=process.pid)
        state.save(made)  # before it is ready, so that a killed `up` leaves no orphan
        _wait_ready(made, process, timeout_s)
        made = replace(made, ready=True)
        state.save(made)
    except BaseException:  # Ctrl-C too: nothing half-started stays
        _remove(made)
        raise
    finally:
        chosen.release()
    return made


def _draft(name: str, chosen: ports.Ports, store: str | None) -> Session:
    folder = state.folder(name)
    state.write_private(folder / "ray-token", secrets.token_hex(32))
    if not (folder / "api-token").exists():  # kept from one life to the next: it is pasted into clients
        state.write_private(folder / "api-token", secrets.token_urlsafe(32))
    made = Session(
        name=name,
        address=head.address(chosen),
        dashboard_url=f"http://127.0.0.1:{chosen.dashboard}",
        http_port=chosen.http,
        grpc_port=chosen.grpc,
        token_path=str(folder / "ray-token"),
        api_token_path=str(folder / "api-token"),
        store=store or state.default_store(),
        temp_dir=head.make_temp_dir(),
        started_at=time.time(),
        ready=False,
    )
    return replace(made, env=head.cluster_env(made, chosen))


def _wait_ready(made: Session, process: subprocess.Popen[bytes], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            lines = state.log_path(made.name).read_text(errors="replace").split("\n")
            raise _HeadEnded(next((line.strip()[:200] for line in reversed(lines) if line.strip()), "no output"))
        with contextlib.suppress(TrimtabError):  # refused, then 500 while Serve's module starts
            rest(made, "GET", APPLICATIONS, timeout_s=5.0)
            return
        time.sleep(0.1)
    raise DeadlineError(
        f"cluster {made.name} did not answer within {timeout_s:.0f} s, the machine is overloaded: "
        f"try again later, or read {state.log_path(made.name)}"
    )


def find(name: str | None = None, address: str | None = None, on_word: Words = lambda _: None) -> Session | None:
    """The cluster to work on, or None when the local one does not run.

    `address`, or the environment's TRIMTAB_ADDRESS, is the dashboard URL of a cluster elsewhere and wins.
    Otherwise the local cluster `name` (default: TRIMTAB_CLUSTER, which jobs inherit, or "default"); what
    is left of one that died is cleared away, with a word.

    Raises:
        ClusterError: nothing answers at `address`.
        UnauthorisedError: the cluster at `address` refused the token.
    """
    field = "--address" if address else "TRIMTAB_ADDRESS"
    address = address or os.environ.get("TRIMTAB_ADDRESS")
    if address:
        return _find_foreign(address, field)
    name = _named(name)
    saved = state.load(name)
    if saved is None or (not saved.ready and state.is_locked(name)):
        return None
    if saved.ready and not _why_stale(saved):
        return saved
    with state.lock(name, on_word):
        return _mend(name, on_word)


def require(name: str | None = None, address: str | None = None, on_word: Words = lambda _: None) -> Session:
    """As `find`; raises ClusterError with the mend when there is none."""
    found = find(name, address, on_word)
    if found is None:
        raise ClusterError("cluster", _named(name), "does not run", "start it: trimtab up")
    return found


def down(name: str = "default", *, timeout_s: float = 30.0, on_word: Words = lambda _: None) -> bool:
    """Stop the local cluster `name` and no other; False when there was none.

    The head ends its own processes within `timeout_s`; what is left then is killed.
    """
    with state.lock(name, on_word):
        saved = state.load(name)
        if saved is None:
            return False
        was_alive = head.is_alive(saved)
        _remove(saved, timeout_s)
        return was_alive


def _named(name: str | None) -> str:
    return name or os.environ.get("TRIMTAB_CLUSTER") or "default"


def _find_foreign(address: str, field: str) -> Session:
    found = Session(
        name="(elsewhere)",
        address="",
        dashboard_url=address.rstrip("/"),
        http_port=_env_port("TRIMTAB_HTTP_PORT", 8000),
        grpc_port=_env_port("TRIMTAB_GRPC_PORT", 9000),
        token_path="",
        api_token_path=os.environ.get("TRIMTAB_TOKEN_FILE", ""),
        store=state.default_store(),
    )
    try:
        is_ray = _is_ray(found, timeout_s=10.0)
    except ClusterError as e:
        raise ClusterError(field, address, e.problem, f"{e.mend}, or start one here: trimtab up") from e
    if not is_ray:
        mend = "give a Ray dashboard's URL, such as http://host:8265"
        raise ClusterError(field, address, "something else than a Ray cluster answers there", mend)
    return found


def _env_port(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise ClusterError(variable, text, "is not a port", "set it to a number from 1 to 65535, or unset it")
    return int(text)


def _mend(name: str, on_word: Words) -> Session | None:
    """For the holder of the lock: the running cluster, after clearing what a dead one left."""
    saved = state.load(name)
    if saved is None:
        return None
    why = _why_stale(saved) if saved.ready else "its start was cut short"
    if not why:
        return saved
    on_word(f"cluster {name} is gone ({why}); clearing what it left")
    _remove(saved)
    return None


def _why_stale(saved: Session) -> str:
    """Why a saved cluster is no longer one, or an empty string."""
    if not head.is_alive(saved):
        return "its process has ended"
    try:
        is_ray = _is_ray(saved, timeout_s=5.0)
    except TrimtabError:
        return ""  # a wrong token is said where it is used; a busy dashboard, silent or with a 5xx, is not a dead one
    return "" if is_ray else f"something else answers at {saved.dashboard_url}"


def _is_ray(found: Session, timeout_s: float) -> bool:
    try:
        version = rest(found, "GET", "/api/version", timeout_s=timeout_s)
    except NotFoundError:
        return False
    return isinstance(version, dict) and "ray_version" in version


def _remove(made: Session, timeout_s: float = 20.0) -> None:
    head.end(made, timeout_s)
    state.forget(made.name)


def driver_env(session: Session) -> dict[str, str]:
    """What a process must have in its environment before `import ray` to be a driver on `session`."""
    own = {name: value for name, value in session.env.items() if name not in head.HEAD_ONLY}
    return own | head.driver_env(session) | {"RAY_ADDRESS": session.address}


def connect(session: Session | None = None) -> None:
    """Make this process a driver, quietly; does nothing when it already is one.

    In a job, Ray Jobs has set the address and the head's environment is inherited. Elsewhere this sets
    the environment, which Ray reads at import: call it before anything imports `ray.serve` or `ray.train`.

    Raises:
        ClusterError: no cluster runs, or it is one elsewhere, on which only jobs can be drivers.
    """
    if session is not None or "RAY_ADDRESS" not in os.environ:
        session = session or require()
        if not session.address:
            problem = "only jobs can work on a cluster elsewhere"
            raise ClusterError("cluster", session.dashboard_url, problem, "leave --inline away")
        os.environ.pop("RAY_AUTH_TOKEN", None)  # would win over the path
        os.environ.update(driver_env(session))
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(namespace=NAMESPACE, logging_level="ERROR", log_to_driver=False)
    except ConnectionError as e:
        address = os.environ["RAY_ADDRESS"]
        raise ClusterError("cluster", address, "does not answer", "see: trimtab status") from e


def status(name: str | None = None, address: str | None = None) -> dict[str, Any]:
    """What runs, for a person or as JSON; `{"name", "running": False}` when nothing does. REST only."""
    session = find(name, address)
    if session is None:
        return {"name": _named(name), "running": False}
    applications = rest(session, "GET", APPLICATIONS).get("applications", {})
    jobs = rest(session, "GET", "/api/jobs/")
    return {
        "name": session.name,
        "running": True,
        "dashboard": session.dashboard_url,
        "http_port": session.http_port,
        "grpc_port": session.grpc_port,
        "store": session.store,
        "pid": session.pid,
        "uptime_s": round(time.time() - session.started_at, 1) if session.started_at else None,
        "nodes": [_node(node) for node in nodes(session)],
        "applications": {name: _application(details) for name, details in applications.items()},
        "jobs": [{"job": job["submission_id"], "status": job["status"]} for job in jobs if job.get("submission_id")],
    }


def nodes(session: Session) -> list[dict[str, Any]]:
    """What Ray says of each node that is or was there: `node_id`, `node_ip`, `state`, `resources_total` and more."""
    found: list[dict[str, Any]] = rest(session, "GET", "/api/v0/nodes?detail=1")["data"]["result"]["result"]
    return found


def resources(session: Session) -> dict[str, float]:
    """What the nodes that are alive have of each kind together, whoever holds it now: CPU, GPU, memory in bytes."""
    found: dict[str, float] = {}
    for node in nodes(session):
        if node["state"] == "ALIVE":
            for kind, number in _node(node)["resources"].items():
                found[kind] = found.get(kind, 0.0) + number
    return found


def _node(node: dict[str, Any]) -> dict[str, Any]:
    resources = {k: v for k, v in (node.get("resources_total") or {}).items() if not k.startswith("node:")}
    return {"ip": node["node_ip"], "state": node["state"], "resources": resources}


def _application(details: dict[str, Any]) -> dict[str, Any]:
    deployments = {
        name: {"status": one["status"], "replicas": [replica["state"] for replica in one.get("replicas", [])]}
        for name, one in details.get("deployments", {}).items()
    }
    return {"status": details["status"], "route": details.get("route_prefix"), "deployments": deployments}


def rest(session: Session, method: str, path: str, body: object = None, *, timeout_s: float = 30.0) -> Any:
    """One call to the cluster's dashboard; see `dashboard.call` for what it returns and raises."""
    mend = "see: trimtab status; start anew: trimtab down, then trimtab up" if session.pid else ""
    return dashboard.call(session.dashboard_url, session.token, method, path, body, timeout_s=timeout_s, mend=mend)
