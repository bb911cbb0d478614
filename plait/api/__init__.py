"""The public Python API; its names are re-exported by `plait` itself, which loads them when they are first used.

Whatever trains in this process takes turns: torch's random state and number of threads belong to the process, so two
runs at once would change each other's bits.
"""

import threading

TURN = threading.RLock()
"""Held by a simulated run for as long as it lasts, and by a client of a federation during each of its tasks."""
