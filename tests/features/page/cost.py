"""What watching costs a run: processor time of server, clients and page, with nobody, ten watchers, and a hostile one.

    python tests/features/page/cost.py [--repetitions 3] [--rounds 40]

A server with `--page` and three clients over gRPC on the base tiny. The three cases take turns. The hostile one does
not know the token. It opens 1,000 connections and keeps them open as long as it is let; forty of them ask for the
events all the same, and those that are ended are opened again. Who watches is not counted. Prints one JSON line for
each run, and a summary.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from plait.features.page.token import TOKEN_VARIABLE
from plait.rounds.ledger import read_lines
from tests.commands import Command
from tests.waiting import unused_port

CASES = ("nobody", "ten", "hostile")
HOSTILE, ASKING = 1000, 40
TOKEN = secrets.token_urlsafe(32)
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def seconds_of(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def page_of(server: int) -> int:
    """The page's process beside a server."""
    for task in Path(f"/proc/{server}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"plait.features.page.beside" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise ProcessLookupError


def _asked(port: int, token: str) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", port), timeout=10)
    one.sendall(f"GET /api/runs/run/events?token={token} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    return one


@contextmanager
def watchers(port: int) -> Iterator[list[int]]:
    """Ten who read all that comes, in one thread; gives the bytes that each has read."""
    over, read = threading.Event(), [0] * 10

    def follow() -> None:
        with selectors.DefaultSelector() as selector:
            for number in range(10):
                selector.register(_asked(port, TOKEN), selectors.EVENT_READ, number)
            while not over.is_set():
                for key, _ in selector.select(0.2):
                    with suppress(OSError):
                        read[key.data] += len(key.fileobj.recv(1 << 16))  # type: ignore[union-attr]
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]

    thread = threading.Thread(target=follow)
    thread.start()
    yield read
    over.set()
    thread.join()


@contextmanager
def hostile(port: int) -> Iterator[list[int]]:
    """A thousand connections, opened again when they are ended; gives how often one was opened."""
    over, opened = threading.Event(), [0]

    def press() -> None:
        held: list[socket.socket] = []
        while not over.is_set():
            for number in range(len(held), HOSTILE):
                with suppress(OSError):
                    held.append(
                        _asked(port, "") if number < ASKING else socket.create_connection(("127.0.0.1", port), 10)
                    )
                    held[-1].setblocking(False)
                    opened[0] += 1
            over.wait(1)
            still = []
            for one in held:
                try:
                    if one.recv(1 << 16) == b"":
                        one.close()
                        continue
                except BlockingIOError:
                    pass
                except OSError:
                    one.close()
                    continue
                still.append(one)
            held = still
        for one in held:
            one.close()

    thread = threading.Thread(target=press)
    thread.start()
    yield opened
    over.set()
    thread.join()


@contextmanager
def nobody(port: int) -> Iterator[list[int]]:
    """Nobody watches."""
    del port
    yield [0]


def measure(case: str, rounds: int) -> dict[str, float]:
    """Processor times of one run from its first round to its last, in seconds."""
    port, page = unused_port(), unused_port()
    small = ("--base", "tiny", "--rounds", rounds, "--local-steps", "20", "--batch-size", "4", "--seq-len", "64")
    with tempfile.TemporaryDirectory() as scratch, (Path(scratch) / "output").open("wb") as output:
        folder, processes = Path(scratch), []

        def start(*arguments: object) -> Command:
            processes.append(Command(*arguments, cwd=folder, stdout=output, stderr=subprocess.STDOUT))
            return processes[-1]

        def has(event: str) -> bool:
            ledger = folder / "run" / "ledger.jsonl"
            return ledger.exists() and any(line["event"] == event for line in read_lines(ledger))

        def until(event: str) -> None:
            while not has(event):
                assert all(each.poll() in (None, 0) for each in processes), (folder / "output").read_text()
                time.sleep(0.1)

        try:
            server = start(
                "server", "--insecure", "--listen", f"127.0.0.1:{port}", "--page", f"127.0.0.1:{page}", "--min-clients",
                "3", "--out", "run", "--threads", "1", *small,
            )  # fmt: skip
            for number in range(3):
                generator = random.Random(number)
                texts = (
                    " ".join(generator.choices(["a", "small", "delta", "goes", "back", "to", "its", "server"], k=60))
                    for _ in range(80)
                )
                (folder / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
                start(
                    "client", "--insecure", "--name", f"client-{number}", "--server", f"127.0.0.1:{port}", "--data",
                    f"{number}.jsonl", "--state", f"state-{number}", "--threads", "1",
                )  # fmt: skip
            until("round_started")
            beside = page_of(server.pid)
            who = {"nobody": nobody, "ten": watchers, "hostile": hostile}[case]
            with who(page) as did:
                before = [seconds_of(process.pid) for process in processes], seconds_of(beside), time.monotonic()
                last: dict[int, float] = {}
                while not has("run_finished"):
                    for process in processes:
                        with suppress(FileNotFoundError, ProcessLookupError):
                            last[process.pid] = seconds_of(process.pid)
                    last[beside] = seconds_of(beside)
                    time.sleep(0.05)
                wall_s = time.monotonic() - before[2]
            spent = [last[process.pid] - begun for process, begun in zip(processes, before[0], strict=True)]
            return {
                "server": round(spent[0], 2), "clients": round(sum(spent[1:]), 2), "wall": round(wall_s, 1),
                "page": round(last[beside] - before[1], 2), "did": sum(did),
            }  # fmt: skip
        finally:
            for process in processes:
                process.kill()
                process.wait()


def main() -> None:
    """Print processor times."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--repetitions", type=int, default=3)
    arguments.add_argument("--rounds", type=int, default=40)
    options = arguments.parse_args()
    os.environ[TOKEN_VARIABLE] = TOKEN
    found: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for _ in range(options.repetitions):
        for case in CASES:
            found[case].append(measure(case, options.rounds))
            print(json.dumps({case: found[case][-1], "load": os.getloadavg()[0]}), flush=True)
    for case, runs in found.items():
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        whole = middle["server"] + middle["clients"]
        print(json.dumps({case: middle, "page, % of the run": round(100 * middle["page"] / whole, 2)}))


if __name__ == "__main__":
    main()
