from __future__ import annotations

import os
from pathlib import Path

import pytest

from plait.errors import MachineError
from plait.rounds.memory import DiskMemory
from tests.commands import killed_after


def test_what_was_kept_is_there_for_another_process(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "ada"
    for data in (b"one", b"", bytes(range(256)) * 100):
        DiskMemory(folder).save("residual", data)
        assert DiskMemory(folder).load("residual") == data
    assert DiskMemory(folder).load("adapter") is None
    assert DiskMemory(tmp_path / "run" / "bob").load("residual") is None


def test_the_same_bytes_again_are_not_written_again(tmp_path: Path) -> None:
    memory = DiskMemory(tmp_path / "ada")
    memory.save("adapter", b"same")
    before = (tmp_path / "ada" / "adapter").stat().st_ino
    memory.save("adapter", b"same")
    assert (tmp_path / "ada" / "adapter").stat().st_ino == before


def test_a_disk_that_takes_nothing_is_the_machines_fault_and_nothing_is_lost(tmp_path: Path, monkeypatch) -> None:
    memory = DiskMemory(tmp_path / "ada")
    memory.save("residual", b"owed")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="No space left on device"):
        memory.save("residual", b"more")
    assert memory.load("residual") == b"owed"


def test_a_folder_that_cannot_be_made_or_read_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MachineError):
        DiskMemory(tmp_path / "file" / "ada").save("spec", b"s")
    (tmp_path / "ada" / "spec").mkdir(parents=True)
    with pytest.raises(MachineError, match="Is a directory"):
        DiskMemory(tmp_path / "ada").load("spec")


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_whole_bytes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from plait.rounds.memory import DiskMemory\n"
        "memory, number = DiskMemory(Path(sys.argv[1])), 0\n"
        "while True:\n"
        "    number += 1; memory.save('residual', bytes([number % 251]) * 200_000)\n"
        "    number == 3 and print('going', flush=True)\n"
    )
    killed_after(1, code, tmp_path)
    kept = DiskMemory(tmp_path).load("residual")
    assert kept is not None
    assert kept == bytes([kept[0]]) * 200_000
