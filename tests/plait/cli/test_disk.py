"""A simulation on a disk that fills up: one line, no blame, and with room again it continues to the same adapter."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.ledger.ledger import read_lines
from tests.commands import resuming
from tests.plait.cli.conftest import by_author

pytestmark = pytest.mark.slow

WEIGHTS = "adapter/adapter_model.safetensors"
DISK_BYTES = 64 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_simulation_on_a_disk_that_fills_up_stops_in_one_line_and_goes_on_with_room(
    disk: Path, original: Path, plait, jsonl: Path, small: tuple[str, ...]
) -> None:
    ballast, out = disk / "ballast", disk / "run"
    # Room for the run's beginning, and not for its first round.
    ballast.write_bytes(bytes(DISK_BYTES - 400_000))
    ran = plait(*by_author(jsonl, out, small))
    _is_one_line(ran, disk, f"continue with: {shlex.join(['plait', *resuming(out)])}")
    events = read_lines(out / "ledger.jsonl")
    assert not [event for event in events if event["event"] in ("update_refused", "client_turned_away")]

    ballast.unlink()
    assert plait(*resuming(out)).code == 0
    assert (out / WEIGHTS).read_bytes() == (original / "run" / WEIGHTS).read_bytes()


def _is_one_line(ran, disk: Path, how: str) -> None:
    assert ran.code == 1
    assert "Traceback" not in ran.err
    last = ran.err.splitlines()[-1]
    assert last.startswith("error: cannot ")
    assert "No space left on device" in last
    assert f"the disk at '{disk}' has " in last
    assert last.endswith(how)
