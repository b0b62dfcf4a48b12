"""What a process shares that runs tests: one cluster with its home and store, and the data sets beside the checkout."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import session
from cluster.session import Session
from cluster.store import Store

# Ray settles how it authenticates when it is first imported, and some test modules import it long before a
# cluster is up. Which token it sends is settled when it connects.
os.environ["RAY_AUTH_MODE"] = "token"

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("TRIMTAB_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A TRIMTAB_HOME for the process: nothing of the user's own is read or touched."""
    path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(path))
        for name in ("TRIMTAB_ADDRESS", "TRIMTAB_CLUSTER", "TRIMTAB_STORE", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        yield path


@pytest.fixture(scope="session")
def cluster(home: Path) -> Iterator[Session]:
    """A real cluster, as `trimtab up` makes it, shared by all tests of the process."""
    made = session.up("tests", num_cpus=6, store=str(home / "store"))
    yield made
    session.down("tests")


@pytest.fixture(scope="session")
def ray_cluster(cluster: Session) -> Iterator[Session]:
    """The shared cluster, with this process as a driver on it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in session.driver_env(cluster).items():
            patch.setenv(name, value)
        session.connect(cluster)
        yield cluster
        import ray

        ray.shutdown()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture(scope="session")
def mnist() -> Path:
    return _data("mnist")


@pytest.fixture(scope="session")
def cifar() -> Path:
    return _data("cifar10_subset")


@pytest.fixture(scope="session")
def phrasebank() -> Path:
    return _data("financial_phrasebank")


@pytest.fixture(scope="session")
def twitter() -> Path:
    return _data("twitter_trace_2021")


@pytest.fixture(scope="session")
def azure() -> Path:
    return _data("azure_llm_trace_2023")


@pytest.fixture(scope="session")
def clinc() -> Path:
    return _data("clinc150")


def _data(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"needs the data set {name} in {DATA}; set TRIMTAB_DATA to the folder that holds it")
    return DATA / name


@pytest.fixture
def trimtab(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, with a home of its own unless `env` says otherwise."""

    def run(
        *arguments: str, env: dict[str, str] | None = None, timeout_s: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("TRIMTAB_", "RAY_"))}
        return subprocess.run(
            [sys.executable, "-m", "trimtab", *arguments],
            env={**clean, "TRIMTAB_HOME": str(tmp_path / "home"), "COLUMNS": "200", **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=ROOT,
        )

    return run


@pytest.fixture
def experiment_file(tmp_path: Path) -> Callable[..., Path]:
    """Write an experiment file: the digits, with what is given on top."""

    def write(**sections: object) -> Path:
        tree = {"name": "digits", "data": {"source": {"kind": "digits"}}, **sections}
        path = tmp_path / "experiment.yaml"
        path.write_text(json.dumps(tree))  # JSON is YAML
        return path

    return write


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of localhost, signed by itself, with its key: a file for a server, and for SSL_CERT_FILE."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.OID_COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path = tmp_path / "certificate.pem"
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return path
