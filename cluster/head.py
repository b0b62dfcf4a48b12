"""The processes of a local cluster: the command that starts its head, its environment, its end.

`ray start --head --block` runs as a detached child, so SIGTERM to its pid ends that cluster and no
other (`ray stop` would end every cluster of the user). Knows nothing of locks, of other commands, or
of how a caller finds the cluster again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from cluster import state
from cluster.ports import Ports
from cluster.state import Session

# Loopback, but not by the name that Ray replaces with the host's address: a laptop changes that one.
NODE_IP = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
HEAD_ONLY = ("PATH", "TRIMTAB_TEMP_DIR")  # what a driver outside is not given: `end` would take it for the cluster's
_TEMP_PREFIX = "trimtab-"
_MIB = 1024**2
_CHILDREN: list[subprocess.Popen[bytes]] = []  # kept, so that no destructor complains about a head that goes on


def spawn(made: Session, chosen: Ports, num_cpus: int) -> subprocess.Popen[bytes]:
    """Start the head; it inherits the claims on its ports."""
    path = state.log_path(made.name)
    spilled(made.name).mkdir(mode=0o700, exist_ok=True)
    with open(path, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
        head = subprocess.Popen(
            _command(made, chosen, num_cpus),
            env=_base_env() | made.env,
            cwd=state.home(),  # a job starts in the head's folder: never in one that could hide our packages
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[claim.fileno() for claim in chosen.claims],
        )
    _CHILDREN.append(head)
    return head


def _command(made: Session, chosen: Ports, num_cpus: int) -> list[str]:
    flags = {
        "node-ip-address": NODE_IP,
        "port": chosen.single(0),
        "dashboard-host": "127.0.0.1",
        "dashboard-port": chosen.dashboard,
        "dashboard-agent-listen-port": chosen.single(1),
        "dashboard-agent-grpc-port": chosen.single(2),
        "runtime-env-agent-port": chosen.single(3),
        "metrics-export-port": chosen.single(4),
        "node-manager-port": chosen.single(5),
        "object-manager-port": chosen.single(6),
        "ray-client-server-port": chosen.single(7),
        "min-worker-port": chosen.workers[0],
        "max-worker-port": chosen.workers[1],
        "num-cpus": num_cpus,
        "object-store-memory": _object_store_bytes(),
        "temp-dir": f"{made.temp_dir}/ray",
        "object-spilling-directory": spilled(made.name),  # /tmp otherwise, which may be small or memory itself
    }
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    return start + [f"--{flag}={value}" for flag, value in flags.items()]


def _object_store_bytes() -> int:
    """Half of what is free in memory and in shared memory, at most 2 GiB; Ray refuses less than 75 MiB."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError):
        free = min(free, shutil.disk_usage("/dev/shm").free)  # noqa: S108 asked for its size only
    return int(max(100 * _MIB, min(2048 * _MIB, free // 2)))


def address(chosen: Ports) -> str:
    """The GCS, which drivers connect to."""
    return f"{NODE_IP}:{chosen.single(0)}"


def cluster_env(made: Session, chosen: Ports) -> dict[str, str]:
    """All that a head is given beside its caller's environment; jobs, workers and replicas inherit it."""
    shared = driver_env(made) | places_env(f"{made.temp_dir}/ha", chosen)
    return shared | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # A process in Python reads a line of HAProxy's for each request otherwise, a tenth of a request's CPU; replicas
        # count their requests then.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(64 * _MIB),  # 2 GiB otherwise, read before any code of ours runs
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # 30 s for each replica removed otherwise
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",  # the end takes 33 s otherwise
        "RAY_JOB_STOP_WAIT_TIME_S": "10",  # between SIGTERM and SIGKILL: time for a last checkpoint
        "RAY_worker_niceness": "0",  # 15 otherwise, at which any busy process starves the workers
        "TRIMTAB_HOME": str(state.home()),
        "TRIMTAB_CLUSTER": made.name,
        "TRIMTAB_STORE": made.store,
        "TRIMTAB_HTTP_PORT": str(made.http_port),
        "TRIMTAB_GRPC_PORT": str(made.grpc_port),
        "TRIMTAB_TOKEN_FILE": made.api_token_path,
        "TRIMTAB_TEMP_DIR": made.temp_dir,  # the sign by which the cluster's processes are known
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def places_env(folder: str, chosen: Ports) -> dict[str, str]:
    """Files and ports by which two clusters on one machine would meet.

    The folder has mode 0700, as HAProxy opens its admin socket to everyone.
    """
    return {
        # Short names: Serve adds 57 characters and HAProxy takes 97 in all.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(chosen.single(8)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(chosen.single(9)),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(chosen.single(10)),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(chosen.single(11)),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(chosen.ingress_http[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(chosen.ingress_http[1]),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(chosen.ingress_grpc[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(chosen.ingress_grpc[1]),
    }


def driver_env(made: Session) -> dict[str, str]:
    """What a driver needs in its environment before it imports Ray, beside the cluster's own."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": made.token_path,
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",  # or a handle in a synchronous driver finds no event loop
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # report() waits for this poll, 2 s otherwise
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "600",  # a rank that never reports hangs the others for ever otherwise
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # what a worker prints stays as it was printed
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DATA_USAGE_DISABLED": "1",  # its thread asks a Prometheus that is not there, and may fail aloud at the end
    }


def _base_env() -> dict[str, str]:
    """The caller's environment without what ties it to another cluster."""
    other = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_", "RAY_JOB_", "TRIMTAB_ADDRESS")
    return {key: value for key, value in os.environ.items() if not key.startswith(other)}


def spilled(name: str) -> Path:
    """Where a local cluster's objects lie that memory has no room for; in `home()`, as data sets do."""
    return state.folder(name) / "spilled"


def make_temp_dir() -> str:
    """A private folder for sockets and logs; its path is short, as a Unix socket's may have 107 characters."""
    path = tempfile.mkdtemp(prefix=_TEMP_PREFIX, dir="/tmp")  # Ray gets a folder in it, which it opens to everyone
    Path(path, "ha").mkdir(mode=0o700)
    return path


def is_alive(made: Session) -> bool:
    """Whether the pid is still this head: a reused one does not have our folder in its command line.

    Surer than the time the process was made, which shifts when the machine's clock is set.
    """
    for child in _CHILDREN:
        child.poll()  # or a dead head of this process stays a zombie
    try:
        process = psutil.Process(made.pid or -1)
        return process.status() != psutil.STATUS_ZOMBIE and _is_ours(process, made)
    except (psutil.Error, ValueError):
        return False


def end(made: Session, timeout_s: float) -> None:
    """End every process of a cluster, first its head in order, and remove its temporary folder."""
    known = _processes(made)
    if is_alive(made):
        with contextlib.suppress(psutil.Error):
            head = psutil.Process(made.pid)
            head.terminate()
            head.wait(timeout_s)
    left = {process for process in [*known, *_processes(made)] if process.is_running()}
    for stop in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.Error):
                stop(process)
        left = set(psutil.wait_procs(left, timeout=3)[1])
    if Path(made.temp_dir).name.startswith(_TEMP_PREFIX):
        for folder in (Path(made.temp_dir), spilled(made.name)):
            shutil.rmtree(folder, ignore_errors=True)


def _processes(made: Session) -> list[psutil.Process]:
    """This cluster's processes: all that carry its folder's name, and what they started.

    Workers change their command line and a job's driver has its own session, so no one sign is enough.
    """
    found = {process for process in psutil.process_iter() if _is_ours(process, made)}
    for process in list(found):
        with contextlib.suppress(psutil.Error):
            found.update(process.children(recursive=True))
    callers = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in found if process.pid not in callers]


def _is_ours(process: psutil.Process, made: Session) -> bool:
    try:
        if not made.temp_dir or process.uids().real != os.getuid():
            return False
        marked = any(made.temp_dir in word for word in process.cmdline())
        return marked or process.environ().get("TRIMTAB_TEMP_DIR") == made.temp_dir
    except (psutil.Error, OSError):
        return False
