"""Many virtual clients on one machine: is memory flat, and what does a client-round cost?

    python simulations/scale/run.py --out DIR >simulations/scale/results.json

Cuts the built-in source code into one short text per client and runs `plait simulate` on it, once, as a separate
command whose memory is sampled five times per second. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

from plait.data import as_dataset
from plait.rounds.ledger import read_lines

CHARACTERS = 600


def deal_out(clients: int, path: Path) -> None:
    """One text per client without repetition; starts over if there is not enough."""
    dataset = as_dataset("stdlib")
    text = "\n".join(record.text for record in dataset.records)
    pieces = len(text) // CHARACTERS
    with path.open("w", encoding="utf-8") as file:
        for client in range(clients):
            start = client % pieces * CHARACTERS
            line = {"text": text[start : start + CHARACTERS], "client": f"c{client:06}"}
            file.write(json.dumps(line) + "\n")


class Memory:
    """Resident memory of a process (its own, not of files), with the time of each sample."""

    def __init__(self, pid: int) -> None:
        self.looks: list[tuple[float, int]] = []
        self._status = Path(f"/proc/{pid}/status")
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            try:
                lines = self._status.read_text().splitlines()
            except OSError:
                return
            found = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
            if found:
                self.looks.append((time.time(), 1024 * found[0]))
            time.sleep(0.2)

    def between(self, start: float, end: float) -> float:
        """The maximum in that time, in MB."""
        return max((size for moment, size in self.looks if start <= moment <= end), default=0) / 1e6


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="plait simulate with many virtual clients")
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--per-round", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--wire", default="1")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True)
    deal_out(asked.clients, asked.out / "data.jsonl")
    run = asked.out / "run"
    options = {
        "data": asked.out / "data.jsonl", "partition": "natural:client", "base": "tiny", "clients": asked.clients,
        "clients-per-round": asked.per_round, "rounds": asked.rounds, "local-steps": 1, "batch-size": 4, "seq-len": 32,
        "rank": 8, "wire": asked.wire, "eval-every": asked.rounds, "eval-clients": 8, "threads": 1, "dtype": "float32",
        "seed": 0, "out": run,
    }  # fmt: skip
    given = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    started = time.time()
    with subprocess.Popen(
        [sys.executable, "-m", "plait.cli.main", "simulate", *given, "--json"], stdout=subprocess.DEVNULL
    ) as process:
        memory = Memory(process.pid)
    if process.returncode:
        sys.exit(process.returncode)
    events = list(read_lines(run / "ledger.jsonl"))
    times = {
        kind: [event["time"] for event in events if event["event"] == kind]
        for kind in ("round_started", "round_finished")
    }
    ends = times["round_finished"]
    round_s = [later - earlier for earlier, later in pairwise(ends)]
    summary = json.loads((run / "summary.json").read_text())
    print(
        json.dumps(
            {
                "clients": asked.clients,
                "clients_per_round": asked.per_round,
                "rounds": asked.rounds,
                "until_round_1_s": round(times["round_started"][0] - started, 1),
                "round_s": [round(seconds, 2) for seconds in round_s],
                "client_round_s": round(statistics.median(round_s) / asked.per_round, 4),
                "before_rounds_mb": round(memory.between(started, times["round_started"][0]), 1),
                "round_mb": [
                    round(memory.between(*pair), 1) for pair in zip(times["round_started"], ends, strict=True)
                ],
                "uplink_bytes_per_client_round": summary["uplink_bytes_per_client_round"],
                "downlink_bytes_per_client_round": summary["downlink_bytes_per_client_round"],
                "trainable_parameters": summary["trainable_parameters"],
                "held_out_loss": [summary["base_held_out_loss"], summary["final_held_out_loss"]],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
