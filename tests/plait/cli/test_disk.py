"""A simulation on a disk that fills up: one line, no blame, and with room again it continues to the same adapter."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.rounds.ledger import read_lines
from tests.commands import resuming

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
    ran = plait("simulate", *_options(jsonl, small, out))
    _is_one_line(ran, disk, f"continue with: {shlex.join(['plait', *resuming(out)])}")
    events = read_lines(out / "ledger.jsonl")
    assert not [event for event in events if event["event"] in ("update_refused", "client_turned_away")]

    ballast.unlink()
    assert plait(*resuming(out)).code == 0
    assert (out / WEIGHTS).read_bytes() == (original / "run" / WEIGHTS).read_bytes()


def test_a_simulation_that_a_full_disk_did_not_let_begin_can_be_started_again(
    disk: Path, original: Path, plait, jsonl: Path, small: tuple[str, ...]
) -> None:
    ballast, out = disk / "ballast", disk / "run"
    ballast.write_bytes(bytes(DISK_BYTES - 100_000))
    _is_one_line(plait("simulate", *_options(jsonl, small, out)), disk, "start it again with the same command")
    ballast.unlink()
    assert plait("simulate", *_options(jsonl, small, out)).code == 0
    assert (out / WEIGHTS).read_bytes() == (original / "run" / WEIGHTS).read_bytes()


def _options(data: Path, small: tuple[str, ...], out: Path) -> tuple[object, ...]:
    return (
        "--data", data, "--partition", "natural:author", "--clients", 3, *small, "--learning-rate", 1e-2,
        "--dtype", "float32", "--out", out,
    )  # fmt: skip


def _is_one_line(ran, disk: Path, how: str) -> None:
    assert ran.code == 1
    assert "Traceback" not in ran.err
    last = ran.err.splitlines()[-1]
    assert last.startswith("error: cannot ")
    assert "No space left on device" in last
    assert f"the disk at '{disk}' has " in last
    assert last.endswith(how)
