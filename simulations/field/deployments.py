"""Entrants as they are deployed: processes of their own over TLS, with bytes counted outside them and with faults.

    python simulations/field/deployments.py                              # all cells of faults.jsonl
    python simulations/field/deployments.py --only "plait nan"           # entrant, fault

An entrant's `deploy.py CONFIGURATION OUT` prepares and prints a plan: `processes`, a name and a command each, `server`
first; the last `adapter`'s folder; `last`, the file that is there once that is complete; and faults that it `cannot`
have, with the reason. Here they are started, and killed ones with all their children are started again three seconds
later by the same command, as an operator would. Clients reach the server
through a proxy of this process, which counts. Faults happen in round 3 of 5; a bad client is the last one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from run import CELL, HERE, Entrant, Row, entrants, judged, lines
from works import FEDERATIONS, configuration

FAULTS = ("none", "server killed", "client killed", "nan", "scaled", "stalled, deadline set")
NAME = "FIELD_PROCESS"
IN_ROUND, DEADLINE_S = 3, 60
LIMIT_S = 1_500
"""After so many seconds a run counts as one that does not finish."""


class Proxy:
    """Passes connections on to a port of this machine and counts bytes both ways; nobody there, nobody here."""

    def __init__(self, to: int) -> None:
        self._to, self.bytes = to, {"up": 0, "down": 0}
        (self.port,) = free_ports(1)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            if not is_listened_on(self._to):
                time.sleep(0.2)
                continue
            with socket.create_server(("127.0.0.1", self.port)) as server:
                server.settimeout(0.5)
                while is_listened_on(self._to):
                    with suppress(OSError):
                        near, _ = server.accept()
                        near.settimeout(None)
                        far = socket.create_connection(("127.0.0.1", self._to))
                        for way, source, sink in (("up", near, far), ("down", far, near)):
                            threading.Thread(target=self._pass, args=(way, source, sink), daemon=True).start()

    def _pass(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(1 << 16):
                self.bytes[way] += len(part)
                sink.sendall(part)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Processes:
    """A plan's processes; each has its name in its environment, and so have its children."""

    def __init__(self, plan: Row, environment: dict[str, str], folder: Path, again_s: float = 3) -> None:
        self._again_s = again_s
        self._commands = {each["name"]: each["command"] for each in plan["processes"]}
        self._environment, self._folder = environment | plan.get("environment", {}), folder
        self._started: dict[str, float] = {}
        self._running = {name: self._start(name) for name in self._commands}

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        self._started[name] = time.time()
        with (self._folder / f"{name}.log".replace(" ", "-")).open("ab") as log:
            return subprocess.Popen(
                self._commands[name], env=self._environment | {NAME: name}, cwd=self._folder, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def kill(self, name: str) -> None:
        """With all its children; it is started again."""
        self._kill(name)
        time.sleep(self._again_s)
        self._running[name] = self._start(name)

    def ended(self) -> bool:
        """Whether the server has ended; clients that have are started again."""
        server, *clients = self._commands
        for name in clients:
            if self._running[name].poll() is not None and time.time() > self._started[name] + self._again_s:
                self._running[name] = self._start(name)
        return self._running[server].poll() is not None

    def end(self) -> None:
        """All of them."""
        for name in self._running:
            self._kill(name)

    def _kill(self, name: str) -> None:
        marks = {f"{CELL}={self._environment[CELL]}".encode(), f"{NAME}={name}".encode()}
        while found := [path for path in Path("/proc").glob("[0-9]*") if marks <= environment_of(path)]:
            for path in found:
                with suppress(ProcessLookupError):
                    os.kill(int(path.name), signal.SIGKILL)
            self._running[name].wait()
            time.sleep(0.05)


def environment_of(process: Path) -> set[bytes]:
    """What a process was started with; of one that has ended, nothing."""
    with suppress(OSError):
        return set((process / "environ").read_bytes().split(b"\0"))
    return set()


def is_listened_on(port: int) -> bool:
    """Whether a process of this machine accepts connections there."""
    found = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return any(each[1].endswith(f":{port:04X}") and each[3] == "0A" for each in found[1:])


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def deployed(entrant: Entrant, fault: str, told: Row, python: Path, kept: Path | None = None) -> Row:
    """A cell."""
    folder = Path(tempfile.mkdtemp(prefix="field-deployed-"))
    ports = free_ports(8)
    proxy = Proxy(ports[0])
    bad = told["clients"][-1]["name"]
    kind = fault.partition(",")[0]
    told = told | {
        "ports": ports, "proxy_port": proxy.port, "deadline_s": DEADLINE_S if "," in fault else 0,
        "fault": {"client": bad, "round": IN_ROUND, "kind": kind} if kind in ("nan", "scaled", "stalled") else None,
    }  # fmt: skip
    (folder / "configuration.json").write_text(json.dumps(told))
    environment = os.environ | {
        CELL: str(folder), "PYTHONPATH": str(HERE / "given"), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1",
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    key: Row = {"entrant": entrant.name, "fault": fault}
    command = [python, entrant.folder / "deploy.py", folder / "configuration.json", folder]
    plan = json.loads(subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, check=True).stdout)
    alone = {fault: "its clients are no processes" for fault in FAULTS if fault.startswith(("client", "stalled"))}
    cannot = plan.get("cannot", {} if bad in [each["name"] for each in plan["processes"]] else alone)
    if fault in cannot:
        shutil.rmtree(folder)
        return key | {"finished": None, "said": {"": cannot[fault]}}
    began, processes, struck = time.time(), Processes(plan, environment, folder), False
    try:
        while not Path(plan["last"]).exists() and not processes.ended() and time.time() < began + LIMIT_S:
            if kind.endswith("killed") and not struck and begun(lines(folder / "wire.jsonl")) >= IN_ROUND:
                struck = True
                processes.kill("server" if kind == "server killed" else bad)
            time.sleep(0.3)
        until = time.time() + 60  # for processes that end by themselves, having written all
        while not processes.ended() and time.time() < until and not Path(plan["last"]).exists():
            time.sleep(0.3)
        time.sleep(5)
    finally:
        processes.end()
    last = Path(plan["adapter"])
    row = key | {
        "finished": Path(plan["last"]).exists(), "wall_s": round(time.time() - began, 1), "network": proxy.bytes,
        "messages": sum(each["bytes"] for each in lines(folder / "wire.jsonl")),
        "rounds": [each["round"] for each in lines(folder / "rounds.jsonl")],
        "began": time.strftime("%Y-%m-%d %H:%M", time.gmtime(began)),
    }  # fmt: skip
    if row["finished"]:
        for kept_round in folder.glob("adapter-*"):
            if kept_round != last:
                shutil.rmtree(kept_round)
        if not (folder / f"adapter-{told['rounds']}").exists():
            shutil.copytree(last, folder / f"adapter-{told['rounds']}")
        weights = (last / "adapter_model.safetensors").read_bytes()
        row |= {"sha256": hashlib.sha256(weights).hexdigest()[:16], "losses": judged(told, folder)["losses"]}
    else:
        row["said"] = {path.stem: path.read_text("utf-8", "replace")[-400:] for path in folder.glob("*.log")}
    if kept:
        shutil.copytree(folder, kept / f"{entrant.name}-{fault}".replace(" ", "-"), dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return row


def begun(messages: list[Row]) -> int:
    """The latest round of which a client has heard."""
    return max((each["round"] for each in messages), default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="beginnings of 'ENTRANT FAULT', separated by semicolons")
    parser.add_argument("--results", type=Path, default=HERE / "faults.jsonl")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "plait-field")
    parser.add_argument("--keep", type=Path, help="a folder for what processes said and left")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="field-work-") as work:
        told: Any = None
        for entrant in entrants():
            if not (entrant.folder / "deploy.py").exists():
                continue
            for fault in FAULTS:
                title = f"{entrant.name} {fault}"
                done = any((row["entrant"], row["fault"]) == (entrant.name, fault) for row in lines(options.results))
                if done or not any(title.startswith(start) for start in options.only.split(";")):
                    continue
                told = told or configuration(FEDERATIONS["faults"], 0, options.cache, Path(work))
                told |= {"learning_rate": None, "variant": {}}
                row = deployed(entrant, fault, told, entrant.environment(options.cache), options.keep)
                print(
                    json.dumps({name: row.get(name) for name in ("entrant", "fault", "finished", "wall_s")}), flush=True
                )
                with options.results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    subprocess.run([sys.executable, HERE / "check.py"], check=True)


if __name__ == "__main__":
    main()
