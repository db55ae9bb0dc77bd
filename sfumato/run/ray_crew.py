"""Workers on many machines, as actors of a Ray cluster. Jobs, paths and rows travel, never images or tensors.

All machines see the same disk under the same paths. An actor that dies, or whose machine is lost, has gone like any
worker (`sfumato.run.jobs` gives its job to another); one for which there is no room waits, and the others go on.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sfumato.errors import SfumatoError, UsageError
from sfumato.run.crew import Begin, Event, Failed, Gone, Ready, Result

AUTO = "auto"
SECONDS_TO_CONNECT = 10.0
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


class RayCrew:
    """Workers as actors, one a GPU where the cluster has any, else one a core."""

    def __init__(self, begin: Begin, address: str) -> None:
        """Joins a cluster.

        Args:
            begin: Can be pickled.
            address: HOST:PORT of a cluster; "auto": the one that $RAY_ADDRESS names, or that runs on this machine.

        Raises:
            UsageError: Ray is not installed, or there is no such cluster.
        """
        self._ray = join(address)
        self._begin = begin
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, int] = {}
        resources = self._ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        self.places: int | None = gpus or max(1, int(resources.get("CPU", 1)))
        needs = {"num_cpus": 1, "num_gpus": 1} if gpus else {"num_cpus": 1}
        self._actor = self._ray.remote(**needs, max_restarts=0, max_task_retries=0)(_Actor)

    def start(self, worker: int) -> None:
        actor = self._actors[worker] = self._actor.remote(str(Path.cwd()))
        self._pending[actor.prepare.remote(self._begin)] = worker

    def send(self, worker: int, job: Any) -> None:
        self._pending[self._actors[worker].work.remote(job)] = worker

    def wait(self, seconds: float) -> Sequence[Event]:
        if not self._pending:
            time.sleep(seconds)
            return []
        done, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=seconds)
        return [self._event(answer, self._pending.pop(answer)) for answer in done]

    def _event(self, answer: Any, worker: int) -> Event:
        try:
            event, value = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:  # of the actor, its machine or the way there
            self._end(worker)
            return Gone(worker, f"lost ({type(error).__name__})")
        found: Event = event(worker, value)
        return found

    def _end(self, worker: int) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actors.pop(worker), no_restart=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in list(self._actors):
            self._end(worker)
        self._pending.clear()


def join(address: str) -> Any:
    """Joins a cluster; none is started.

    Raises:
        UsageError: There is no such cluster, or Ray is not installed.
    """
    check_cluster(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    known = os.environ.get("RAY_ADDRESS", AUTO) if address == AUTO else address
    if os.environ.get("RAY_AUTH_MODE") != "token" and not known.startswith((AUTO, *_LOOPBACK)):
        warnings.warn(
            f"whoever reaches the ports of the cluster at {known} can run code on it: start it with"
            " RAY_AUTH_MODE=token, and set RAY_AUTH_TOKEN_PATH here",
            stacklevel=2,
        )
    import ray

    if ray.is_initialized():
        return ray
    try:
        ray.init(address=known, log_to_driver=False, logging_level="error")
    except Exception as error:  # of Ray's many, some of them plain
        raise UsageError(f"no Ray cluster can be joined at {known} ({str(error)[:300]}): see ray status") from error
    return ray


def check_cluster(address: str) -> None:
    """Finds out at once whether there is a cluster to join; Ray itself tries for minutes.

    Raises:
        UsageError: The address is no address, nothing listens there, or Ray is not installed.
    """
    host, _, port = address.rpartition(":")
    if address != AUTO and not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(f"--ray must be auto or HOST:PORT, got {address!r}")
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--ray needs Ray: pip install 'sfumato[ray]'")
    if address == AUTO:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise UsageError(f"no Ray cluster can be reached at {address} ({error.strerror or error})") from error


class _Actor:
    """A worker as Ray has it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def prepare(self, begin: Begin) -> tuple[Any, Any]:
        try:
            os.chdir(self._folder)
            facts, self._work = begin()
            return Ready, facts
        except FileNotFoundError:
            host = os.uname().nodename
            missing = f"{host} has no folder {self._folder}: all machines must see one disk under the same paths"
            return Failed, SfumatoError(missing)
        except Exception as error:  # noqa: BLE001 - whatever it is, the driver says it in words
            return Failed, _plain(error)

    def work(self, job: Any) -> tuple[Any, Any]:
        try:
            return Result, self._work(job)
        except Exception as error:  # noqa: BLE001 - likewise
            return Failed, _plain(error)


def _plain(error: Exception) -> SfumatoError:
    return error if isinstance(error, SfumatoError) else SfumatoError(f"{type(error).__name__}: {error}")
