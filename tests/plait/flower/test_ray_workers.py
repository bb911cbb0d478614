"""Flower's pool is stood in for by one of the same methods and attributes, as read in flwr 1.28 and 1.42."""

import threading
import time

import pytest

from plait.errors import MachineError
from plait.flower.ray_workers import outlast


class LostError(Exception):
    pass


class Worker:
    def __init__(self, *, alive=True, ready=True):
        self.alive, self.ready, self.did, self.asked = alive, ready, [], 0
        self.__ray_ready__ = self

    def remote(self, *arguments):
        self.asked += len(arguments)
        return (self, *arguments, object())


def a_pool(*workers, patience_s=10.0, starts=()):
    """A pool of a class of its own, mended; `starts`: whether its next new workers live."""
    started, room, starts = [], [], iter(starts)

    class Pool:
        def __init__(self):
            self.pool, self.client_resources, self._future_to_actor = list(workers), {}, {}
            self.num_actors = self.actors_capacity = len(workers)

        def create_actor_fn(self):
            started.append(Worker(alive=next(starts, True)))
            return started[-1]

        def submit(self, actor_fn, job):
            worker = self.pool.pop()
            future = actor_fn(worker, *job)
            self._future_to_actor[future] = worker
            return future

        def add_actor_back_to_pool(self, future):
            self.pool.append(self._future_to_actor.pop(future))

        def fetch_result_and_return_actor_to_pool(self, future):
            worker, job, _ = future
            if not worker.alive:
                raise LostError(job)
            if job == "wrong":
                raise ValueError(job)
            worker.did.append(job)
            self.add_actor_back_to_pool(future)
            return job

    def settled(promises):
        return {promise: promise[0].alive for promise in promises if promise[0].ready}

    def fit(_resources):
        return len(room) + sum(worker.alive for worker in workers)

    outlast(Pool, lost=(LostError,), settled=settled, fit=fit, patience_s=patience_s)
    return Pool(), started, room


def process(pool, job):
    """As Flower's backend does."""
    future = None
    try:
        future = pool.submit(lambda worker, job: worker.remote(job), (job,))
        return pool.fetch_result_and_return_actor_to_pool(future)
    except Exception:
        if future is not None:
            pool.add_actor_back_to_pool(future)
        raise


def test_the_task_of_a_lost_worker_is_done_by_another_and_nothing_is_given_to_the_lost_one_again():
    alive, dead = Worker(), Worker(alive=False)
    pool, started, _ = a_pool(alive, dead)
    assert [process(pool, job) for job in ("a", "b", "c")] == ["a", "b", "c"]
    assert (alive.did, pool.pool, pool.num_actors) == (["a", "b", "c"], [alive], 1)
    assert started == []


def test_a_new_worker_joins_once_a_node_has_room_for_it():
    alive = Worker()
    pool, started, room = a_pool(alive, Worker(alive=False))
    process(pool, "a")
    room.append("for one")
    assert [process(pool, job) for job in ("b", "c", "d")] == ["b", "c", "d"]
    assert len(started) == 1
    assert started[0].did
    assert pool.num_actors == 2


def test_a_new_worker_that_is_lost_as_it_starts_gets_no_task():
    alive = Worker()
    pool, started, room = a_pool(alive, Worker(alive=False), starts=[False])
    process(pool, "a")
    room.append("for one")
    assert [process(pool, job) for job in ("b", "c", "d")] == ["b", "c", "d"]
    lost, new = started
    assert (lost.asked, new.did) == (0, ["d"])
    assert (pool.num_actors, len(pool.pool)) == (2, 2)


def test_a_task_waits_for_a_worker_that_is_at_work():
    pool, _, _ = a_pool(Worker())
    held = pool.submit(lambda worker, job: worker.remote(job), ("first",))
    done = []
    waiting = threading.Thread(target=lambda: done.append(process(pool, "second")))
    waiting.start()
    time.sleep(0.02)
    assert done == []
    assert pool.fetch_result_and_return_actor_to_pool(held) == "first"
    waiting.join()
    assert done == ["second"]


def test_a_task_that_takes_three_workers_with_it_fails_and_so_does_one_without_any():
    pool, _, _ = a_pool(*(Worker(alive=False) for _ in range(3)), patience_s=0)
    with pytest.raises(LostError):
        process(pool, "a")
    assert (pool.pool, pool.num_actors) == ([], 0)
    with pytest.raises(MachineError, match="no worker of Flower's pool was free in 0 s"):
        process(pool, "b")


def test_a_worker_whose_task_failed_is_kept_also_if_another_had_it_first():
    alive = Worker()
    pool, _, _ = a_pool(alive, Worker(alive=False))
    with pytest.raises(ValueError, match="wrong"):
        process(pool, "wrong")
    assert pool.pool == [alive]
    assert process(pool, "a") == "a"
