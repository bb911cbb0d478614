"""Digests of the adapters of some configurations, which refactoring must leave unchanged.

    python tests/same_bits/run.py > before.txt        # on the commit before
    python tests/same_bits/run.py --against before.txt # on the commit after, on the same machine

Bits depend on processor, threads and library versions, so no digest is committed. The configurations spread over rules,
methods, encodings, ranks, server optimizers and sampled cohorts; one run is killed and resumed, and one is a deployment
over TLS. Three minutes on two idle cores, all on the base `tiny`.
"""

import argparse
import hashlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.commands import Command  # noqa: E402

COMMON = (
    "--base", "tiny", "--dtype", "float32", "--threads", "1", "--rounds", "3", "--local-steps", "4", "--batch-size",
    "2", "--seq-len", "64", "--clients", "4", "--eval-every", "3", "--seed", "7", "--learning-rate", "0.003",
)  # fmt: skip
# FedAvg's default was 1.5 once, and methods had learning rates; with them stated, digests can be compared across that.
FURTHER = ("--server-optimizer", "sgd:lr=1.5")
# `--wire` and `--own-share` are earlier names, which commits of any time read.
SIMULATIONS: Mapping[str, tuple[str, ...]] = {
    "defaults": FURTHER,
    "float32 wire": ("--wire", "fp32", *FURTHER),
    "plain FedAvg": (
        "--server-optimizer", "none", "--weighting", "examples", "--own-share", "0",
        "--wire", "fp32",
    ),
    "FFA": ("--rule", "ffa"),
    "RoLoRA": ("--rule", "rolora"),
    "FedSA": ("--rule", "fedsa"),
    "FlexLoRA, ranks 2, 4, 8": ("--rule", "flexlora", "--client-ranks", "2,4,8"),
    "Fed-SB": ("--rule", "fedsb", "--method", "lora_xs", "--learning-rate", "0.01"),
    "median": ("--rule", "median", "--own-share", "0"),
    "Multi-Krum, eight clients": ("--rule", "multi_krum", "--clients", "8", "--own-share", "0"),
    "FedAdam": ("--server-optimizer", "fedadam:lr=0.003,momentum=0.9"),
    "FedProx, two of four clients": ("--correction", "fedprox:mu=0.01", "--clients-per-round", "2"),
    "DoRA": ("--method", "dora", *FURTHER),
    "IA3": ("--method", "ia3", "--learning-rate", "0.03", *FURTHER),
    "learning rates that clients find": ("--learning-rate", "0"),
}  # fmt: skip
NAMES = ("alice", "bob", "carol")


def simulated(options: tuple[str, ...], folder: Path) -> str:
    """The digest that a simulation ends with."""
    _run(["simulate", *COMMON, *options, "--out", folder / "run"], folder)
    return digest(folder / "run")


def resumed(folder: Path) -> str:
    """The digest of the default run, killed (SIGKILL) once round 2 has an update and then resumed."""
    command = ["simulate", *COMMON, *FURTHER, "--out", folder / "run"]
    process = _start(command, folder)
    ledger = folder / "run" / "ledger.jsonl"
    while process.poll() is None and not (ledger.exists() and _has_update(ledger, 2)):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    _run(["resume", folder / "run"], folder)
    return digest(folder / "run")


def deployed(folder: Path) -> str:
    """The digest that a server and three clients over TLS end with."""
    _run(["provision", "fed", "--clients", ",".join(NAMES), "--server-name", "localhost"], folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "policy.toml").write_text("min-tokens = 64\n")
    at = COMMON.index("--clients")
    settings = (*COMMON[:at], *COMMON[at + 2 :], *FURTHER)
    server = ["server", "--kit", "fed/server", "--listen", f"127.0.0.1:{port}", "--min-clients", "3", *settings]
    processes = [_start([*server, "--out", "run"], folder)]
    for name in NAMES:
        data = folder / f"{name}.jsonl"
        lines = (f"{name} wrote line {number} of what no other client has read" for number in range(400))
        data.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        client = ["client", "--kit", f"fed/clients/{name}", "--server", f"localhost:{port}", "--data", data]
        more = ["--state", f"state-{name}", "--threads", "1", "--dtype", "float32", "--policy", "policy.toml"]
        processes.append(_start([*client, *more], folder))
    for process in processes:
        said = process.communicate()[0]
        if process.returncode:
            raise SystemExit(f"deployment: {said[-800:]}")
    return digest(folder / "run")


def digest(run: Path) -> str:
    """SHA-256 of a run's adapter, in hexadecimal, shortened to 24 digits."""
    return hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()[:24]


def _has_update(ledger: Path, number: int) -> bool:
    whole = (json.loads(line) for line in ledger.read_bytes().splitlines(keepends=True) if line.endswith(b"\n"))
    return any(event["event"] == "update_received" and event["round"] == number for event in whole)


def _run(command: list[object], folder: Path) -> None:
    process = _start(command, folder)
    said = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{command[0]}: {said[-800:]}")


def _start(command: list[object], folder: Path) -> Command:
    return Command(*command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def main() -> None:
    """Print a digest per configuration; with ``--against``, end with 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="what this command printed before")
    parser.add_argument("--only", action="append", help="one configuration, by name; may be given several times")
    arguments = parser.parse_args()
    ways = {name: lambda folder, options=options: simulated(options, folder) for name, options in SIMULATIONS.items()}
    ways |= {"killed and resumed": resumed, "deployed over TLS": deployed}
    if arguments.only:
        ways = {name: ways[name] for name in arguments.only}
    before = {}
    if arguments.against:
        lines = arguments.against.read_text().splitlines()
        before = {line[26:]: line[:24] for line in lines}
    differing = 0
    for name, way in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            found = way(Path(folder))
        verdict = "" if before.get(name, found) == found else "  DIFFERS"
        if before and name not in before:
            verdict = "  not there before"
        differing += bool(verdict)
        print(f"{found}  {name}{verdict}", flush=True)
    sys.exit(differing > 0)


if __name__ == "__main__":
    main()
