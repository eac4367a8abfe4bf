"""Workers of shards as actors of Ray, which places them over the machines of one party and notices when one is gone.

Ray is an engine within one party: it is never reached by another. Whoever reaches it runs code there, so it is started
here for this machine's own use, on loopback, with a token that nobody else has; a cluster has to have tokens and TLS.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from veilscore.errors import ConfigError, VeilscoreError
from veilscore.protocols.shards import ShardJob, ShardRun, Threads, Turn, Worker, WorkerLostError, Workers
from veilscore.terms.node_config import NodeConfig
from veilscore.terms.workers import WorkersConfig

_MIB = 1 << 20
_starting = threading.Lock()


def engaged(config: NodeConfig) -> Callable[[], Workers]:
    """Return what engages a party's workers: by its `workers`, or else threads of this process."""
    return Threads if config.workers is None else partial(RayWorkers, config.workers)


class _Actor:
    """One shard in a process of Ray's."""

    def __init__(self, job: ShardJob[Any]) -> None:
        self._run = ShardRun(job)

    def turn(self, body: bytes | None) -> Turn[Any]:
        """Go on with a message."""
        return self._run.turn(body)

    def process(self) -> int:
        """Return the number of the process, by which a person finds it."""
        return os.getpid()


class RayWorkers:
    """The workers of one party; each shard has an actor of its own, which ends with the shard.

    Actors claim no processor of Ray's count: all shards of a batch wait for each other's messages, so that one which
    Ray kept back would hold up all of them. They are spread over the machines.
    """

    def __init__(self, config: WorkersConfig) -> None:
        self._ray = _connected(config)
        kind = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD"}
        self._actor = self._ray.remote(**kind)(_Actor)

    def start(self, job: ShardJob[Any]) -> Worker:
        """Give a shard to an actor of its own."""
        return RayWorker(self._ray, self._actor.remote(job))

    def close(self) -> None:
        """Leave Ray as it is: the next batch finds it running. It ends with this process."""


class RayWorker:
    """One actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor

    def process(self) -> int:
        """Return the number of its process on its machine."""
        number: int = self._ray.get(self._actor.process.remote())
        return number

    def turn(self, body: bytes | None) -> Future[Turn[Any]]:
        """Go on with a message; the future raises what the shard raises, or WorkerLostError."""
        found: Future[Turn[Any]] = Future()
        try:
            running = self._actor.turn.remote(body).future()
            running.add_done_callback(lambda done: _hand_on(self._ray, done, found))
        except self._ray.exceptions.RayError as error:
            found.set_exception(WorkerLostError(f"a worker is gone ({type(error).__name__})"))
        return found

    def close(self) -> None:
        """End the process, whatever it computes."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor, no_restart=True)


def _hand_on(ray: Any, done: Future[Turn[Any]], found: Future[Turn[Any]]) -> None:
    error = done.exception()
    if error is None:
        found.set_result(done.result())
    elif isinstance(error, ray.exceptions.RayTaskError):  # raised by the shard itself
        own = error.cause if isinstance(error.cause, VeilscoreError) else None
        found.set_exception(own or RuntimeError(f"a worker failed: {type(error.cause).__name__}"))
    else:
        found.set_exception(WorkerLostError(f"a worker is gone ({type(error).__name__})"))


def _connected(config: WorkersConfig) -> Any:
    """Return Ray, with which this process is connected; ConfigError where it is missing or would be open to others."""
    with _starting:
        if "ray" in sys.modules and sys.modules["ray"].is_initialized():
            return sys.modules["ray"]
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would tell its makers of this cluster
        if os.environ.setdefault("RAY_AUTH_MODE", "token") != "token":
            raise ConfigError("RAY_AUTH_MODE is not token: whoever reaches such a cluster could run code in it")
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if config.address is None:
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
            folder = tempfile.mkdtemp(prefix="veil")  # of this user alone; Ray's sockets need a short path
            atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after Ray, which registers its end later
            options |= {
                "address": "local",
                "include_dashboard": False,
                "object_store_memory": config.store_mb * _MIB,
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": folder,
            }
        elif os.environ.get("RAY_USE_TLS") == "1":
            options |= {"address": config.address}
        else:
            raise ConfigError(
                f"workers.address {config.address}: set RAY_USE_TLS=1 with the cluster's certificates, for this node "
                "and on every machine of it; without it codes and shares cross the network in the clear"
            )
        try:
            import ray  # noqa: PLC0415 - an extra, which reads its token when it is loaded
        except ImportError:
            raise ConfigError(
                "workers in node.yaml need Ray, which is not installed: pip install 'veilscore[ray]'"
            ) from None
        try:
            ray.init(**options)
        except (ConnectionError, ray.exceptions.RayError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"Ray cannot be reached at {config.address or 'this machine'} ({type(error).__name__}): see whether it "
                "runs, with the token (RAY_AUTH_TOKEN_PATH) that this node has"
            ) from None
        return ray
