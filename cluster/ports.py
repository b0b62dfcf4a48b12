"""Free ports for one cluster, held so that two clusters never pick the same.

Some ports are bound long after they are chosen (the endpoint's, when a model is deployed), so a test
for "free now" is not enough. Each choice is therefore also claimed by a socket in Linux' abstract
namespace; the head inherits these sockets and the kernel lets go of them when it dies, however it
dies. Knows nothing of Ray.
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
from dataclasses import dataclass

from cluster.errors import ClusterError

# Blocks lie under the kernel's ephemeral range (32768 on), where any client's socket may sit.
_FIRST_BLOCK, _BLOCK_SIZE, _NUM_BLOCKS = 11_000, 1_000, 21
_NUM_SINGLES, _NUM_INGRESS = 20, 180
_NUM_TRIES = 200


@dataclass(frozen=True)
class Ports:
    """One cluster's ports: three that people see, and a block of 1,000 for Ray's own parts."""

    http: int
    grpc: int
    dashboard: int
    base: int
    claims: tuple[socket.socket, ...]

    def single(self, index: int) -> int:
        """One of the block's ports for a single listener, `index` in 0..19."""
        return self.base + index

    @property
    def ingress_http(self) -> tuple[int, int]:
        return self.base + _NUM_SINGLES, self.base + _NUM_SINGLES + _NUM_INGRESS - 1

    @property
    def ingress_grpc(self) -> tuple[int, int]:
        return self.base + 200, self.base + 200 + _NUM_INGRESS - 1

    @property
    def workers(self) -> tuple[int, int]:
        return self.base + 380, self.base + _BLOCK_SIZE - 1

    def release(self) -> None:
        """Close this process's copies of the claims; the head keeps its own."""
        for claim in self.claims:
            claim.close()


def choose(http: int | None = None) -> Ports:
    """Claim all ports of one cluster; `http` is the endpoint's port when a person asked for one.

    Raises:
        ClusterError: the asked port is taken, or none is left.
    """
    claims: list[socket.socket] = []
    try:
        http_port = _asked(http, claims) if http is not None else _next_free(8000, claims)
        grpc_port = _next_free(9000, claims)
        dashboard = _next_free(8265, claims)
        return Ports(http_port, grpc_port, dashboard, _block(claims), tuple(claims))
    except BaseException:
        for claim in claims:
            claim.close()
        raise


def is_free(port: int) -> bool:
    """Whether nobody listens on `port`, on loopback or on all interfaces."""
    for host in ("127.0.0.1", ""):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # A port whose last connections are still in TIME_WAIT is free: servers bind it with this too.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def _asked(port: int, claims: list[socket.socket]) -> int:
    if not 1 <= port <= 65_535:
        raise ClusterError("--port", port, "is not a port", "choose one from 1024 to 65535")
    if not _take(port, claims):
        mend = "stop what listens there, or choose another port"
        raise ClusterError("--port", port, "this port is taken or needs more rights", mend)
    return port


def _next_free(first: int, claims: list[socket.socket]) -> int:
    for port in range(first, first + _NUM_TRIES):
        if _take(port, claims):
            return port
    raise ClusterError("ports", f"{first}-{first + _NUM_TRIES - 1}", "all are taken", "stop a cluster: trimtab down")


def _block(claims: list[socket.socket]) -> int:
    blocks = random.sample(range(_NUM_BLOCKS), _NUM_BLOCKS)
    for number in blocks:
        base = _FIRST_BLOCK + number * _BLOCK_SIZE
        if all(is_free(base + i) for i in range(_NUM_SINGLES)) and _claim(base, claims):
            return base
    raise ClusterError("ports", "11000-31999", "no free block of 1,000 ports", "stop a cluster: trimtab down")


def _take(port: int, claims: list[socket.socket]) -> bool:
    return is_free(port) and _claim(port, claims)


def _claim(port: int, claims: list[socket.socket]) -> bool:
    if sys.platform != "linux":
        return True  # no abstract namespace: the test for "free now" has to do
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with contextlib.suppress(OSError):
        claim.bind(f"\0trimtab-port-{port}")
        claims.append(claim)
        return True
    claim.close()
    return False
