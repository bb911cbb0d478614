from pathlib import Path

import pytest

from plait.errors import DiskFullError, MachineError
from server.inbox import Inbox, SmallAnswer, SmallAnswers

FILE = "1.train.answers"
ALICE, BOB, OTHER = ("alice", "1.train.0"), ("bob", "1.train.0"), ("bob", "1.evaluate.0")


def answers(*keys) -> list[SmallAnswer]:
    return [SmallAnswer(key, 1, f"of {key}".encode()) for key in keys]


def found(directory: Path) -> dict:
    """What a server that is started there finds."""
    here = SmallAnswers(directory)
    return {key: here.read(key) for key in here}


def test_what_was_stored_is_there_after_a_restart_in_a_file_for_each_round_and_kind(tmp_path):
    here = SmallAnswers(tmp_path)
    here.store(answers(ALICE, OTHER))
    here.store(answers(BOB))

    assert {key: here.read(key) for key in here} == found(tmp_path)
    assert found(tmp_path) == {key: (1, f"of {key}".encode()) for key in (ALICE, OTHER, BOB)}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["1.evaluate.answers", FILE]


def test_what_a_crash_has_cut_off_is_dropped_and_what_follows_is_kept(tmp_path):
    SmallAnswers(tmp_path).store(answers(ALICE))
    whole = (tmp_path / FILE).read_bytes()
    SmallAnswers(tmp_path).store(answers(BOB))
    both = (tmp_path / FILE).read_bytes()
    for cut in range(len(whole), len(both)):
        (tmp_path / FILE).write_bytes(both[:cut])

        assert found(tmp_path).keys() == {ALICE}
        SmallAnswers(tmp_path).store(answers(BOB))
        assert (tmp_path / FILE).read_bytes() == both


def test_a_changed_byte_ends_what_is_read(tmp_path):
    SmallAnswers(tmp_path).store(answers(ALICE))
    whole = bytearray((tmp_path / FILE).read_bytes())
    for at in range(len(whole)):
        (tmp_path / FILE).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])

        assert not found(tmp_path)


def test_what_was_removed_stays_so_after_a_restart_and_a_file_of_nothing_else_is_deleted(tmp_path):
    here = SmallAnswers(tmp_path)
    here.store(answers(ALICE, BOB))

    here.remove([ALICE, OTHER])
    assert found(tmp_path).keys() == {*here} == {BOB}
    with pytest.raises(MachineError, match="cannot read"):
        here.read(ALICE)

    here.remove([BOB])
    assert not list(tmp_path.iterdir())
    here.store(answers(ALICE))
    assert found(tmp_path).keys() == {ALICE}


def test_a_full_disk_is_told_and_leaves_no_half_of_a_record(tmp_path, monkeypatch):
    here = SmallAnswers(tmp_path)
    here.store(answers(ALICE))
    monkeypatch.setattr("server.inbox.os.fsync", full_disk)
    with pytest.raises(DiskFullError):
        here.store(answers(BOB))
    monkeypatch.undo()

    assert found(tmp_path).keys() == {*here} == {ALICE}
    here.store(answers(BOB))
    assert found(tmp_path).keys() == {ALICE, BOB}


def full_disk(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_an_inbox_has_them_until_it_forgets_them(tmp_path):
    inbox = Inbox(tmp_path, node_quota_bytes=1)
    inbox.store(answers(ALICE, BOB))
    again = Inbox(tmp_path, node_quota_bytes=1)
    assert again.has(*ALICE)
    assert again.read(*ALICE).data == f"of {ALICE}".encode()

    again.remove(*ALICE)
    again.remove_older("2", "train", but=lambda node, _: node == "bob")
    assert not again.has(*ALICE)
    again.sweep()
    assert found(tmp_path).keys() == {BOB}
    again.store(answers(ALICE))
    again.remove(*ALICE)
    again.store(answers(ALICE))
    again.sweep()
    assert found(tmp_path).keys() == {ALICE, BOB}
