"""The webhook: a client's wish for a retraining, kept until the adaptation actor takes it up. Knows no HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time

from cluster import orders
from cluster.errors import RequestError, StoreError
from cluster.orders import Ask
from cluster.store import Store
from serve.core import refusal

MOST_WAITING = 16  # wishes; all of them are met by one retraining
_log = logging.getLogger(__name__)


class Hook:
    """`closed` says why no wish is taken; nothing where one is."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self.closed = "no version is loaded yet"

    async def ask(self, client: str, request_id: str) -> str:
        """Returns the id of the wish once it is kept; the same request again is the same wish.

        Raises RequestError: 409 where the webhook is closed, 429 where enough wait, 503 where it cannot be kept.
        """
        if self.closed:
            raise refusal(409, "retrain", self._name, self.closed, "switch it on in the experiment file and deploy it")
        name = hashlib.blake2b(f"{client}\0{request_id}".encode(), digest_size=8, person=b"retrain").hexdigest()
        wish = Ask(name, time.time(), f"by client {client}")
        try:
            await asyncio.to_thread(self._keep, wish)
        except StoreError as error:
            _log.error("a wish for a retraining is refused: %s", error)
            message = "the wish cannot be kept just now, and was not; send it again in a minute"
            raise RequestError(503, message, {"retry-after": "60"}) from error
        return name

    def _keep(self, wish: Ask) -> None:
        waiting = {one.id for one in orders.asked(self._store, self._name)}
        if wish.id not in waiting and len(waiting) >= MOST_WAITING:
            raise RequestError(
                429, f"{len(waiting)} wishes wait already; one retraining meets them all", {"retry-after": "60"}
            )
        if wish.id not in waiting:
            orders.ask(self._store, self._name, wish)
