"""A round's updates folded as a Ray job on three nodes, one of which is killed: the bits of the server's own fold.

    python simulations/flower/fold.py >simulations/flower/fold.json      # needs the extra flower-simulation

For rounds whose decoding is more than one machine's work. Each task opens, checks and adds some clients' updates from a
spool that all nodes reach, and returns the sum without rounding (`ExactSum`), whose parts add up to the bits of all in
any grouping. What is lost with a node is done again by Ray. For rules that are linear in the updates.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray
from ray.cluster_utils import Cluster

from plait.adapters import AdapterState, Float32
from plait.adapters.partial_sum import PartialSum
from plait.aggregation import RULES, Contribution, RoundContext
from plait.aggregation.exact_sum import ExactSum
from plait.config import RunConfig
from plait.rounds.validate import Expected, open_update
from plait.run import Run, resolve
from plait.settle import settle
from plait.wire.codecs import codec_for
from plait.wire.envelope import Direction, Header, encode_delta, seal

NODES, AT_ONCE = 3, 4


def main() -> None:
    """Fold on the server, and on the cluster; print both as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=48)
    parser.add_argument("--wire", default="1")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    run = resolve(settle(RunConfig(base="tiny", clients=2, rank=8, wire=given.wire)))
    with tempfile.TemporaryDirectory() as folder:
        spool = [_store(Path(folder), run, client, wire=given.wire, seed=given.seed) for client in range(given.updates)]
        own = _by_the_server(spool, run)
        print("folded by the server", file=sys.stderr, flush=True)
        # Ray prints what it notices of the killed node.
        with redirect_stdout(sys.stderr):
            theirs, told = _by_the_cluster(spool, _expected(run))
    print(
        json.dumps(
            {
                "updates": given.updates,
                "wire": given.wire,
                "seed": given.seed,
                "bytes": sum(size for _, _, size in spool),
                **told,
                "server": hashlib.sha256(own.tobytes()).hexdigest()[:16],
                "cluster": hashlib.sha256(theirs.tobytes()).hexdigest()[:16],
                "same_bits": own.tobytes() == theirs.tobytes(),
            },
            indent=1,
        )
    )


def _expected(run: Run) -> Expected:
    master = run.ranks.master
    return Expected(
        run_id=bytes(16), round=1, client="", base_fingerprint=bytes(32), spec_digest=master.spec.digest,
        received=master.initial, examples=16,
    )  # fmt: skip


def _store(folder: Path, run: Run, number: int, *, wire: str, seed: int) -> tuple[str, float, int]:
    """One update in the spool: its place, weight and size."""
    client, master = f"client-{number:04d}", run.ranks.master
    values = np.random.default_rng([seed, number]).standard_normal(master.spec.layout.size, np.float32)
    header = Header(
        direction=Direction.UPDATE, run_id=bytes(16), round=1, client=client, base_fingerprint=bytes(32),
        spec_digest=master.spec.digest, relative_to=master.initial.digest(), examples=16,
    )  # fmt: skip
    data = seal(header, encode_delta(AdapterState(master.spec.layout, values), codec_for(wire))).data
    path = folder / client
    path.write_bytes(data)
    return str(path), 1.0 + number % 7 / 3, len(data)


def _by_the_server(spool: list[tuple[str, float, int]], run: Run) -> Float32:
    master = run.ranks.master
    context = RoundContext(round=1, master=master.initial, geometry=master.geometry, initial=master.initial, seed=0)
    accumulator = RULES["fedavg"].begin(context)
    for path, weight, _ in spool:
        client = Path(path).name
        delta = _opened(path, _expected(run))
        accumulator.add(Contribution(client, master.initial, delta, weight, master.geometry))
    return accumulator.finish().step.flat


def _opened(path: str, expected: Expected) -> AdapterState:
    return open_update(Path(path).read_bytes(), replace(expected, client=Path(path).name)).delta


def _part(spool: list[tuple[str, float, int]], expected: Expected) -> PartialSum:
    """The sum of some clients' updates, on any node; needs no torch."""
    total = ExactSum(expected.received.layout.size)
    for path, weight, _ in spool:
        total.add(_opened(path, expected).flat, weight)
    return total.part()


def _by_the_cluster(spool: list[tuple[str, float, int]], expected: Expected) -> tuple[Float32, dict[str, object]]:
    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    others = [cluster.add_node(**node) for _ in range(NODES - 1)]
    path = os.pathsep.join((str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)))
    ray.init(address=cluster.address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    cluster.wait_for_nodes()
    work = ray.remote(num_cpus=1, max_retries=-1)(_part)
    began = time.monotonic()
    size = -(-len(spool) // (NODES * AT_ONCE))
    parts = [work.remote(spool[start : start + size], expected) for start in range(0, len(spool), size)]
    ready, _ = ray.wait(parts, num_returns=1)
    cluster.remove_node(others[0], allow_graceful=False)
    total = ExactSum(expected.received.layout.size)
    for part in parts:
        total.join(ray.get(part))
    told: dict[str, object] = {
        "nodes": NODES,
        "tasks": len(parts),
        "ready_before_the_kill": len(ready),
        "seconds": round(time.monotonic() - began, 1),
        "ray": ray.__version__,
    }
    mean = total.mean32()
    ray.shutdown()
    cluster.shutdown()
    return mean, told


if __name__ == "__main__":
    main()
