"""Thousands of connected clients on one server: memory and processor time, rounds, and the door after a restart.

    python simulations/scale/connected.py --clients 10000 --cohort 1000 --rounds 10 --restart --work DIR

A real `plait server` over TLS on loopback. The clients are light: connections of a few processes, each with a kit of
its own, that prove their keys, describe themselves, and answer with a valid signed update: with ``--bits bf16`` the
same numbers for all, with bits each at a step of its own, so that a server finds none that it has unpacked before.
Linux only. DIR keeps the kits for the next time; in memory (/dev/shm) they are made ten times faster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
import numpy as np

from plait.adapters import AdapterState, Layout
from plait.errors import PeerError
from plait.ledger.ledger import Follower
from plait.system.machine import allow_open_files, processor
from plait.trust.kit import ClientKit
from plait.trust.provision import provision
from plait.wire.codecs import codec_for
from plait.wire.encoding import EncodedDelta, encode_delta
from plait.wire.envelope import Direction, Header, read_header, seal, with_signature
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    EvaluateTask,
    Evaluation,
    TrainTask,
    UpdateReply,
    decode_task,
    encode_reply,
)
from plait.wire.settings import digest_of
from simulations.bench.transport_light import LightNode

EXAMPLES, TOKENS = 100, 1000
LARGEST_TASK = 1 << 24
AT_THE_DOOR = 64
PROCESSES = 2
IDLE_S, PATIENCE_S = 2, 1800
FIRST = 50  # clients that bring with them what a server needs once, such as threads
ADAPTER = "adapter.json"  # of this run
TICKS = os.sysconf("SC_CLK_TCK")


class Light:
    """The work of a client without a model: every task is answered as the protocol asks, with numbers made once.

    Args:
        adapter: what the file `ADAPTER` holds.
    """

    def __init__(self, adapter: dict[str, object]) -> None:
        layout = Layout.of(dict(adapter["shapes"]))  # pyright: ignore
        noise = np.random.default_rng(0).normal(scale=1e-4, size=layout.size).astype(np.float32)
        encoded = encode_delta(AdapterState(layout, noise), codec_for(str(adapter["bits"])))
        self._encoded = replace(encoded, packed=replace(encoded.packed, decoded=None))
        self._fingerprint, self._spec = (bytes.fromhex(str(adapter[key])) for key in ("fingerprint", "spec"))
        self._texts: dict[bytes, str] = {}

    def answer(self, kit: ClientKit, data: bytes) -> bytes:
        """The bytes of a task, the bytes of its answer."""
        task = decode_task(data, max_bytes=LARGEST_TASK, held=lambda digest: self._texts.get(digest, ""))
        if isinstance(task, DescribeTask):
            self._texts[digest_of(task.settings.text)] = task.settings.text
            card = ClientCard(kit.name, self._fingerprint, self._spec, EXAMPLES, TOKENS, EXAMPLES, TOKENS, histogram={})
            return encode_reply(card)
        if not isinstance(task, TrainTask | EvaluateTask):
            raise PeerError(f"{type(task).__name__} is not for a light client")
        broadcast = read_header(task.broadcast, max_bytes=len(task.broadcast))
        if isinstance(task, EvaluateTask):
            return encode_reply(Evaluation(kit.name, broadcast.round, 1.0, TOKENS, None, EXAMPLES))
        header = Header(
            Direction.UPDATE, broadcast.run_id, task.settings.round, kit.name, self._fingerprint, self._spec,
            relative_to=broadcast.result_digest, examples=EXAMPLES, metrics={"train_loss": 1.0},
        )  # fmt: skip
        update = with_signature(seal(header, self._of(kit.name)).data, kit.node_key.sign)
        return encode_reply(UpdateReply(update))

    def _of(self, name: str) -> EncodedDelta:
        """The update of a client: the step of the trellis, bytes 1 to 4 of its parameters, is its own."""
        packed = self._encoded.packed
        if not packed.parameters:
            return self._encoded
        step = np.frombuffer(packed.parameters[1:5], "<f4") * np.float32(1 + 1e-5 * int(name[-5:]))
        parameters = packed.parameters[:1] + step.astype("<f4").tobytes() + packed.parameters[5:]
        return replace(self._encoded, packed=replace(packed, parameters=parameters))


async def stay(server: str, kits: list[ClientKit], light: Light, failures: Counter[str]) -> None:
    """Keep clients connected until the run is over; who is cut off comes back, as a client does."""
    door, desk = asyncio.Semaphore(AT_THE_DOOR), asyncio.Semaphore(len(kits))

    async def one(kit: ClientKit) -> None:
        wait_s, node = 1.0, LightNode(server, kit.name, lambda data: light.answer(kit, data), desk, kit=kit)
        while True:
            try:
                if await node.run(door):
                    return
            except (PeerError, grpc.RpcError) as error:
                code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error)[:80]
                failures[code] += 1
            await asyncio.sleep(random.uniform(0.5, 1) * wait_s)
            wait_s = min(2 * wait_s, 30.0)

    await asyncio.gather(*map(one, kits))


def be_clients(server: str, work: Path, first: int, count: int) -> None:
    """A process of clients."""
    allow_open_files(count + 256)
    light = Light(json.loads((work / ADAPTER).read_text()))
    kits = [ClientKit.load(work / "kits" / "clients" / name_of(number)) for number in range(first, first + count)]
    failures: Counter[str] = Counter()
    try:
        asyncio.run(stay(server, kits, light, failures))
    finally:
        print(json.dumps(failures), flush=True)


def name_of(number: int) -> str:
    """A client's name."""
    return f"light-{number:05}"


