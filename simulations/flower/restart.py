"""A SuperLink on a database, killed by SIGKILL while its clients train, started again, and the run continued.

    python simulations/flower/restart.py >simulations/flower/restart.json

Two SuperNodes with data of their own and their state on disk. After the kill the same `flower-superlink` command is
given again, the SuperNodes find it by themselves, and then the same `flwr run`, which goes on after the last finished
round. Prints what Flower says of both runs, and whether the adapters of all rounds are those of `plait simulate`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import engine

SETTINGS = {
    "base": "tiny", "clients": 2, "rounds": 3, "local-steps": 8, "seq-len": 64, "threads": 1, "eval-every": 3,
    "device": "cpu",
}  # fmt: skip
ROUND = 2
SIDES = ("north", "south")


def main() -> None:
    """Run, kill, start again, run on; print what happened as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, help="keep the servers' log here")
    given = parser.parse_args()
    os.environ.update(engine.QUIET)
    with tempfile.TemporaryDirectory(prefix="plait-") as name:
        folder = Path(name)
        (folder / "policy.toml").write_text("min-tokens = 512\n")
        records = [record for first, side in enumerate(SIDES) for record in write_texts(folder, side, first=first)]
        (folder / "both.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        try:
            told = disturbed(folder)
        finally:
            if given.log:
                given.log.write_bytes(b"".join(path.read_bytes() for path in sorted(folder.glob("*.log"))))
        same = {**SETTINGS, "data": str(folder / "both.jsonl"), "partition": "natural:side"}
        theirs, ours = engine.adapters(folder / "run"), engine.simulate(folder, same)
        print(json.dumps({**told, "adapters": theirs, "same_bits_as_plait_simulate": theirs == ours}, indent=1))


def write_texts(folder: Path, side: str, *, first: int) -> list[dict[str, str]]:
    """A client's own data; some lines fewer for the second, so that the two differ."""
    records = [{"text": f"{side} has written line {n} of its own book. " * 12, "side": side} for n in range(first, 30)]
    (folder / f"{side}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return records


def disturbed(folder: Path) -> dict[str, object]:
    """The run with its interruption."""
    port = engine.free_port()
    environment = {**os.environ, "FLWR_HOME": str(folder / "operator")}
    engine.write_connection(folder / "operator", port)
    processes = [superlink(folder, port)]
    try:
        engine.wait_until(lambda: engine.answers(port))
        processes += [supernode(folder, side, port) for side in SIDES]
        engine.run(folder, environment, SETTINGS)
        engine.wait_until(lambda: engine.count(folder, "broadcast", ROUND) == len(SIDES))
        received = engine.count(folder, "update_received", ROUND)
        processes[0].kill()
        processes[0].wait()
        lines = len(engine.ledger(folder))
        print("killed the SuperLink", file=sys.stderr, flush=True)
        engine.wait_until(lambda: not serverapps(folder))
        processes[0] = superlink(folder, port)
        engine.wait_until(lambda: engine.answers(port))
        began = time.monotonic()
        engine.wait_until(lambda: engine.status(folder, environment)[:1] == ["finished:failed"], every_s=5)
        failed_s, lines_then = time.monotonic() - began, len(engine.ledger(folder))
        engine.run(folder, environment, SETTINGS)
        ended = engine.wait_for_the_end(folder, environment)
        return {
            "updates_in_when_killed": received,
            "events_when_killed": lines,
            "events_after_the_restart": lines_then,
            "seconds_until_flower_gave_the_run_up": round(failed_s),
            "flower_says": [ended, *engine.status(folder, environment)[1:]],
            "rounds": engine.rounds(folder),
            "updates": [
                [event["round"], event["client"]]
                for event in engine.ledger(folder)
                if event["event"] == "update_received"
            ],
        }
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def superlink(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """The server, on its database."""
    environment = {**os.environ, "FLWR_HOME": str(folder / "superlink")}
    options = ("--insecure", "--host=127.0.0.1", f"--port={port}", f"--database={folder / 'superlink.db'}")
    return engine.start("flower-superlink", folder / "superlink.log", environment, *options)


def supernode(folder: Path, side: str, port: int) -> subprocess.Popen[bytes]:
    """A client's machine."""
    environment = {**os.environ, "FLWR_HOME": str(folder / side)}
    node = {
        "name": side, "data": str(folder / f"{side}.jsonl"), "state": str(folder / "state"),
        "policy": str(folder / "policy.toml"),
    }  # fmt: skip
    told = " ".join(f'{key}="{value}"' for key, value in node.items())
    options = ("--insecure", f"--superlink=127.0.0.1:{port}", f"--port={engine.free_port()}", f"--node-config={told}")
    return engine.start("flower-supernode", folder / f"{side}.log", environment, *options)


def serverapps(folder: Path) -> list[int]:
    """What the killed SuperLink has left running, as far as it may write to the run's directory."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, around = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if b"serverapp" in command and os.fsencode(folder) in around:
            found.append(int(process.name))
    return found


if __name__ == "__main__":
    main()
