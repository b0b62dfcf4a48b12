"""The actor's eyes and hands on the cluster: replicas by Serve's broadcast, their number by its external scaler.

Whatever may take long goes on beside the caller: a replica that does not answer costs one time-out, the dashboard
nothing. Knows neither why something is to change nor what was there before.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from cluster.config import Experiment
from cluster.errors import TrimtabError
from cluster.session import APPLICATIONS, Session, rest
from cluster.store import Store
from ladder.bundle import read_bundle
from serve import standing
from serve.adapt.bounds import TODAY

LOOK_EVERY_S = 2.0  # the dashboard asks Serve's controller each time
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Actual:
    """What Serve says of the deployment: `running` are the names of the replicas that should answer."""

    target: int
    running: frozenset[str]
    experiment: Experiment
    bundle: str = ""
    version: int = 0
    environment: dict[str, str] = field(default_factory=dict)  # of replicas, beside the cluster's own


class Actuator:
    """One deployment's. `actual` is the latest look; None until there was one."""

    def __init__(self, name: str, deployment: str, session: Session, store: Store) -> None:
        self._name, self._deployment, self._session, self._store = name, deployment, session, store
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="serve-rest")  # one after the other
        self._experiment: tuple[Any, Experiment] | None = None
        self._told: tuple[dict[str, Any], dict[str, Any]] | None = None
        self._handle: Any = None
        self._stop = threading.Event()
        self._wanted: int | None = None  # set while a call is under way whose effect a look may not show yet
        self.actual: Actual | None = None

    def start(self) -> None:
        threading.Thread(target=self._keep_looking, name="look", daemon=True).start()

    def close(self) -> None:
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def broadcast(self, method: str, *arguments: Any, timeout_s: float) -> list[dict[str, Any]]:
        """The answers of the replicas that gave one in time; none while there are no replicas."""
        from ray import serve

        try:
            self._handle = self._handle or serve.get_deployment_handle(self._deployment, self._name)
            found = self._handle.broadcast(method, *arguments).results(timeout_s=timeout_s, return_exceptions=True)
        except Exception as error:  # no replica yet, a controller that starts anew: the next tick asks again
            _log.debug("no replica could be asked for %s: %r", method, error)
            self._handle = None
            return []
        return [answer for answer in found if isinstance(answer, dict)]

    def scale(self, num_replicas: int) -> Future[None]:
        """Order so many replicas. The future raises TrimtabError when Serve does not take the order."""
        self._wanted = num_replicas
        return self._pool.submit(self._scale, num_replicas)

    @property
    def target(self) -> int:
        """Replicas there are to be, an order under way included."""
        return self._wanted if self._wanted is not None else self.actual.target if self.actual else 0

    def _scale(self, num_replicas: int) -> None:
        path = f"/api/v1/applications/{self._name}/deployments/{self._deployment}/scale"
        try:
            rest(self._session, "POST", path, {"target_num_replicas": num_replicas}, timeout_s=20.0)
            self._look()
        finally:
            self._wanted = None

    def _keep_looking(self) -> None:
        while True:
            try:
                self._pool.submit(self._look).result()
            except TrimtabError as error:  # what was seen last goes on to hold
                _log.debug("the dashboard says nothing: %s", error)
            except RuntimeError:  # closed
                return
            except Exception:
                _log.exception("what Serve says could not be understood")
            if self._stop.wait(LOOK_EVERY_S):
                return

    def _look(self) -> None:
        details = (rest(self._session, "GET", APPLICATIONS).get("applications") or {}).get(self._name)
        if not details or not details.get("deployed_app_config"):
            return
        seen = details["deployments"].get(self._deployment)
        config = details["deployed_app_config"]
        configured = next(d for d in config["deployments"] if d["name"] == self._deployment)
        if seen is None:
            return
        running = frozenset(replica["replica_id"] for replica in seen["replicas"] if replica["state"] == "RUNNING")
        told = self._meant(configured["user_config"])
        bundle, version = str(told["bundle"]), int(told["version"])
        environment = dict((config.get("runtime_env") or {}).get("env_vars") or {})
        target, experiment = int(seen["target_num_replicas"]), self._read(told)
        self.actual = Actual(target, running, experiment, bundle, version, environment)

    def _meant(self, user_config: dict[str, Any]) -> dict[str, Any]:
        """With the version that answers; the store is asked once for each configuration."""
        if self._told is None or self._told[0] != user_config:
            bundle, version = standing.meant(self._store, self._name, user_config)
            self._told = user_config, {**user_config, "bundle": bundle, "version": version}
        return self._told[1]

    def _read(self, user_config: Mapping[str, Any]) -> Experiment:
        """The experiment that made the version, served and adapted as was last said."""
        if self._experiment is None or self._experiment[0] != user_config:
            made = read_bundle(self._store, user_config["bundle"]).experiment
            said = {
                name: type(getattr(made, name)).model_validate(user_config[name])
                for name in TODAY
                if name in user_config
            }
            self._experiment = user_config, made.model_copy(update=said)
        return self._experiment[1]
