"""What a run that goes on from an adapter gains where few of many clients take part, by the bits of its keyframes.

    python simulations/participation/continued.py DIR --corpora austen mail quotes --out FILE

DIR is of `defaults/corpora.py`. A run of 24 rounds, then 24 more from its adapter: with the shadow exact for everybody,
and with keyframes that have so many bits more than those of a run from its seed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1] / "defaults"))
from learning import COMMON, split
from one_run import append, losses_of
from run import exact

from plait.features.studies.cell import run_cell
from plait.rounds import aggregator, downlink
from plait.rounds.ledger import read_events
from plait.rounds.run_view import RunView
from plait.rounds.stop import StopRequest
from plait.simulation.loaded import Loaded


def gained(settings: dict[str, object], out: Path, loaded: Loaded) -> dict[str, object]:
    """The losses and bytes of a run."""
    run_cell({key.replace("_", "-"): value for key, value in settings.items()}, out, loaded, StopRequest())
    view = RunView.of(read_events(out / "ledger.jsonl"))
    return {"losses": losses_of(view), "downlink_bytes": view.sent.downlink_bytes}


def main() -> None:
    """Run each corpus once, and go on from there in each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--corpora", nargs="+", required=True)
    parser.add_argument("--more", nargs="+", type=float, default=[1.5, 2.25, 3], help="bits of a keyframe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    loaded = Loaded()
    with tempfile.TemporaryDirectory() as scratch:
        for corpus in arguments.corpora:
            data = split(corpus, arguments.directory, Path(scratch))
            common = {**COMMON, "data": data, "clients_per_round": 8, "seed": arguments.seed}
            first = Path(scratch) / corpus

            append(
                arguments.out,
                {"corpus": corpus, "way": "first", "seed": arguments.seed, **gained(common, first, loaded)},
            )
            init = {"init_adapter": str(first / "adapter"), "seed": arguments.seed + 100}
            with patch.object(aggregator, "follow", exact):
                found = gained(common | init, first.with_name(f"{corpus}-exact"), loaded)
            append(arguments.out, {"corpus": corpus, "way": "exact", "seed": arguments.seed, **found})
            for more in arguments.more:
                with patch.object(downlink, "_CONTINUED_BITS", more):
                    found = gained(common | init, first.with_name(f"{corpus}-{more}"), loaded)
                append(arguments.out, {"corpus": corpus, "way": f"{more:g} more", "seed": arguments.seed, **found})


if __name__ == "__main__":
    main()
