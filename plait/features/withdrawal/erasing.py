"""What a run has kept of one client, taken out of its directory."""

from __future__ import annotations

import shutil

from plait.files import cannot_write
from plait.rounds.run_directory import RunDirectory


def erase_client(directory: RunDirectory, client: str) -> tuple[str, ...]:
    """Remove the kept updates and the state of a client; may be repeated after a crash.

    Returns:
        The files that there were, as paths within the run's directory.

    Raises:
        MachineError: one cannot be removed.
    """
    name, found = directory.client_memory(client).name, list[str]()
    for place in (*sorted(directory.path.glob("spool/round-*")), directory.path / "clients"):
        kept = place / name
        files = sorted(file for file in kept.rglob("*") if file.is_file()) if kept.is_dir() else [kept]
        found += [str(file.relative_to(directory.path)) for file in files if file.is_file()]
        try:
            shutil.rmtree(kept) if kept.is_dir() else kept.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(kept, error, doing="remove") from error
    return tuple(found)
