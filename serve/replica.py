"""One replica of an endpoint: a `Core` with HTTP and gRPC in front, told by Serve which version and limits to hold.

A plain class, so that it can be made and called without Serve; `serve.app` wraps it. A new version is a new
`user_config`, loaded beside the old one and swapped in: the replica is never restarted for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import Any

from cluster.config import Serve
from cluster.errors import TrimtabError, UserError
from cluster.store import Store
from ladder.bundle import read_bundle
from serve.auth import VARIABLE, Tokens
from serve.core import Core, Model
from serve.rpc import Rpc
from serve.web import Web

_log = logging.getLogger(__name__)


class Replica(Rpc):
    """Serve calls the methods of `Rpc` on it by their names.

    `user_config` is `{"bundle": key, "version": number, "serve": the experiment's section}`.
    """

    def __init__(self, name: str, store: str) -> None:
        """Raises ClusterError without a token, StoreError when the store cannot be opened."""
        super().__init__(Core(name, Serve()), Tokens.read(os.environ.get(VARIABLE)))
        self._store = Store.open(store)
        self._holds: tuple[str, int] | None = None
        self._latest = Serve()
        self._change: asyncio.Task[None] | None = None  # the latest, kept so that it is not collected

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """The first version is waited for, a later one is loaded while the replica goes on answering.

        Serve takes a replica out of routing until this returns, and ends one in which it raises, so it
        returns at once and never raises when there is a version to go on with. Raises TrimtabError else.
        Limits hold at once; such as allow no rung of the version that answers are refused, unless a version comes
        with them that has some.
        """
        serve = Serve.model_validate(user_config["serve"])
        wanted = (str(user_config["bundle"]), int(user_config["version"]))
        self._latest = serve
        with contextlib.suppress(UserError):  # said in `_swap`, when the version that was meant is there
            self._core.configure(serve)
        if not self._core.is_ready:
            self._core.use(await asyncio.to_thread(self._load, *wanted, serve))
            self._holds = wanted
        else:
            self._change = asyncio.get_running_loop().create_task(self._swap(wanted, serve, self._change))

    async def _swap(self, wanted: tuple[str, int], serve: Serve, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before  # the last word wins, however long the ones before it take to load
        self._core.refused = None
        try:
            if wanted != self._holds:
                self._core.use(await asyncio.to_thread(self._load, *wanted, serve))
                self._holds = wanted
            self._core.configure(self._latest)
        except Exception as error:
            _log.exception("version %d with its limits is refused, what was before goes on", wanted[1])
            reason = str(error) if isinstance(error, TrimtabError) else "the replica's log says why"
            self._core.refused = {"version": wanted[1], "reason": reason}

    def _load(self, bundle: str, version: int, serve: Serve) -> Model:
        return self._core.load(read_bundle(self._store, bundle), version, serve)

    def check_health(self) -> None:
        """Called by Serve on the same loop that answers requests: to be called at all is most of the check."""
        if not self._core.is_ready:
            raise TrimtabError("no model version is loaded")

    def __serve_build_asgi_app__(self) -> Web:
        kind = "haproxy" if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else "proxy"
        return Web(self._core, self._tokens, {"ingress": kind}, sends_request_id=False)
