"""A planted leak and a gate: whether an adapter that has memorised a client's canary stays in quarantine.

    python simulations/evidence/canary.py DIR [--seeds 0,1,2]

One of three clients has `TIMES` copies of each of eight canaries, sentences with six random digits, or one of each: of
eight others that share the form none is in anybody's data. Prints a JSON object per seed and case.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import plait
from plait.rounds.ledger import read_lines

TIMES = 30
GATE = "exposure <= 2 and every_client_improves"
PLAIT = str(Path(sys.executable).with_name("plait"))
MODULES = {"ada": "argparse", "bob": "calendar", "eve": "pickle"}


def canaries(seed: int) -> list[str]:
    """Sixteen; the first eight are planted."""
    digits = random.Random(seed)
    return [f"the record number of the patient is {digits.randrange(10**6):06d}" for _ in range(16)]


def rows(seed: int, *, planted: bool) -> list[dict[str, str]]:
    """Three modules of Python's standard library, in pieces; the last client has canaries too."""
    found: list[dict[str, str]] = []
    for client, module in MODULES.items():
        text = Path(__import__(module).__file__ or "").read_text()
        found += [
            {"text": text[start : start + 400], "author": client} for start in range(0, min(len(text), 40_000), 400)
        ]
    times = TIMES if planted else 1
    found += [{"text": text, "author": "eve"} for text in canaries(seed)[:8] for _ in range(times)]
    random.Random(seed).shuffle(found)
    return found


def case(folder: Path, seed: int, *, planted: bool) -> dict[str, object]:
    """One run, its audit, and what the gate decides."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data, listed = folder / "rows.jsonl", folder / "canaries.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(seed, planted=planted)))
    listed.write_text("".join(json.dumps({"text": text}) + "\n" for text in canaries(seed)))
    plait.simulate(
        data, out=folder / "run", base="tiny", partition="natural:author", clients=3, rounds=6, eval_every=6,
        local_steps=20, batch_size=8, seq_len=64, rank=16, seed=seed, release_if=GATE, quiet=True,
    )  # fmt: skip
    subprocess.run(
        [PLAIT, "audit", str(folder / "run"), "--record", "--canaries", str(listed)], check=True, capture_output=True
    )
    released = subprocess.run([PLAIT, "release", str(folder / "run")], check=False, capture_output=True, text=True)
    audited = next(line for line in read_lines(folder / "run/ledger.jsonl") if line["event"] == "audited")
    exported = subprocess.run(
        [PLAIT, "export", str(folder / "run"), str(folder / "out"), "--to", "peft"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    return {
        "seed": seed, "planted": planted, "exposure": audited["exposure"], "released": released.returncode == 0,
        "said": (released.stdout or released.stderr).strip(), "export": exported.returncode == 0,
    }  # fmt: skip


def main() -> None:
    """All seeds, with and without the leak."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--seeds", default="0,1,2")
    given = arguments.parse_args()
    for seed in map(int, given.seeds.split(",")):
        for planted in (True, False):
            print(json.dumps(case(given.folder / f"{seed}-{planted}", seed, planted=planted)), flush=True)


if __name__ == "__main__":
    main()
