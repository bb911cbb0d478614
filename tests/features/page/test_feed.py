from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from plait.features.page.feed import KEPT_PATCHES, Feed
from plait.features.page.merge import merge
from plait.rounds.events import RoundStarted, parse_event
from plait.rounds.ledger import Follower, Ledger


def missed(feed: Feed, seq: int) -> list[Any]:
    later = feed.patches_after(seq, feed.run)
    assert later is not None
    assert later[0] == feed.seq
    return json.loads(later[1] or b"[]")


def read_all(feed: Feed) -> None:
    while feed.read()[1]:
        pass


def test_a_reader_that_comes_back_gets_exactly_what_it_has_missed(write_ledger, small_run) -> None:
    whole = Feed(write_ledger(small_run))
    read_all(whole)
    seq, document = whole.document()
    assert seq == len(small_run) - 1
    for have in range(len(small_run)):
        assert [patch["seq"] for patch in missed(whole, have)] == list(range(have + 1, len(small_run)))
    first = Feed(whole.directory)
    first.read()
    mine = json.loads(first.document()[1])
    for patch in missed(whole, seq):
        merge(mine, patch)
    assert mine == json.loads(document)


@pytest.mark.parametrize(("seq", "run"), [(-1, "c0ffee"), (3, "another"), (10_000, "c0ffee")])
def test_a_reader_that_has_something_else_needs_the_document(write_ledger, small_run, seq: int, run: str) -> None:
    feed = Feed(write_ledger(small_run))
    read_all(feed)
    assert feed.patches_after(seq, run) is None


@pytest.mark.slow
def test_what_is_kept_for_the_slow_does_not_grow_with_the_run(tmp_path, small_run) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.note(parse_event(small_run[0]))
    for number in range(KEPT_PATCHES + 10):
        ledger.note(RoundStarted(round=number))
    ledger.close()
    feed = Feed(tmp_path)
    read_all(feed)
    assert feed.patches_after(9, feed.run) is None
    assert len(missed(feed, 10)) == KEPT_PATCHES


def test_a_changed_ledger_is_shown_as_broken_and_so_is_an_unreadable_one(write_ledger, small_run) -> None:
    run = write_ledger(small_run)
    ledger = run / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([*lines[:10], lines[10].replace(b"3000", b"3001"), *lines[11:]]))
    feed = Feed(run)
    read_all(feed)
    document = json.loads(feed.document()[1])
    assert "line 11" in document["broken"]
    assert document["seq"] == len(lines) - 1
    for line in (b"{]", b"[" * 100_000):
        ledger.write_bytes(b"".join([*lines[:5], line, b"\n"]))
        feed = Feed(run)
        assert feed.read() == (True, False), "a watcher is told"
        assert "not an event" in json.loads(feed.document()[1])["broken"]
        assert feed.read() == (False, False)


def test_a_run_that_takes_the_place_of_another_is_shown_from_its_beginning(write_ledger, small_run, tmp_path) -> None:
    feed = Feed(write_ledger(small_run))
    read_all(feed)
    before = feed.run
    (tmp_path / "ledger.jsonl").unlink()
    write_ledger([{**small_run[0], "run": "beef"}])
    read_all(feed)
    assert (before, feed.run, feed.seq) == ("c0ffee", "beef", 0)
    shutil.rmtree(tmp_path)
    read_all(feed)
    assert feed.seq == 0


def test_half_a_line_is_read_once_until_there_is_more(write_ledger, small_run, monkeypatch) -> None:
    feed = Feed(write_ledger(small_run))
    read_all(feed)
    ledger = feed.directory / "ledger.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(whole + b'{"seq"')
    read = []
    new_events = Follower.new_events
    monkeypatch.setattr(Follower, "new_events", lambda self, most: (read.append(1), new_events(self, most))[1])
    assert [feed.read() for _ in range(3)] == [(False, False)] * 3
    assert len(read) == 1
    reopened = Ledger(ledger)
    reopened.append(RoundStarted(round=9))
    reopened.close()
    assert feed.read()[0]
