"""Once a run is over, remove a client's state on disk except its personalized adapter.

Residuals, moments and drifts serve only the next round, and so does the value from which a repeated round would start.
The personalized adapter exists nowhere else and stays. So does, where a server could say that a run is over and then go
on with it, the account of what the client's records have cost. Knows nothing of which runs are over.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from plait.errors import MachineError
from plait.files import read_if_there, write_atomically
from plait.rounds.memory import IRREPLACEABLE

_OWN = "own"


def keep_only_what_lasts(folder: Path, *, besides: Collection[str] = ()) -> None:
    """Remove the values that only further rounds would need.

    Args:
        folder: the memory of one client in one run, which is over.

    Raises:
        MachineError: something cannot be read, written or removed; the personalized adapter is intact.
    """
    # Imported here so that `plait --help`, which imports this module, need not load numpy.
    from plait.rounds.client_state import ClientState

    own = ClientState.from_bytes(read_if_there(folder / _OWN) or b"")
    if own and own.before.arrays:
        write_atomically(folder / _OWN, ClientState(own.run_id, after=own.after).to_bytes(), mode=0o600)
    try:
        for key in IRREPLACEABLE - {_OWN, *besides}:
            (folder / key).unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(f"cannot remove what a run left in '{folder}': {error.strerror or error}") from error
