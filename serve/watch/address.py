"""Where a webhook may go: over HTTPS to a host that the experiment lists, and never to a private address unless listed.

The name is resolved here and the connection goes to the address that was checked, so that a name cannot point
elsewhere a moment later. Sends nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from cluster.errors import ConfigError

VARIABLE = "TRIMTAB_WEBHOOK"
PORTS = {"https": 443, "http": 80}


class Unreachable(Exception):
    """The host's name cannot be resolved just now."""


@dataclass(frozen=True)
class Target:
    """A webhook's address that the experiment allows. Its path may be a secret and is never shown."""

    scheme: str
    host: str
    port: int
    path: str  # with the query
    may_be_private: bool

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def allowed(url: str, hosts: Collection[str], private_hosts: Collection[str]) -> Target:
    """Raises ConfigError for an address that is none, or to which nothing may be sent."""
    shown = "(not shown)"
    try:
        parts = urlsplit(url)
        host, port = _host(parts), parts.port
    except ValueError:
        raise ConfigError(VARIABLE, shown, "is no address", "write it as https://host/path") from None
    if parts.scheme not in PORTS or not host:
        raise ConfigError(VARIABLE, shown, "is no HTTPS address", "write it as https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            VARIABLE, shown, "has a user or a password in it", "the signature says who sends; leave it away"
        )
    port = port or PORTS[parts.scheme]
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii() or any(ord(c) <= 32 for c in path):
        raise ConfigError(VARIABLE, shown, "has characters that no address has", "encode them as %20")
    target = Target(parts.scheme, host, port, path, _is_listed(host, port, parts.scheme, private_hosts))
    if not target.may_be_private and not _is_listed(host, port, parts.scheme, hosts):
        raise ConfigError(VARIABLE, str(target), "its host is not allowed", f"add {target.authority} to alerts.hosts")
    if target.scheme != "https" and not target.may_be_private:
        raise ConfigError(VARIABLE, str(target), "is not encrypted", "use https://")
    return target


def resolved(target: Target) -> str:
    """An IP address to connect to. Raises Unreachable, and ConfigError where one of the host's addresses is private."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"{target.host} cannot be resolved ({error})") from None
    addresses = list(dict.fromkeys(str(one[4][0]).partition("%")[0] for one in found))
    if not addresses:
        raise Unreachable(f"{target.host} has no address")
    if not target.may_be_private and any(not is_public(address) for address in addresses):
        mend = "name a public host, or list it under alerts.private_hosts"
        raise ConfigError(VARIABLE, str(target), "leads into a private network", mend)
    return addresses[0]


def is_public(address: str) -> bool:
    """Neither private, loopback, link-local nor reserved, also behind an IPv6 form of an IPv4 address."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is not None:
            return is_public(str(inner))
        if found in ipaddress.ip_network("64:ff9b::/96"):  # NAT64
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
    return found.is_global and not found.is_multicast


def _host(parts: SplitResult) -> str:
    host = (parts.hostname or "").rstrip(".")
    return host if not host or host.isascii() else host.encode("idna").decode()


def _is_listed(host: str, port: int, scheme: str, entries: Collection[str]) -> bool:
    """An entry without a port means the scheme's own."""
    for entry in entries:
        try:
            parts = urlsplit(f"//{entry}")
            if _host(parts) == host and (parts.port or PORTS[scheme]) == port:
                return True
        except ValueError:
            continue
    return False
