"""Remove what clients keep on disk for further rounds once a run is over, except for what is their own.

Debts, moments and drifts serve the next round only, and so does the value that a repeated round would start from. A
client's own adapter is nowhere else and stays. Knows nothing of which runs are over.
"""

from __future__ import annotations

from pathlib import Path

from plait.errors import EarlierFormatError, MachineError
from plait.files import read_if_there, write_atomically
from plait.rounds.client_state import ClientState
from plait.rounds.memory import IRREPLACEABLE

_OWN = "own"


def keep_only_what_lasts(folder: Path) -> None:
    """Remove from a client's memory what only further rounds would need.

    Args:
        folder: the memory of one client in one run, which is over.

    Raises:
        MachineError: something cannot be read, written or removed; the client's own adapter is there all the same.
    """
    own = _state(folder / _OWN)
    if own and own.before.arrays:
        write_atomically(folder / _OWN, ClientState(own.run_id, after=own.after).to_bytes(), mode=0o600)
    try:
        for key in IRREPLACEABLE - {_OWN}:
            (folder / key).unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(f"cannot remove what a run left in '{folder}': {error.strerror or error}") from error


def _state(path: Path) -> ClientState | None:
    try:
        return ClientState.from_bytes(read_if_there(path) or b"")
    except EarlierFormatError:
        return None
