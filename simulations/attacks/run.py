"""Every attack against every defence: python simulations/attacks/run.py (see README.md).

Results are appended to results.jsonl, one run a line; what stands there already is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from attacks.attackers import ATTACKS, with_attackers  # noqa: E402
from attacks.federation import no_waiting_for_the_disk, run  # noqa: E402
from attacks.model import Client, accuracy, spec_and_initial  # noqa: E402
from attacks.stories import deal, load_stories  # noqa: E402

from plait.errors import PlaitError  # noqa: E402
from plait.rounds.validate import NormBound, NormPolicy  # noqa: E402

CLIENTS, ROUNDS, ALPHA = 20, 10, 1.0
DEFENCES = {
    "fedavg, no bound": ("fedavg", NormPolicy.OFF),
    "fedavg, clip": ("fedavg", NormPolicy.CLIP),
    "fedavg": ("fedavg", NormPolicy.REJECT),
    "median": ("median", NormPolicy.REJECT),
    "trimmed_mean": ("trimmed_mean", NormPolicy.REJECT),
    "geometric_median": ("geometric_median", NormPolicy.REJECT),
    "krum": ("krum", NormPolicy.REJECT),
    "multi_krum": ("multi_krum", NormPolicy.REJECT),
    "bulyan": ("bulyan", NormPolicy.REJECT),
}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "plait-bbc-minilm.npz")
    options = parser.parse_args()
    stories = load_stories(options.cache)
    spec, _ = spec_and_initial()
    cells = [("none", 0), *itertools.product(ATTACKS, (2, 4, 6))]
    done = set()
    if options.results.exists():
        lines = map(json.loads, options.results.read_text().splitlines())
        done = {(line["seed"], line["attack"], line["liars"], line["defence"]) for line in lines}
    for seed in map(int, options.seeds.split(",")):
        parts, held_out = deal(stories, clients=CLIENTS, alpha=ALPHA, seed=seed)
        honest = [Client(f"c{number:02}", part) for number, part in enumerate(parts)]
        for (attack, liars), (defence, (rule, policy)) in itertools.product(cells, DEFENCES.items()):
            if (seed, attack, liars, defence) in done:
                continue
            clients = honest
            if liars:
                clients = with_attackers(honest, attack, liars, spec=spec, seed=seed, run_seed=seed)
            with tempfile.TemporaryDirectory() as folder, no_waiting_for_the_disk():
                line = {"seed": seed, "attack": attack, "liars": liars, "defence": defence}
                try:
                    state, events = run(
                        Path(folder) / "run", clients, rule=rule, bound=NormBound(policy), rounds=ROUNDS, seed=seed
                    )
                except PlaitError as error:
                    line |= {"accuracy": None, "error": str(error)}
                else:
                    right, wrong = accuracy(held_out, state.adapter, spec)
                    refused = [event["client"] for event in events if event["event"] == "update_refused"]
                    names = {client.name for client in clients[:liars]}
                    line |= {
                        "accuracy": round(right, 4),
                        "backdoor": round(wrong, 4),
                        "liars_refused": sum(name in names for name in refused),
                        "honest_refused": sum(name not in names for name in refused),
                    }
            with options.results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
