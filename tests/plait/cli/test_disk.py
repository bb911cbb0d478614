"""A simulation on a disk that fills up: one line, nobody blamed, and with room it goes on to the same adapter."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.rounds.ledger import read_events

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


# Full when the first updates come, and in the second round.
@pytest.mark.parametrize("left_bytes", [160_000, 400_000])
def test_a_simulation_on_a_disk_that_fills_up_stops_in_one_line_and_goes_on_with_room(
    left_bytes: int, disk: Path, original: Path, plait, jsonl: Path, small: tuple[str, ...]
) -> None:
    ballast, out = disk / "ballast", disk / "run"
    ballast.write_bytes(bytes(DISK_BYTES - left_bytes))
    options = (
        "simulate", "--data", jsonl, "--partition", "natural:author", "--clients", 3, *small, "--learning-rate", 1e-2,
        "--dtype", "float32", "--out", out,
    )  # fmt: skip
    ran = plait(*options)
    assert ran.code == 1
    last = ran.err.splitlines()[-1]
    assert "No space left on device" in last
    assert f"the disk at '{disk}' has " in last
    assert last.endswith(f"go on with: plait resume {out}")
    assert "Traceback" not in ran.err
    events = read_events(out / "ledger.jsonl")
    assert not [event for event in events if event["event"] in ("update_refused", "client_turned_away")]

    ballast.unlink()
    assert plait("resume", out).code == 0
    assert (out / WEIGHTS).read_bytes() == (original / "run" / WEIGHTS).read_bytes()
