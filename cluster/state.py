"""What is kept on disk of a local cluster, so that a later command finds it again.

`home()/clusters/<name>/` holds `state.json`, the two tokens, the head's log and a lock. Knows nothing
of Ray or of processes: whether a saved cluster still lives is asked elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from cluster.errors import ClusterError, UnauthorisedError
from cluster.files import write_whole

Words = Callable[[str], None]


@dataclass(frozen=True)
class Session:
    """One cluster, as much as a client must know of it; never holds a token, only where it lies."""

    name: str
    address: str  # GCS host:port, for drivers; empty for a foreign cluster
    dashboard_url: str
    http_port: int  # the endpoint's ports, bound once something is deployed
    grpc_port: int
    token_path: str  # Ray's own token; empty: RAY_AUTH_TOKEN(_PATH), if any
    api_token_path: str  # the endpoint's bearer token, one line of plain text
    store: str  # a folder or a pyarrow.fs URI
    pid: int | None = None  # the head's process; None for a foreign cluster
    temp_dir: str = ""
    started_at: float = 0.0  # Unix time, seconds
    ready: bool = True  # False while its `up` still waits for it
    env: dict[str, str] = field(default_factory=dict)  # what the head, and with it every job, was given

    @property
    def token(self) -> str:
        """Ray's token, or an empty string where none is known. Raises UnauthorisedError."""
        if self.token_path:
            return _read(self.token_path, "the cluster's token")
        path = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
        return os.environ.get("RAY_AUTH_TOKEN", "").strip() or (_read(path, "RAY_AUTH_TOKEN_PATH") if path else "")

    @property
    def api_token(self) -> str:
        """The endpoint's first bearer token, the one `up` made. Raises UnauthorisedError."""
        if not self.api_token_path:
            raise UnauthorisedError("the endpoint's token is not known here; set TRIMTAB_TOKEN_FILE to its file")
        words = _read(self.api_token_path, "the endpoint's token").split()
        return words[0] if words else ""


def home() -> Path:
    """`TRIMTAB_HOME` or `~/.trimtab`: clusters' states and tokens, and the default store.

    Raises:
        ClusterError: it cannot be made.
    """
    given = os.environ.get("TRIMTAB_HOME") or "~/.trimtab"
    try:
        path = Path(given).expanduser().absolute()  # a shell leaves a ~ in quotes as it is
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as e:  # RuntimeError: nobody has that home
        problem = f"cannot be made ({getattr(e, 'strerror', None) or e})"
        raise ClusterError("TRIMTAB_HOME", given, problem, "name a writable folder") from e
    return path


def default_store() -> str:
    """`TRIMTAB_STORE` or a folder in `home()`: where datasets and bundles lie unless something else is said."""
    return os.environ.get("TRIMTAB_STORE") or str(home() / "store")


def folder(name: str) -> Path:
    """A cluster's own folder. Raises ClusterError for a bad name or a home that cannot be written."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", name):
        mend = "use up to 32 small letters, digits, - and _"
        raise ClusterError("cluster name", name, "is not a name for a cluster", mend)
    path = home() / "clusters" / name
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as e:
        raise ClusterError("TRIMTAB_HOME", str(home()), f"not writable ({e.strerror})", "name another folder") from e
    return path


def log_path(name: str) -> Path:
    return folder(name) / "head.log"


def save(state: Session) -> None:
    write_private(folder(state.name) / "state.json", json.dumps(asdict(state), indent=1))


def load(name: str) -> Session | None:
    """The saved cluster, whether it lives or not."""
    path = folder(name) / "state.json"
    try:
        saved = json.loads(path.read_text())
        return Session(**{f.name: saved[f.name] for f in fields(Session) if f.name in saved})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):  # not ours: nothing in it can be trusted
        path.unlink(missing_ok=True)
        return None


def forget(name: str) -> None:
    """Remove what belongs to one life of a cluster; the endpoint's token and the log stay."""
    for file in ("state.json", "ray-token"):
        (folder(name) / file).unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, readable by its owner alone."""
    write_whole(path, f"{text}\n".encode(), mode=0o600)


@contextlib.contextmanager
def lock(name: str, on_word: Words) -> Iterator[None]:
    """One `up`, `down` or mending at a time for each cluster; let go when the process ends, however it ends."""
    with (folder(name) / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_word(f"another command is starting or stopping cluster {name}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_locked(name: str) -> bool:
    with (folder(name) / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _read(path: str, what: str) -> str:
    try:
        return Path(path).expanduser().read_text().strip()
    except (OSError, RuntimeError, UnicodeDecodeError) as e:
        why = getattr(e, "strerror", None) or e
        raise UnauthorisedError(f"{what} cannot be read from {path} ({why})") from e