@dataclass(frozen=True)
class Look:
    """A process at a moment: its own memory in bytes, and its processor time so far."""

    at: float
    memory_bytes: int
    processor_s: float


def look_at(pid: int) -> Look | None:
    """How a process is now; None if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    kilobytes = next((int(line.split()[1]) for line in status if line.startswith("RssAnon")), 0)
    return Look(time.time(), 1024 * kilobytes, (int(times[11]) + int(times[12])) / TICKS)


class Watched:
    """A server process, looked at five times a second."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.process = subprocess.Popen(command, stdout=log.open("ab"), stderr=subprocess.STDOUT)
        self.looks: list[Look] = []
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self.process.poll() is None and (look := look_at(self.process.pid)):
            self.looks.append(look)
            time.sleep(0.2)

    def at(self, moment: float) -> Look:
        """The last look before a moment."""
        return next((look for look in reversed(self.looks) if look.at <= moment), self.looks[0])


class Log:
    """The server's log: how many clients came, were refused, left."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.counts: Counter[str] = Counter()
        self.address = ""

    def read(self) -> Counter[str]:
        """All events so far."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.decode(errors="replace").splitlines():
                event = next((part[6:] for part in line.split() if part.startswith("event=")), "")
                self.counts[event] += 1
                if event == "serving":
                    self.address = next(part[8:] for part in line.split() if part.startswith("address="))
        return self.counts


def adapter_of(base_name: str, rank: int, bits: str) -> dict[str, object]:
    """What clients need to know of the adapter."""
    from plait.config import RunConfig
    from plait.run import blueprint_of
    from plait.settle import settle
    from plait.training.bases import locate_base

    base = locate_base(base_name)
    config = RunConfig(base=base_name, rank=rank, bits=bits, device="cpu", dtype="float32", seed=0)
    spec = blueprint_of(settle(config), base.directory).spec
    shapes = {slot.name: slot.shape for slot in spec.layout.slots}
    return {"fingerprint": base.reference.fingerprint, "spec": spec.digest.hex(), "shapes": shapes, "bits": bits}


