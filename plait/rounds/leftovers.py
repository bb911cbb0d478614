"""What clients keep on disk for rounds to come, once there are none to come: removed, but for what is their own.

Debts, moments and drifts serve the next round only, and so does the value that a repeated round would start from. A
client's own adapter is nowhere else and stays. Knows nothing of which runs are over.
"""

from __future__ import annotations

from pathlib import Path

from plait.errors import MachineError
from plait.files import read_if_there, write_atomically
from plait.rounds.memory import IRREPLACEABLE
from plait.rounds.past import Past
from plait.wire.bounds import RUN_ID_BYTES

_OWN = "own"


def keep_only_what_lasts(folder: Path) -> None:
    """Remove from a client's memory what only further rounds would need.

    Args:
        folder: the memory of one client in one run, which is over.

    Raises:
        MachineError: something cannot be read, written or removed; the client's own adapter is there all the same.
    """
    own = read_if_there(folder / _OWN)
    if own is not None:
        past = Past.from_bytes(own, own[:RUN_ID_BYTES])
        if past.before:
            write_atomically(
                folder / _OWN, Past(past.run_id, 0, b"", past.after_round, past.after).to_bytes(), mode=0o600
            )
    try:
        for key in IRREPLACEABLE - {_OWN}:
            (folder / key).unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(f"cannot remove what a run left in '{folder}': {error.strerror or error}") from error
