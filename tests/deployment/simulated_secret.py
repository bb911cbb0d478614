"""Clients of a deployment that have the secrets of their simulation, so that the two can be compared bit for bit.

A real client draws its own for each run, so its masked updates are on no other machine. With DRAWN in its environment
it does so here, too.
"""

import os
import sys
from pathlib import Path

from plait.rounds.data_journal import ClientSecret

DRAWN = "PLAIT_TEST_DRAWN_SECRET"


def use_simulated_secret(*, seed: int) -> None:
    """Let this process's client, which `--kit` names, have its simulation's secret instead of drawing one."""
    if "client" not in sys.argv or "--kit" not in sys.argv or DRAWN in os.environ:
        return
    name = Path(sys.argv[sys.argv.index("--kit") + 1]).name
    ClientSecret.of = classmethod(lambda cls, memory: cls.simulated(seed, name))  # type: ignore[method-assign]
