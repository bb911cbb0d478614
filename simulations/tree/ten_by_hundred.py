"""A tree of 10 regions with 100 clients each against the flat run of the same 1,000 clients: the same adapter or not.

    python simulations/tree/ten_by_hundred.py > simulations/tree/results.json

One round of one local step on the base `tiny`, with the default wire of 1 bit and error feedback, under FedAvg and
under Fed-SB. Prints the SHA-256 of each adapter, and what travelled at each level.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from plait.config import RunConfig
from plait.data import as_dataset
from plait.rounds.ledger import read_lines
from plait.simulation.execution import execute, prepare

REGIONS, CLIENTS = 10, 100
SETTINGS: dict[str, Any] = {
    "base": "tiny", "dtype": "float32", "threads": 1, "rounds": 1, "local_steps": 1, "batch_size": 1, "seq_len": 16,
    "rank": 2, "max_held_out_sequences": 1, "partition": "iid", "seed": 7,
}  # fmt: skip
RULES = {"fedavg": {"rule": "fedavg"}, "fedsb": {"rule": "fedsb", "method": "lora_xs"}}


def rows() -> list[dict[str, str]]:
    """Four short texts for each client."""
    return [
        {"text": f"Record {n} says that {n * 7919 % 10007} times {n % 97} is {n * 7919 % 10007 * (n % 97)}. " * 4}
        for n in range(4 * REGIONS * CLIENTS)
    ]


def updates_in(ledger: Path) -> list[dict]:
    """The updates that a server has received."""
    return [event for event in read_lines(ledger) if event["event"] == "update_received"]


def adapter_of(out: Path, **settings: object) -> str:
    """SHA-256 of the adapter that a run publishes; without a report, which would take longer than the run."""
    config = RunConfig(data="memory:rows", out=str(out), **SETTINGS, **settings)
    execute(*prepare(config, quiet=True, dataset=as_dataset(rows(), name="rows")), quiet=True)
    return hashlib.sha256((out / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def measured(rule: dict[str, str], folder: Path) -> dict[str, object]:
    """Both runs under one rule."""
    digests = [
        adapter_of(folder / "flat", clients=REGIONS * CLIENTS, **rule),
        adapter_of(folder / "tree", tree=f"{REGIONS}x{CLIENTS}", **rule),
    ]
    to_root = updates_in(folder / "tree" / "ledger.jsonl")
    of_regions = [event for path in (folder / "tree" / "regions").glob("*/ledger.jsonl") for event in updates_in(path)]
    of_flat = updates_in(folder / "flat" / "ledger.jsonl")
    assert len(to_root) == REGIONS
    assert len(of_regions) == len(of_flat) == REGIONS * CLIENTS
    first = read_lines(folder / "flat" / "ledger.jsonl")[0]
    parameters = first["adapter"]["trainable_parameters"]
    return {
        "adapter_flat": digests[0],
        "adapter_tree": digests[1],
        "same": digests[0] == digests[1],
        "trainable_parameters": parameters,
        "bytes_to_the_server_flat": sum(event["uplink_bytes"] for event in of_flat),
        "bytes_to_the_server_tree": sum(event["uplink_bytes"] for event in to_root),
        "bytes_to_the_regions": sum(event["uplink_bytes"] for event in of_regions),
        "bytes_per_parameter_of_a_sum": round(sum(e["payload_bytes"] for e in to_root) / REGIONS / parameters, 2),
    }


def main() -> None:
    """Print the results as JSON; ends with 1 where the adapters differ."""
    found: dict[str, dict[str, object]] = {}
    for name, rule in RULES.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measured(rule, Path(folder))
    print(
        json.dumps(
            {"command": "python simulations/tree/ten_by_hundred.py", "seed": SETTINGS["seed"], **found}, indent=1
        )
    )
    sys.exit(not all(each["same"] for each in found.values()))


if __name__ == "__main__":
    main()
