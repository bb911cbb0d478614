"""The memory of a real `plait server` while rounds of few and of many clients send it large updates.

    python simulations/transport/memory.py 10 100 1000 >simulations/transport/results-memory.jsonl

Server and clients are processes of their own on loopback, without TLS. The server is `plait server` itself: FedAvg in
float32 on the tiny base with an adapter of 8 MB. The clients are light: connections of one process that answer with a
real update, the same for all, under their own name. Linux only.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from plait.adapters import AdapterState
from plait.config import RunConfig
from plait.rounds.ledger import read_lines
from plait.run import blueprint_of
from plait.settle import settle
from plait.training.bases import locate_base
from plait.wire.codecs import codec_for
from plait.wire.envelope import Direction, Header, encode_delta, read_header, seal
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    Evaluation,
    TrainTask,
    UpdateReply,
    decode_task,
    encode_reply,
)
from plait.wire.settings import digest_of
from simulations.bench.transport_light import Answer, run_nodes

RANK = 216  # 2.03 million parameters on the tiny base
ROUNDS = 1
EXAMPLES, TOKENS = 100, 1000
CONFIG = RunConfig(base="tiny", rank=RANK, wire="fp32", device="cpu", dtype="float32", seed=0)
LARGEST_TASK = 1 << 30
AT_WORK = 32


def light_client() -> tuple[int, object]:
    """The adapter's bytes, and what makes a light client's answers."""
    base = locate_base("tiny")
    fingerprint, spec = bytes.fromhex(base.reference.fingerprint), blueprint_of(settle(CONFIG), base.directory).spec
    noise = np.random.default_rng(0).normal(scale=1e-3, size=spec.layout.size).astype(np.float32)
    encoded = encode_delta(AdapterState(spec.layout, noise), codec_for("fp32"))

    def named(name: str) -> Answer:
        texts: dict[bytes, str] = {}

        def answer(data: bytes) -> bytes:
            task = decode_task(data, max_bytes=LARGEST_TASK, held=lambda digest: texts.get(digest, ""))
            if isinstance(task, DescribeTask):
                texts[digest_of(task.settings.text)] = task.settings.text
                return encode_reply(
                    ClientCard(name, fingerprint, spec.digest, EXAMPLES, TOKENS, EXAMPLES, TOKENS, histogram={})
                )
            broadcast = read_header(task.broadcast, max_bytes=len(task.broadcast))
            if not isinstance(task, TrainTask):
                return encode_reply(Evaluation(name, broadcast.round, 1.0, TOKENS, None, EXAMPLES))
            header = Header(
                Direction.UPDATE, broadcast.run_id, task.settings.round, name, fingerprint, spec.digest,
                relative_to=broadcast.result_digest, examples=EXAMPLES, metrics={"train_loss": 1.0},
            )  # fmt: skip
            return encode_reply(UpdateReply(seal(header, encoded).data))

        return answer

    return 4 * spec.layout.size, named


def measure(clients: int) -> dict[str, float]:
    """One run of a server with this many clients."""
    with tempfile.TemporaryDirectory(prefix="plait-memory-") as folder:
        out = Path(folder) / "run"
        command = [
            sys.executable, "-m", "plait.cli.main", "server", "--insecure", "--listen", "127.0.0.1:0", "--json",
            "--min-clients", clients, "--base", "tiny", "--rank", RANK, "--rounds", ROUNDS, "--wire", "fp32",
            "--eval-every", ROUNDS, "--dtype", "float32", "--threads", 1, "--seed", 0, "--out", out,
        ]  # fmt: skip
        server = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
        peak = Peak(server.pid)
        try:
            address = wait_for_address(out / "server.log", server)
            waiting = peak.take()
            nodes = subprocess.Popen([sys.executable, __file__, "--nodes", address, str(clients)])
            started = time.perf_counter()
            while not any(event["event"] == "round_started" for event in events(out)):
                time.sleep(0.2)
            enrolled = peak.take()
            while not any(event["event"] == "run_finished" for event in events(out)):
                if server.poll() is not None:
                    raise RuntimeError("the server ended before its time")
                time.sleep(0.5)
            rounds = peak.take()
            seconds = time.perf_counter() - started
            if (server.wait(), nodes.wait()) != (0, 0):
                raise RuntimeError("server or clients failed")
        finally:
            peak.over = True
            server.kill()
        (received,) = {event["received"] for event in events(out) if event["event"] == "round_finished"}
    return {
        "clients": clients,
        "updates_a_round": received,
        "waiting_mb": waiting / 1e6,
        "enrolled_mb": enrolled / 1e6,
        "rounds_mb": rounds / 1e6,
        "seconds": seconds,
    }


class Peak:
    """The most memory of a process's own (not of files) since it was last asked, ten looks a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._most = 0
        self.over = False
        threading.Thread(target=self._watch, daemon=True).start()

    def take(self) -> int:
        """This many bytes."""
        most, self._most = self._most, 0
        return most

    def _watch(self) -> None:
        while not self.over:
            try:
                lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
            except OSError:
                return
            kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)
            self._most = max(self._most, 1024 * kilobytes)
            time.sleep(0.1)


def wait_for_address(log: Path, server: subprocess.Popen[bytes]) -> str:
    """Where the server listens, once it says so."""
    while server.poll() is None:
        for line in log.read_text().splitlines() if log.exists() else ():
            if "serving" in line:
                return next(part.partition("=")[2] for part in line.split() if part.startswith("address="))
        time.sleep(0.1)
    raise RuntimeError("the server did not start")


def events(out: Path) -> list[dict[str, object]]:
    """What the ledger says so far."""
    return list(read_lines(out / "ledger.jsonl")) if (out / "ledger.jsonl").exists() else []


def main(*arguments: str) -> None:
    """Entry point; all arguments as typed."""
    adapter_bytes, named = light_client()
    if arguments[0] == "--nodes":
        asyncio.run(run_nodes(arguments[1], int(arguments[2]), named, at_work=AT_WORK))
        return
    for clients in map(int, arguments):
        found = {"adapter_mb": adapter_bytes / 1e6, **measure(clients)}
        print(json.dumps({key: round(value, 1) for key, value in found.items()}), flush=True)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(*sys.argv[1:])
