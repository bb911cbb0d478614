"""Ten thousand rounds in one process: neither memory nor open files grow with the rounds.

The adapter is the unit tests'; rounds, disk and ledger are plait's own. The ledger grows on disk, as it should.
"""

import gc
import os
import sys
from pathlib import Path

import numpy as np
from scoreboard.row import Row
from scoreboard.small_federation import FakeModel, no_waiting_for_the_disk, of_numbers

ROUNDS = 10_000
WARM = 0.2  # of the rounds, in which pools and caches fill
MOST_BYTES_A_ROUND = 100.0
MOST_BLOCKS_A_ROUND = 1.0  # of Python's own allocator: what is small and exact
MOST_FILES_A_ROUND = 1e-4


@no_waiting_for_the_disk()
def run(*, full: bool, scratch: Path) -> Row:
    """One run; memory and files are looked at a hundred times."""
    rounds = ROUNDS if full else 1000
    federation = of_numbers.Federation(
        scratch / "run", {"alice": FakeModel(1.0, 3), "bob": FakeModel(4.0, 7)}, bits="bf16", rounds=rounds,
        eval_every=rounds // 4,
    )  # fmt: skip
    seen: list[tuple[int, int, int, int]] = []

    class Looking(list):
        """Takes the place of the list of published states, which would grow as other lists of the tests do."""

        def append(self, state) -> None:
            federation.channel.asked.clear()
            if state.round % (rounds // 100) == 0:
                gc.collect()
                files = len(list(Path("/proc/self/fd").iterdir()))
                seen.append((state.round, _rss_bytes(), files, sys.getallocatedblocks()))

    federation.published = Looking()
    state = federation.run()
    numbers, memory, files, blocks = (np.array(column, float) for column in zip(*seen, strict=True))
    warm = numbers > WARM * rounds
    if full:
        bytes_a_round = float(np.polyfit(numbers[warm], memory[warm], 1)[0])
    else:
        # A table of Python's own that doubles once weighs too much in a short run.
        bytes_a_round = float(np.median(np.diff(memory[warm]) / np.diff(numbers[warm])))
    files_a_round = float(np.polyfit(numbers[warm], files[warm], 1)[0])
    blocks_a_round = float(np.polyfit(numbers[warm], blocks[warm], 1)[0])
    # A short run sees allocator noise of a few pages.
    most = MOST_BYTES_A_ROUND if full else 5 * MOST_BYTES_A_ROUND
    failures = [] if state.round == rounds else [f"{state.round} rounds were finished, expected {rounds}"]
    if bytes_a_round > most:
        failures.append(f"memory grows by {bytes_a_round:.0f} bytes per round, expected at most {most:.0f}")
    if blocks_a_round > (MOST_BLOCKS_A_ROUND if full else 5 * MOST_BLOCKS_A_ROUND):
        failures.append(f"objects grow by {blocks_a_round:.1f} per round")
    if files_a_round > MOST_FILES_A_ROUND:
        failures.append(f"open files grow by {files_a_round:g} per round")
    checkpoints = len(list((scratch / "run" / "checkpoints").iterdir()))
    if checkpoints > 2:
        failures.append(f"{checkpoints} checkpoints are kept, expected 2")
    figures = {
        "memory": f"{bytes_a_round:+.1f} B per round", "objects": f"{blocks_a_round:+.2f} per round",
        "open files": f"{files_a_round:+.5f} per round", "RSS at the end": f"{memory[-1] / 1e6:.0f} MB",
    }  # fmt: skip
    return Row("soak", rounds, 0 if failures else rounds, figures, failures, least=rounds)


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
