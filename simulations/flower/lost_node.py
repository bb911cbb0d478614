"""What Flower's pool of Ray workers makes of a killed node, alone and with plait's part in it; no model, no SuperLink.

    python simulations/flower/lost_node.py >simulations/flower/lost_node.json      # needs the extra flower-simulation

Three Ray nodes on one machine, as in cluster.py: two have a GPU (by our word), of which each worker takes half. Tasks
that only wait are given as Flower's backend does, one of the two nodes is killed while they are at work, and every
answer and failure is counted; first with Flower's pool as it is, then with `plait.flower.ray_workers`.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from contextlib import redirect_stdout
from importlib.metadata import version

import engine
import ray
from flwr.simulation.ray_transport.ray_actor import BasicActorPool, ClientAppActor
from ray.cluster_utils import Cluster

from plait.flower.ray_workers import outlast_lost_nodes

TASKS, TASK_S = 60, 1.0
RESOURCES = {"num_cpus": 1, "num_gpus": 0.5}


def main() -> None:
    """Both ways, on clusters of their own."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray prints what it notices of the killed node.
    with redirect_stdout(sys.stderr):
        ways = {}
        for way in ("flower alone", "with plait's part"):
            if way != "flower alone":
                outlast_lost_nodes()
            ways[way] = lose_a_node()
    print(json.dumps({"tasks": TASKS, **ways, "flwr": version("flwr"), "ray": ray.__version__}, indent=1))


def lose_a_node() -> dict[str, object]:
    """Give all tasks; kill a node once some are done."""
    store = {"object_store_memory": 100 << 20}
    cluster = Cluster(
        initialize_head=True, head_node_args={**store, "num_cpus": 1, "num_gpus": 0, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=2, num_gpus=1, **store) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        pool = BasicActorPool(ClientAppActor, RESOURCES, {})
        pool.add_actors_to_pool(pool.actors_capacity)
        workers = pool.num_actors
        tasks: queue.Queue[int] = queue.Queue()
        done: list[tuple[float, int]] = []
        failed: list[tuple[float, int]] = []
        for number in range(TASKS):
            tasks.put(number)
        threads = [threading.Thread(target=work, args=(pool, tasks, done, failed)) for _ in range(workers)]
        for thread in threads:
            thread.start()
        while len(done) < workers:
            time.sleep(0.05)
        time.sleep(TASK_S / 2)
        (raylet,) = nodes[1].all_processes["raylet"]
        engine.kill_node(raylet.process.pid)
        killed, before = time.monotonic(), len(done)
        for thread in threads:
            thread.join()
        return {
            "workers": workers,
            "done_before_the_kill": before,
            "done": len(done),
            "failed": len(failed),
            "failed_within_a_second_of_the_first": sum(at - failed[0][0] < 1 for at, _ in failed) if failed else 0,
            "seconds_from_kill_to_first_failure": round(failed[0][0] - killed, 1) if failed else None,
        }
    finally:
        ray.shutdown()
        cluster.shutdown()


def work(pool: BasicActorPool, tasks: queue.Queue[int], done: list, failed: list) -> None:
    """A thread of Flower's: one message after the other, as `RayBackend.process_message` does."""
    while True:
        try:
            number = tasks.get_nowait()
        except queue.Empty:
            return
        future = None
        try:
            job = (lambda: wait, number, str(number), None)
            future = pool.submit(lambda actor, *given: actor.run.remote(*given), job)
            pool.fetch_result_and_return_actor_to_pool(future)
            done.append((time.monotonic(), number))
        except Exception:
            if future is not None:
                pool.add_actor_back_to_pool(future)
            failed.append((time.monotonic(), number))


def wait(message: int, context: None) -> int:
    """A client's work."""
    del context
    time.sleep(TASK_S)
    return message


if __name__ == "__main__":
    main()
