"""SIGKILL at random points of masked rounds of real processes, and what must hold afterwards:

    python -m tests.deployment.kill_points --kills 100 --who server --seconds 700 > kills.json

A federation of three clients runs masked rounds. A point is a change of one of the clients' journals of masked sums,
of which a sum has about twenty; at random ones the server, or a client, is killed and started again at once. Processes
are forked (see tests/commands.py), so that a start takes less than a second. Checked:

- the adapter is that of an undisturbed simulation, bit for bit, where no client dropped out of a round;
- no round is unmasked by a client in two attempts, and none is released twice in the ledger;
- `plait verify` recomputes every round.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.deployment import conftest as deployed

ROUNDS = 6
OPTIONS = ("--rounds", str(ROUNDS), "--eval-every", "3", "--secure-aggregation", "--keep-updates")
MOST_BETWEEN = 30
_LOOK_S = 0.002
_PATIENCE_S = 900.0


class Journals:
    """What the clients' journals of masked sums have shown so far.

    Attributes:
        changes: seen.
        stage: the newest one, in words.
        revealed: attempts that a client has unmasked, by client, run and purpose, and round.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[Path, int] = {}
        self.changes = 0
        self.stage = "before the first sum"
        self.revealed: dict[tuple[str, str, int], set[str]] = {}

    def look(self) -> None:
        """Notice what has changed."""
        for name in deployed.CLIENTS:
            for path in (self._folder / name / "state").glob(f"*/{name}/secagg"):
                written = path.stat().st_mtime_ns
                if self._seen.get(path) != written:
                    self._seen[path] = written
                    self.changes += 1
                    self._read(name, json.loads(path.read_bytes()))

    def _read(self, client: str, said: dict) -> None:
        session = said["session"]
        reached = [
            ("unmasking", said["revealed"]),
            ("signatures", said["signed"]),
            ("training", said["has_masked"]),
            ("delivery", said["sharers"]),
            ("shares", said["roster"]),
        ]
        stage = next((stage for stage, is_reached in reached if is_reached), "keys")
        self.stage = f"{session['purpose']} {stage}"
        if said["revealed"]:
            about = (client, f"{session['run_id']} {session['purpose']}", session["round"])
            self.revealed.setdefault(about, set()).add(session["attempt"])


def main() -> None:
    """Kill, and print what held as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--who", choices=("server", "clients", "both"), default="server")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no further run after so long")
    given = parser.parse_args()
    generator, began = random.Random(given.seed), time.monotonic()
    kills: Counter[str] = Counter()
    runs: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        federation = deployed.founded(root / "federation", dict(zip(deployed.CLIENTS, (40, 30, 24), strict=True)))
        undisturbed = deployed.simulation(federation, root, len(deployed.CLIENTS), *OPTIONS)
        reference = (undisturbed / "adapter" / "adapter_model.safetensors").read_bytes()
        while kills.total() < given.kills and time.monotonic() - began < given.seconds:
            here = root / f"run-{len(runs)}"
            here.mkdir()
            told = _run(here, federation, generator, given.who, kills, given.kills, reference)
            runs.append(told)
            print(json.dumps(told), file=sys.stderr, flush=True)
            shutil.rmtree(here)
    compared = [run["same_bits"] for run in runs if run["dropouts"] == 0]
    print(
        json.dumps(
            {
                "who": given.who,
                "seed": given.seed,
                "rounds_of_a_run": ROUNDS,
                "kills": kills.total(),
                "kills_by_stage": dict(sorted(kills.items())),
                "runs": len(runs),
                "runs_without_dropout": len(compared),
                "of_these_with_the_bits_of_an_undisturbed_run": sum(map(bool, compared)),
                "dropouts": sum(int(str(run["dropouts"])) for run in runs),
                "second_unmaskings": sum(int(str(run["second_unmaskings"])) for run in runs),
                "second_releases": sum(int(str(run["second_releases"])) for run in runs),
                "verified": sum(bool(run["verified"]) for run in runs),
            },
            indent=1,
        )
    )


def _run(
    folder: Path,
    federation: Path,
    generator: random.Random,
    who: str,
    kills: Counter[str],
    most: int,
    reference: bytes,
) -> dict[str, object]:
    """One run from its beginning to its end, with kills."""
    deployment = deployed.Deployment(folder, federation)
    journals = Journals(folder)
    try:
        deployment.serve(*OPTIONS)
        for name in deployed.CLIENTS:
            deployment.join(name, "--require-secure-aggregation")
        before = kills.total()
        while kills.total() < most:
            target = journals.changes + generator.randint(1, MOST_BETWEEN)
            if not _reaches(deployment, journals, target):
                break
            kills[journals.stage] += 1
            victims = {"server": ["server"], "clients": deployed.CLIENTS}.get(who, ["server", *deployed.CLIENTS])
            victim = generator.choice(victims)
            deployment.signal(victim, signal.SIGKILL)
            deployment.resume() if victim == "server" else deployment.start(victim)
        while deployment.processes["server"].poll() is None:
            journals.look()
            time.sleep(_LOOK_S)
        deployment.finish(("server",))
    finally:
        deployment.end()
    unmasked = Counter((event["purpose"], event["round"]) for event in deployment.events("sum_unmasked"))
    counts = [event["clients"] for event in deployment.events("sum_unmasked")]
    return {
        "kills": kills.total() - before,
        "dropouts": sum(len(deployed.CLIENTS) - count for count in counts),
        "refused": len(deployment.events("update_refused")),
        "missed": len(deployment.events("round_missed")),
        "same_bits": deployment.adapter == reference,
        "second_unmaskings": sum(len(attempts) > 1 for attempts in journals.revealed.values()),
        "second_releases": sum(count > 1 for count in unmasked.values()),
        "verified": _verified(deployment.run),
    }


def _reaches(deployment: deployed.Deployment, journals: Journals, target: int) -> bool:
    """Whether the journals change so often before the run is over."""
    end = time.monotonic() + _PATIENCE_S
    while journals.changes < target:
        if deployment.processes["server"].poll() is not None:
            return False
        assert time.monotonic() < end, deployment.everything_printed()
        journals.look()
        time.sleep(_LOOK_S)
    return deployment.processes["server"].poll() is None


def _verified(run: Path) -> bool:
    output = run.parent / "verified"
    process = deployed.plait("verify", run, "--json", folder=run.parent, output=output)
    return process.wait() == 0 and json.loads(output.read_text())["replayed"] == ROUNDS


if __name__ == "__main__":
    main()
