"""Flower's simulation on a Ray cluster of three nodes, one of which is killed while its clients train.

    python simulations/flower/cluster.py >>simulations/flower/cluster.jsonl      # needs the extra flower-simulation
    python simulations/flower/cluster.py --flower-alone >>…                      # without plait's part in it

One node is for the server and has no GPU; the two others have one each, of which every client's worker takes half.
(Ray takes our word for the GPUs.) The last one is ended by SIGKILL in round 2, and its workers with it. Prints which
worker did what, how often it read the base, and whether the adapters of all rounds are those of `plait simulate`.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

import engine
import ray
from ray.cluster_utils import Cluster

CLIENTS, ROUND = 4, 2
SETTINGS = {
    "base": "tiny", "clients": CLIENTS, "rounds": 3, "local-steps": 8, "seq-len": 64, "threads": 1, "eval-every": 3,
    "device": "cpu",
}  # fmt: skip

# Loaded by every Python process of the run: notes what each does, in a file of its own.
OBSERVER = """
import importlib.abc, importlib.util, json, os, sys, time

def note(**what):
    node = sys.modules["ray"].get_runtime_context().get_node_id() if "ray" in sys.modules else ""
    line = dict(pid=os.getpid(), node=node, gpu=os.environ.get("CUDA_VISIBLE_DEVICES", ""), **what)
    with open("FOLDER/" + str(os.getpid()), "a") as file:
        file.write(json.dumps(line) + chr(10))

def around(owner, name, what):
    inner = getattr(owner, name)
    def outer(*arguments, **named):
        began = time.process_time()
        note(what=what + " begun", cpu_s=round(began, 1))
        try:
            return inner(*arguments, **named)
        finally:
            note(what=what, cpu_s=round(time.process_time() - began, 2))
    setattr(owner, name, outer)

def loads(module):
    around(module.ResidentBase, "_load", "load")

def tasks(module):
    around(module.Participant, "answer", "task")

def alone(module):
    module.outlast_lost_nodes = lambda: None

WATCHED = {"plait.training.resident": loads, "plait.rounds.participant": tasks}
if ALONE:
    WATCHED["plait.flower.ray_workers"] = alone

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        then = WATCHED.pop(name, None)
        if then is None:
            return None
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            then(module)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def main() -> None:
    """Run on the cluster and in one process; print both as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flower-alone", action="store_true", help="what Flower does without plait's part")
    parser.add_argument("--log", type=Path, help="keep the server's log here")
    given = parser.parse_args()
    os.environ.update(engine.QUIET)
    with tempfile.TemporaryDirectory(prefix="plait-") as name:
        folder = Path(name)
        # Ray prints what it notices of the killed node.
        with redirect_stdout(sys.stderr):
            told = on_cluster(folder, alone=given.flower_alone)
        if given.log:
            given.log.write_bytes((folder / "superlink.log").read_bytes())
        theirs, ours = engine.adapters(folder / "run"), engine.simulate(folder, SETTINGS)
        told |= {"adapters": theirs, "same_bits_as_plait_simulate": theirs == ours}
    print(json.dumps(told))


def on_cluster(folder: Path, *, alone: bool) -> dict[str, object]:
    """Start nodes and SuperLink, run, and kill a node meanwhile."""
    (folder / "seen").mkdir()
    (folder / "site").mkdir()
    observer = OBSERVER.replace("FOLDER", str(folder / "seen")).replace("ALONE", str(alone))
    (folder / "site" / "sitecustomize.py").write_text(observer)
    store = {"object_store_memory": 100 << 20}
    head = {"num_cpus": 1, "num_gpus": 0, "include_dashboard": False, "temp_dir": str(folder / "ray")}
    cluster = Cluster(initialize_head=True, head_node_args={**store, **head})
    nodes = [cluster.add_node(num_cpus=2, num_gpus=1, **store) for _ in range(2)]
    names = {node.node_id: f"node {index}" for index, node in enumerate((cluster.head_node, *nodes))}
    processes: list[subprocess.Popen[bytes]] = []
    began = time.monotonic()
    try:
        cluster.wait_for_nodes()
        port = engine.free_port()
        environment = {
            **os.environ,
            "PYTHONPATH": str(folder / "site"),
            "FLWR_HOME": str(folder / "home"),
            "RAY_ADDRESS": cluster.address,
        }
        engine.write_connection(folder / "home", port)
        options = ("--simulation", "--insecure", "--host=127.0.0.1", f"--port={port}")
        processes.append(engine.start("flower-superlink", folder / "superlink.log", environment, *options))
        engine.wait_until(lambda: engine.answers(port))
        resources = f"num-supernodes={CLIENTS} client-resources-num-cpus=1 client-resources-num-gpus=0.5"
        engine.run(folder, environment, SETTINGS, "--federation-config", resources)
        doomed = nodes[1]
        engine.wait_until(lambda: at_work(folder, doomed.node_id))
        received = engine.count(folder, "update_received", ROUND)
        (raylet,) = doomed.all_processes["raylet"]
        engine.kill_node(raylet.process.pid)
        raylet.process.wait()
        killed = time.monotonic()
        print("killed a node", file=sys.stderr, flush=True)
        ended = engine.wait_for_the_end(folder, environment)
        return {
            "plait": not alone,
            "ended": ended,
            "seconds": round(time.monotonic() - began),
            "seconds_after_the_kill": round(time.monotonic() - killed),
            "updates_in_when_killed": received,
            "rounds": engine.rounds(folder),
            "no_answers": [
                event["detail"][:160] for event in engine.ledger(folder) if event.get("reason") == "no-answer"
            ],
            "workers": workers(folder, names),
            "ray": ray.__version__,
        }
    finally:
        for process in processes:
            process.terminate()
            process.wait()
        cluster.shutdown()


def seen(folder: Path) -> list[engine.Event]:
    return [event for path in sorted((folder / "seen").iterdir()) for event in engine.lines(path)]


def at_work(folder: Path, node: str) -> bool:
    """Whether clients of the node train in the round."""
    if engine.count(folder, "broadcast", ROUND) < CLIENTS:
        return False
    begun = collections.Counter(event["what"] for event in seen(folder) if event["node"] == node)
    return begun["task begun"] > begun["task"]


def workers(folder: Path, names: Mapping[str, str]) -> list[engine.Event]:
    """What every worker did."""
    of: dict[int, list[engine.Event]] = collections.defaultdict(list)
    for event in seen(folder):
        of[event["pid"]].append(event)
    told: list[engine.Event] = []
    for events in of.values():
        kinds = collections.Counter(event["what"] for event in events)
        told.append(
            {
                "node": names.get(events[0]["node"], "none"),
                "gpu": events[0]["gpu"],
                "loads": kinds["load"],
                "tasks": kinds["task"],
                "lost_tasks": kinds["task begun"] - kinds["task"],
                "cpu_s_before_its_first_task": events[0]["cpu_s"],
                "cpu_s_of_its_tasks": [event["cpu_s"] for event in events if event["what"] == "task"],
            }
        )
    return sorted(told, key=lambda each: each["node"])


if __name__ == "__main__":
    main()