def measure(asked: argparse.Namespace) -> dict[str, object]:
    """One run."""
    work: Path = asked.work
    work.mkdir(parents=True, exist_ok=True)
    (work / ADAPTER).write_text(json.dumps(adapter_of(asked.base, asked.rank, asked.bits)))
    # The run waits for one more, which comes once the others have been idle for a while.
    names = [name_of(number) for number in range(asked.clients + 1)]
    if missing := [name for name in names if not (work / "kits" / "clients" / name).exists()]:
        provision(work / "kits", missing, ["localhost", "127.0.0.1"], now=datetime.now(UTC))
    out = work / f"run-{int(time.time())}"
    command = [
        sys.executable, "-m", "plait.cli.main", "server", "--kit", work / "kits" / "server", "--listen", "127.0.0.1:0",
        "--json", "--min-clients", asked.clients + 1, "--clients-per-round", asked.cohort, "--base", asked.base,
        "--rank", asked.rank, "--rounds", asked.rounds, "--bits", asked.bits, "--eval-every", asked.rounds,
        "--eval-clients", 8,
        "--dtype", "float32", "--threads", 1, "--seed", 0, "--out", out,
    ]  # fmt: skip
    command = list(map(str, command))
    server = Watched(command, work / "server.out")
    log, ledger = Log(out / "server.log"), Follower(out / "ledger.jsonl")
    clients: list[subprocess.Popen[bytes]] = []
    events: list[object] = []
    found: dict[str, object] = {
        "clients": asked.clients, "cohort": asked.cohort, "rounds": asked.rounds, "processor": processor(),
    }  # fmt: skip

    def until(is_so: object, patience_s: float) -> float:
        """Wait; returns the moment."""
        end = time.time() + patience_s
        while not is_so():  # pyright: ignore
            log.read()
            events.extend(ledger.new_events())
            if server.process.poll() is not None and not asked.may_end:
                raise RuntimeError(f"the server ended; see '{work / 'server.out'}'")
            if time.time() > end:
                raise RuntimeError(f"waited {patience_s:.0f} s in vain; the log has {dict(log.counts)}")
            time.sleep(0.1)
        return time.time()

    def named(kind: str) -> list[object]:
        return [event for event in events if event.event == kind]  # pyright: ignore

    try:
        until(lambda: log.address, 120)
        waiting = server.looks[-1]

        def come(first: int, count: int) -> None:
            command = [sys.executable, __file__, "--be", log.address, str(work), str(first), str(count)]
            clients.append(subprocess.Popen(command, stdout=subprocess.PIPE))

        def are_described(count: int) -> bool:
            return sum(len(event.clients) for event in named("clients_described")) >= count  # pyright: ignore

        come(0, FIRST)
        few = server.at(until(lambda: are_described(FIRST), PATIENCE_S))
        share = -(-(asked.clients - FIRST) // PROCESSES)
        for first in range(FIRST, asked.clients, share):
            come(first, min(share, asked.clients - first))
        all_here = until(lambda: log.counts["attached"] >= asked.clients, PATIENCE_S)
        described = until(lambda: are_described(asked.clients), PATIENCE_S)
        here = server.at(described)
        time.sleep(IDLE_S)
        idle = server.looks[-1]
        come(asked.clients, 1)
        until(lambda: named("round_started"), PATIENCE_S)
        found |= {
            "all_attached_s": all_here - waiting.at,
            "all_described_s": described - waiting.at,
            "all_described_processor_s": here.processor_s - waiting.processor_s,
            "just_described_client_kb": (here.memory_bytes - waiting.memory_bytes) / asked.clients / 1e3,
            "idle_client_kb": (idle.memory_bytes - waiting.memory_bytes) / asked.clients / 1e3,
            "further_client_kb": (idle.memory_bytes - few.memory_bytes) / (asked.clients - FIRST) / 1e3,
            "waiting_mb": waiting.memory_bytes / 1e6,
            "idle_mb": idle.memory_bytes / 1e6,
        }
        if asked.restart:
            server, times = restart(asked, server, log, named, until)
            found |= times
        asked.may_end = True
        until(lambda: named("run_finished") or server.process.poll() is not None, PATIENCE_S)
        until(lambda: server.process.poll() is not None, PATIENCE_S)
        events.extend(ledger.new_events())
    finally:
        for process in clients:
            if process.poll() is None and server.process.poll() is None:
                process.terminate()
        server.process.kill()
    failures: Counter[str] = Counter()
    for process in clients:
        failures += Counter(json.loads(process.communicate(timeout=120)[0] or b"{}"))
    ends = [event.time for event in named("round_finished")]  # pyright: ignore
    starts = [event.time for event in named("round_started")]  # pyright: ignore
    first_look = server.looks[0].at
    whole = [(start, end) for start, end in zip(starts[-len(ends) :], ends, strict=True) if start > first_look]
    spent = [server.at(end).processor_s - server.at(start).processor_s for start, end in whole]
    walls = [end - start for start, end in whole]
    found |= {
        "rounds_done": len(ends),
        "round_s": statistics_of(walls),
        "round_processor_s": statistics_of(spent),
        "after_client_kb": (server.at(ends[-1]).memory_bytes - waiting.memory_bytes) / asked.clients / 1e3,
        "peak_mb": max(look.memory_bytes for look in server.looks) / 1e6,
        "received": sorted({event.received for event in named("round_finished")}),  # pyright: ignore
        "refused": len(named("update_refused")),
        "server_said": {
            key: log.read()[key] for key in ("attached", "left", "refused", "lost", "answer-refused", "answer-late")
        },
        "client_failures": dict(failures),
        "exit": server.process.returncode,
    }
    return found


def restart(
    asked: argparse.Namespace, server: Watched, log: Log, named: object, until: object
) -> tuple[Watched, dict[str, object]]:
    """Kill the server in the middle of the run and start it again: how long until everybody is back?"""
    until(lambda: len(named("round_finished")) >= min(2, asked.rounds - 1), PATIENCE_S)  # pyright: ignore
    asked.may_end = True
    server.process.kill()
    server.process.wait()
    came, address = log.read()["attached"], log.address
    log.address = ""
    command = [str(part) for part in server.process.args]  # pyright: ignore
    command[command.index("--listen") + 1] = address
    after = Watched(command, asked.work / "server.out")
    serving = until(lambda: log.address, 120)  # pyright: ignore
    before = after.looks[-1]
    back = until(lambda: log.counts["attached"] >= came + asked.clients + 1, PATIENCE_S)  # pyright: ignore
    rounds = len(named("round_finished"))  # pyright: ignore
    gone_on = until(lambda: len(named("round_finished")) > rounds, PATIENCE_S)  # pyright: ignore
    return after, {
        "all_back_s": back - serving,
        "back_processor_s": after.at(back).processor_s - before.processor_s,
        "next_round_after_s": gone_on - serving,
    }


def statistics_of(values: list[float]) -> list[float]:
    """Least, median and greatest."""
    ordered = sorted(values)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]] if ordered else []


def rounded(value: object) -> object:
    """Figures as they are printed."""
    if isinstance(value, float):
        return round(value, 2)
    return [rounded(each) for each in value] if isinstance(value, list) else value  # pyright: ignore


def main() -> None:
    """Entry point."""
    if sys.argv[1:2] == ["--be"]:
        server, work, first, count = sys.argv[2:]
        be_clients(server, Path(work), int(first), int(count))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--cohort", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--rank", type=int, default=1)
    parser.add_argument("--bits", default="bf16", help="bf16, or bits per parameter")
    parser.add_argument("--restart", action="store_true", help="kill the server after two rounds and start it again")
    parser.add_argument("--work", type=Path, required=True)
    asked = parser.parse_args()
    if asked.clients <= FIRST:
        parser.error(f"--clients is {asked.clients}, expected more than {FIRST}")
    asked.may_end = False
    print(json.dumps({key: rounded(value) for key, value in measure(asked).items()}), flush=True)


if __name__ == "__main__":
    main()
