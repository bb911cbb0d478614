from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from plait.errors import ConfigError, MachineError, PeerError
from server.inbox import Bodies, Inbox, StoredAnswer, group_and_type, task_id_of

BODY = b"body" * 1000
OF_BODY = hashlib.sha256(BODY).digest()


def test_a_body_is_held_once_and_only_while_it_is_used():
    bodies = Bodies()
    assert bodies.known(BODY) is None
    for _ in range(3):
        bodies.hold(BODY, OF_BODY)
    assert bodies.get(OF_BODY) is BODY
    assert bodies.known(BODY) == OF_BODY
    assert (len(bodies), bodies.held_bytes) == (1, len(BODY))

    for left in (2, 1, 0):
        bodies.release(OF_BODY)
        assert (bodies.get(OF_BODY) is not None) == (left > 0)

    assert bodies.known(BODY) is None
    assert (len(bodies), bodies.held_bytes) == (0, 0)


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


def test_what_was_written_is_read_also_by_a_later_inbox(inbox, tmp_path):
    assert not inbox.has("alice", "1.train.0")
    assert receive(inbox)

    for each in (inbox, Inbox(tmp_path / "inbox", node_quota_bytes=1)):
        assert each.has("alice", "1.train.0")
        assert each.read("alice", "1.train.0") == StoredAnswer(1, DATA)


def test_an_answer_that_was_read_stays_whole_when_it_is_deleted_and_received_anew(inbox):
    receive(inbox)
    answer = inbox.read("alice", "1.train.0")
    inbox.remove("alice", "1.train.0")
    inbox.sweep()
    assert receive(inbox, data=DATA[::-1], digest=hashlib.sha256(DATA[::-1]).digest())

    assert bytes(answer.data) == DATA
    assert bytes(inbox.read("alice", "1.train.0").data) == DATA[::-1]


@pytest.mark.parametrize("kept", [0, 1, 1000, len(DATA)])
@pytest.mark.parametrize("offset", [0, 1, 1000, len(DATA)])
def test_an_upload_goes_on_from_any_byte_that_is_held(inbox, kept, offset):
    incoming = inbox.receive("alice", "1.train.0", content=1, digest=DIGEST, size=len(DATA), offset=0)
    incoming.write(DATA[:kept])
    incoming.close()
    assert inbox.held_bytes("alice", "1.train.0", DIGEST) == kept

    if offset > kept:
        with pytest.raises(PeerError, match=f"starts at byte {offset}, expected at most {kept}"):
            receive(inbox, offset=offset)
    else:
        assert receive(inbox, data=memoryview(DATA)[offset:], offset=offset)
        assert inbox.read("alice", "1.train.0").data == DATA


def test_a_part_with_another_digest_gives_way(inbox):
    incoming = inbox.receive("alice", "1.train.0", content=1, digest=b"x" * 32, size=10**6, offset=0)
    incoming.write(b"x" * 10**6)
    incoming.close()

    assert inbox.held_bytes("alice", "1.train.0", DIGEST) == 0
    assert receive(inbox)
    assert inbox.read("alice", "1.train.0").data == DATA


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


def test_answers_of_other_groups_are_forgotten_but_for_those_that_are_asked_for(inbox):
    for task in ("1.train.0", "1.evaluate.0", "2.train.0"):
        receive(inbox, task, data=b"x", size=1, digest=hashlib.sha256(b"x").digest())
    receive(inbox, "1.train.0", node="bob")

    inbox.remove_older("2", "train", but=lambda node, task: (node, task) == ("bob", "1.train.0"))

    left = [(n, t) for n in ("alice", "bob") for t in ("1.train.0", "1.evaluate.0", "2.train.0") if inbox.has(n, t)]
    assert left == [("alice", "1.evaluate.0"), ("alice", "2.train.0"), ("bob", "1.train.0")]


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
