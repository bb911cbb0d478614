"""A full or read-only disk ends a run with one line and damages nothing; once there is room it continues."""

import errno
import os
from pathlib import Path

import pytest

from plait.errors import DiskFullError, MachineError
from plait.ledger.ledger import read_lines
from plait.rounds.participant import Participant
from plait.system.files import write_atomically
from tests.plait.rounds.conftest import DictMemory

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


@pytest.mark.slow
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
        read_lines(federation.path / "ledger.jsonl")


@pytest.mark.parametrize("what", ["mkdir", "replace"])
def test_a_directory_that_can_only_be_read_is_said_in_one_line(federate, monkeypatch, what):
    def refuse(*given, **more):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, what, refuse)
    with pytest.raises(MachineError, match="Read-only file system") as stopped:
        federate().run()
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_what_it_has_and_what_is_needed(tmp_path, monkeypatch, number):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DiskFullError) as stopped:
        write_atomically(tmp_path / "update", bytes(12_345))
    message = str(stopped.value)
    mount = next(folder for folder in tmp_path.parents if folder.is_mount())
    assert message.startswith(
        f"cannot write '{tmp_path / 'update'}': {os.strerror(number)}; the disk at '{mount}' has "
    )
    assert message.endswith(" bytes free, 12,345 bytes more are needed")


def test_a_disk_that_is_full_at_a_client_of_this_process_stops_the_run_and_blames_no_client(federate):
    federation = federate(rounds=2)
    expected = federate(rounds=2).run()
    full = [True]

    class FullMemory(DictMemory):
        def save(self, key, data):
            if full[0] and key == "adapter" and key in self:
                raise DiskFullError("cannot write 'adapter': No space left on device")
            super().save(key, data)

    federation.channel.participants[federation.node("bob")] = Participant("bob", federation.models["bob"], FullMemory())
    with pytest.raises(DiskFullError):
        federation.run()
    assert not federation.of_kind("update_refused", "client_turned_away")
    full[0] = False
    assert federation.run().adapter.digest() == expected.adapter.digest()
