"""Where a command works: its cluster, store and registry, each opened when first needed.

Knows how a command line's `--cluster`, `--address` and `--store` become these; not what is done with them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cluster import session
from cluster.errors import StoreError
from cluster.session import Session
from cluster.state import default_store
from cluster.store import Store
from trimtab.screen import Screen

if TYPE_CHECKING:
    from cluster.registry import Registry


def opened(uri: str) -> Store:
    """The store at a folder or a URI as a person has typed it. Raises StoreError."""
    parts = urlsplit(uri)
    if "://" in uri and parts.scheme != "file" and not parts.netloc:
        raise StoreError("store", uri, "names no bucket", f"write it as {parts.scheme}://bucket/prefix")
    try:
        return Store.open(uri)
    except RuntimeError as error:  # what Path.expanduser raises
        raise StoreError("store", uri, f"is nobody's home ({error})", "write the path out") from error


@dataclass(frozen=True)
class Workspace:
    screen: Screen
    cluster_name: str = "default"
    address: str | None = None
    store_uri: str | None = None

    @cached_property
    def store(self) -> Store:
        """Raises StoreError when the place cannot be written."""
        return opened(self.store_uri or default_store())

    @cached_property
    def registry(self) -> Registry:
        from cluster.registry import Registry

        return Registry.open(self.store)

    def cluster(self) -> Session:
        """The running cluster. Raises ClusterError when there is none."""
        return session.require(self.cluster_name, self.address, on_word=self._word)

    def running_cluster(self) -> Session | None:
        """The running cluster, or None. Raises as `session.find`."""
        return session.find(self.cluster_name, self.address, on_word=self._word)

    def cluster_or_new(self) -> Session:
        """The running cluster, brought up here when there is none."""
        found = self.running_cluster()
        return found if found is not None else self.up()

    def up(self, num_cpus: int | None = None, http_port: int | None = None) -> Session:
        started = time.monotonic()
        made = session.up(
            self.cluster_name, num_cpus=num_cpus, http_port=http_port, store=self.store.uri, on_word=self._word
        )
        _ = self.registry  # its tables take seconds to make: now, not in the middle of a run
        self._word(f"up in {time.monotonic() - started:.1f} s, dashboard {made.dashboard_url}")
        return made

    def _word(self, text: str) -> None:
        self.screen.word("cluster", text)
