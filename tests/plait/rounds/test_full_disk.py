"""A disk that is full or can only be read ends a run with one line and spoils nothing; with room it goes on."""

import errno
import os
from pathlib import Path

import pytest

from plait.errors import MachineError
from plait.rounds.ledger import read_events

ROUNDS = 2


class Disk:
    """Fails from the given call on, until there is room again."""

    def __init__(self, full_at):
        self.full_at = full_at
        self.calls = 0

    def __call__(self, *given):
        self.calls += 1
        if self.full_at is not None and self.calls > self.full_at:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_run_whose_disk_fills_up_anywhere_goes_on_to_the_same_adapter(federate, monkeypatch):
    disk = Disk(None)
    monkeypatch.setattr(os, "fsync", disk)
    expected = federate(rounds=ROUNDS).run()
    whole = disk.calls
    assert whole > 50
    for full_at in range(whole):
        federation = federate(rounds=ROUNDS)
        disk = Disk(full_at)
        monkeypatch.setattr(os, "fsync", disk)
        with pytest.raises(MachineError) as stopped:
            federation.run()
        assert "No space left on device" in str(stopped.value)
        assert "\n" not in str(stopped.value)
        assert not list(federation.path.rglob(".*.tmp"))
        disk.full_at = None
        assert federation.run().adapter.digest() == expected.adapter.digest(), full_at
        read_events(federation.path / "ledger.jsonl")


@pytest.mark.parametrize("what", ["mkdir", "replace"])
def test_a_directory_that_can_only_be_read_is_said_in_one_line(federate, monkeypatch, what):
    def refuse(*given, **more):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, what, refuse)
    with pytest.raises(MachineError, match="Read-only file system") as stopped:
        federate().run()
    assert "\n" not in str(stopped.value)
