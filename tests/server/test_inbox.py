import hashlib
from pathlib import Path

import pytest

from plait.errors import ConfigError, MachineError, PeerError
from server.inbox import Inbox, group_and_type, task_id_of

DATA = bytes(range(256)) * 5000
FULL = Path("/dev/full")
SIZE = len(DATA)
DIGEST = hashlib.sha256(DATA).digest()


@pytest.fixture
def inbox(tmp_path):
    return Inbox(tmp_path / "inbox", node_quota_bytes=3 * len(DATA))


def receive(inbox, task="1.train.0", *, node="alice", data=DATA, offset=0, size=SIZE, digest=DIGEST):
    incoming = inbox.receive(node, task, content=1, digest=digest, size=size, offset=offset)
    try:
        incoming.write(data)
        return incoming.finish()
    finally:
        incoming.close()


@pytest.mark.parametrize("group", ["1", "", "a.b", "../..", "é/\0", "%2E", "x" * 100])
@pytest.mark.parametrize("kind", ["train", "train.mine"])
def test_a_tasks_name_is_a_files_name_and_says_what_it_was_made_of(group, kind):
    name = task_id_of(group, kind, 12)

    assert group_and_type(name) == (group, kind)
    assert "/" not in name
    assert name.isascii()
    assert name.isprintable()


def test_names_that_no_file_can_have_are_refused():
    with pytest.raises(ConfigError, match="expected at most 200"):
        task_id_of("é" * 100, "train", 0)


def test_an_answer_that_was_read_stays_whole_when_it_is_deleted_and_received_anew(inbox):
    receive(inbox)
    answer = inbox.read("alice", "1.train.0")
    inbox.remove("alice", "1.train.0")
    inbox.sweep()
    assert receive(inbox, data=DATA[::-1], digest=hashlib.sha256(DATA[::-1]).digest())

    assert bytes(answer.data) == DATA
    assert bytes(inbox.read("alice", "1.train.0").data) == DATA[::-1]


def test_more_or_less_than_was_announced_is_refused_and_less_can_go_on(inbox):
    with pytest.raises(PeerError, match="more than the 10 bytes"):
        receive(inbox, size=10)
    with pytest.raises(PeerError, match="ends after 4 bytes, expected 1280000"):
        receive(inbox, data=DATA[:4])
    assert inbox.held_bytes("alice", "1.train.0", DIGEST) == 4


def test_one_node_cannot_fill_the_disk(inbox):
    receive(inbox, "1.train.0")
    receive(inbox, "1.train.1")
    with pytest.raises(PeerError, match="expected 3840000 in all"):
        receive(inbox, "1.train.2")
    assert receive(inbox, "1.train.2", node="bob")


@pytest.mark.skipif(not FULL.exists(), reason="a system without /dev/full")
def test_a_full_disk_is_the_machines_fault(inbox):
    incoming = inbox.receive("alice", "1.train.0", content=1, digest=DIGEST, size=len(DATA), offset=0)
    incoming.close()

    with FULL.open("wb", buffering=0) as full:
        incoming._file = full
        with pytest.raises(MachineError, match=r"cannot write .*: No space left on device"):
            incoming.write(DATA)


def test_a_closed_inbox_has_no_file_open_and_lets_nothing_be_written(inbox):
    incoming = inbox.receive("alice", "1.train.0", content=1, digest=DIGEST, size=SIZE, offset=0)
    incoming.write(DATA[:100])

    inbox.close()

    assert incoming._file.closed
    with pytest.raises(MachineError, match="the server stops"):
        incoming.write(DATA[100:])
    assert inbox.held_bytes("alice", "1.train.0", DIGEST) == 100
