"""What becomes of a task whose worker is lost, in Flower's simulation on a Ray cluster: another worker does it again.

Flower's pool takes a worker back after every failed task, dead or alive, and gives it the next one. So a worker that
was lost with its node fails task after task, each at once. Here it is left out, and its task is given to the next one
that is free, with the same message and the same state of its client, so to the same answer. A new worker joins once a
node has room for it, and is not asked for before: while a worker waits for room, Ray has all others collect garbage
again and again. For this, methods of Flower's class are replaced; it is the same in flwr 1.28 to 1.42. Knows nothing of
the apps.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from plait.errors import MachineError

_PAUSE_S = 0.1
_LOOK_S = 5.0
_PATIENCE_S = 600.0
_MOST_LOST = 3  # workers that one task may take with it
_MENDED = "plait_mended"


class Pool(Protocol):
    """What is used of Flower's `BasicActorPool`."""

    pool: list[Any]
    num_actors: int
    actors_capacity: int
    client_resources: dict[str, int | float]
    create_actor_fn: Callable[[], Any]

    def submit(self, actor_fn: Any, job: Any) -> Any:
        """Give a job to an idle worker."""
        ...

    def fetch_result_and_return_actor_to_pool(self, future: Any) -> Any:
        """Wait for its result."""
        ...

    def add_actor_back_to_pool(self, future: Any) -> None:
        """The job is over."""
        ...


def outlast_lost_nodes() -> None:
    """Replace what Flower does; needs Ray."""
    ray = import_module("ray")
    ray_actor = import_module("flwr.simulation.ray_transport.ray_actor")
    pool = ray_actor.BasicActorPool
    if getattr(pool, _MENDED, False):
        return

    def settled(promises: list[Any]) -> dict[Any, bool]:
        found = ray.wait(promises, num_returns=len(promises), timeout=0)[0] if promises else []
        return {promise: kept(promise) for promise in found}

    def kept(promise: Any) -> bool:
        try:
            ray.get(promise)
        except ray.exceptions.RayError:
            return False
        return True

    def fit(resources: dict[str, int | float]) -> int:
        try:
            return ray_actor.pool_size_from_resources(resources)
        except ValueError:
            return 0

    outlast(pool, lost=(ray.exceptions.RayActorError, ray.exceptions.ObjectLostError), settled=settled, fit=fit)


class _Workers:
    """Workers that are started in the place of lost ones, for pools of one class.

    Args:
        settled: which of these promises are kept (True), and which will not be.
        fit: how many workers with these resources there is room for.
    """

    def __init__(
        self, settled: Callable[[list[Any]], dict[Any, bool]], fit: Callable[[dict[str, int | float]], int]
    ) -> None:
        self._settled, self._fit = settled, fit
        self._starting: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def renew(self, pool: Pool, looked: float) -> float:
        """Put those that have started into a pool, and start others if the last look for room is a while ago.

        Returns:
            When room was last looked for.
        """
        with self._lock:
            for promise, is_kept in self._settled([*self._starting]).items():
                worker = self._starting.pop(promise)
                if is_kept:
                    pool.pool.append(worker)
                    pool.num_actors += 1
            missing = pool.actors_capacity - pool.num_actors - len(self._starting)
            if missing <= 0 or time.monotonic() - looked < _LOOK_S:
                return looked
            looked = time.monotonic()
            for _ in range(min(missing, self._fit(pool.client_resources) - pool.num_actors - len(self._starting))):
                worker = pool.create_actor_fn()
                self._starting[worker.__ray_ready__.remote()] = worker
            return looked

    def lose(self, pool: Pool, future: Any) -> None:
        """The worker of a pool that has this task is gone."""
        del _at_work(pool)[future]
        with self._lock:
            pool.num_actors -= 1


def outlast(
    pool_class: type[Pool],
    *,
    lost: tuple[type[Exception], ...],
    settled: Callable[[list[Any]], dict[Any, bool]],
    fit: Callable[[dict[str, int | float]], int],
    patience_s: float = _PATIENCE_S,
) -> None:
    """Have every pool of this class leave lost workers out and do their tasks again.

    Args:
        lost: what a task ends with whose worker is gone.
        settled, fit: as of `_Workers`.
        patience_s: how long a task waits for a worker, if there is none.
    """
    give, take = pool_class.submit, pool_class.fetch_result_and_return_actor_to_pool
    take_back = pool_class.add_actor_back_to_pool
    jobs: dict[Any, tuple[Any, Any]] = {}
    workers = _Workers(settled, fit)

    def submit(self: Pool, actor_fn: Any, job: Any) -> Any:
        end, looked = time.monotonic() + patience_s, -_LOOK_S
        while True:
            looked = workers.renew(self, looked)
            try:
                future = give(self, actor_fn, job)
            except IndexError as error:  # no worker is idle
                if time.monotonic() > end:
                    raise MachineError(f"no worker of Flower's pool was free in {patience_s:g} s") from error
                time.sleep(_PAUSE_S)
            else:
                jobs[future] = actor_fn, job
                return future

    def fetch(self: Pool, future: Any) -> Any:
        first = future
        for times in itertools.count(1):
            job = jobs.pop(future)
            try:
                return take(self, future)
            except lost:
                workers.lose(self, future)
                if times == _MOST_LOST:
                    raise
            except Exception:
                # Flower takes back the worker that has the task under its first name.
                _at_work(self)[first] = _at_work(self).pop(future)
                raise
            future = submit(self, *job)
        return None

    def add_back(self: Pool, future: Any) -> None:
        if future in _at_work(self):
            take_back(self, future)

    pool_class.submit = submit
    pool_class.fetch_result_and_return_actor_to_pool = fetch
    pool_class.add_actor_back_to_pool = add_back
    setattr(pool_class, _MENDED, True)


def _at_work(pool: Pool) -> dict[Any, Any]:
    """Flower's own record of who has which task."""
    return vars(pool)["_future_to_actor"]
