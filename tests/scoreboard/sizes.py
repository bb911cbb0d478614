"""Masked sums of every size from 3 to 2,000 clients: a server without help, with the most colluders, and with one more.

The attacks, and the chance that is left above 256 clients, are in `tests/plait/secagg`.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from scoreboard.row import Row
from scoreboard.small_federation import borrowed

attacked_sums = borrowed("plait/secagg/attacked_sums.py")
QUICK = (*range(3, 12), 30, 101, 256, 257, 350, 500, 1999)
LARGEST = 2000


def run(*, full: bool, scratch: Path) -> Row:
    del scratch
    with multiprocessing.get_context("fork").Pool() as pool:
        found = pool.map(_of_size, range(3, LARGEST + 1) if full else QUICK, chunksize=1)
    complaints = [complaint for each in found for complaint in each]
    return Row.of("masked sums by size", complaints, least=18_000 if full else 140, largest=LARGEST)


def _of_size(count: int) -> list[str]:
    return list(attacked_sums.claims(count))
