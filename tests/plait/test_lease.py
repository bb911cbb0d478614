from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from plait import files, lease
from plait.api.service import check_not_shared
from plait.errors import ConfigError, LeaseLostError, MachineError
from plait.exporting.publish import publish
from plait.files import directory_written_aside, remove_file, remove_tree, write_atomically
from plait.lease import Holder, Turn, inbox_of, turn
from plait.rounds.events import WaitingForClients
from plait.rounds.ledger import Ledger, read_lines
from server.inbox import Inbox

FIRST, SECOND = Holder("one:1", "one:9440", 0.1), Holder("two:2", "two:9440", 0.1)
WAITING = WaitingForClients(here=1, wanted=2, unfit=0)

_PAUSED = """
import sys
from pathlib import Path
from plait.files import write_atomically
from plait.lease import turn
from plait.rounds.ledger import Ledger
from tests.plait.test_lease import FIRST, WAITING

run = Path(sys.argv[1])
with turn(run, FIRST):
    ledger = Ledger(run / "ledger.jsonl")
    ledger.append(WAITING)
    number = 0
    print("serves", flush=True)
    while True:
        write_atomically(run / "one", b"%d" % number)
        ledger.append(WAITING)
        number += 1
"""


def _first(run: Path) -> Turn:
    """The first turn, of a server that gives no sign of life but where it is made to: as one that is stopped."""
    first = Turn(run, 1, FIRST, on_lost=lambda: None)
    first.folder.mkdir(parents=True)
    first.prove()
    return first


@contextmanager
def _by(server: Turn, run: Path) -> Iterator[None]:
    """What the block writes, this server writes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files, "_gates", {run: server})
        yield


def test_one_that_waits_takes_over_once_the_other_gives_no_sign_or_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, clock, told, signs = tmp_path / "run", [0.0], list[Holder | None](), 100
    (run / ".lease" / "000001").mkdir(parents=True)
    first = Turn(run, 1, FIRST, on_lost=lambda: None)
    last_sign = 0.0

    def sleep(seconds: float) -> None:
        nonlocal signs, last_sign
        clock[0] += seconds
        if signs:
            signs, last_sign = signs - 1, clock[0]
            first.prove()

    monkeypatch.setattr(lease, "_now", lambda: clock[0])
    monkeypatch.setattr(lease, "time", SimpleNamespace(sleep=sleep))
    assert lease._claimed(run, SECOND, told.append) == 2
    assert (signs, told[-1]) == (0, FIRST)
    assert FIRST.silent_s < clock[0] - last_sign < 2 * FIRST.silent_s
    with pytest.raises(LeaseLostError, match="another server has taken over"):
        first.prove()
    Turn(run, 2, SECOND, on_lost=lambda: None).end()
    before = clock[0]
    assert lease._claimed(run, FIRST, told.append) == 3
    assert clock[0] == before


def test_of_many_that_wait_only_one_gets_each_turn(tmp_path: Path) -> None:
    (tmp_path / ".lease" / "000001").mkdir(parents=True)
    got: list[int] = []
    threads = [
        threading.Thread(target=lambda: got.append(lease._claimed(tmp_path, FIRST, lambda _: None))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(got) == list(range(2, 10))


def _replace(path: Path) -> None:
    with directory_written_aside(path) as aside:
        (aside / "state.json").write_bytes(b"late")


def _link(run: Path, _: Ledger) -> None:
    adapter = run / "adapter"
    adapter.mkdir(exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (adapter / name).touch()
    publish(adapter, run / "published", round_number=1)


WRITES: dict[str, Callable[[Path, Ledger], None]] = {
    "a new file": lambda run, _: write_atomically(run / "new", b"late"),
    "an update": lambda run, _: write_atomically(run / "spool" / "alice", b"late"),
    "a checkpoint": lambda run, _: _replace(run / "round-000002"),
    "a checkpoint again": lambda run, _: _replace(run / "round-000001"),
    "a published adapter": _link,
    "clearing the spool": lambda run, _: remove_tree(run / "spool"),
    "discarding an update": lambda run, _: remove_file(run / "spool" / "alice"),
    "an event": lambda _, ledger: ledger.append(WAITING),
}


@pytest.mark.parametrize("late", WRITES)
def test_whatever_a_server_still_writes_after_another_took_over_does_not_get_there(tmp_path: Path, late: str) -> None:
    run = tmp_path / "run"
    (run / "spool").mkdir(parents=True)
    first = _first(run)
    with _by(first, run):
        write_atomically(run / "spool" / "alice", b"hers")
        _replace(run / "round-000001")
        _link(run, None)
        ours = Ledger(run / "ledger.jsonl")
        ours.append(WAITING)
    with closing(ours), turn(run, SECOND), closing(Ledger(run / "ledger.jsonl")) as theirs:
        theirs.append(WAITING)
        before = _everything(run)
        with _by(first, run), pytest.MonkeyPatch.context() as patched:
            # As if it had checked everything before, and was then stopped until now, just before the write itself.
            patched.setattr(Turn, "check", lambda _: None)
            with pytest.raises(LeaseLostError, match=r"two:2 \(two:9440\) has taken over .* written nothing since"):
                WRITES[late](run, ours)
        assert _everything(run) == before
        theirs.append(WAITING)
        assert len(read_lines(run / "ledger.jsonl")) == 3


def test_an_event_counts_only_if_no_other_server_took_over_before_it_was_on_disk(tmp_path: Path) -> None:
    run, heard = tmp_path / "run", list[object]()
    first = _first(run)
    with _by(first, run):
        ours = Ledger(run / "ledger.jsonl", on_event=heard.append)
        ours.append(WAITING)
    (run / ".lease" / "000002").mkdir()  # another server takes over
    with closing(ours), pytest.raises(LeaseLostError):
        ours.append(WAITING)
    assert len(heard) == 1


def test_whatever_fails_because_another_server_took_over_ends_as_that(tmp_path: Path) -> None:
    holder = Holder("one:1", "one:9440", silent_s=600.0)  # no sign of life is due

    def fail(run: Path, *, taken_over: bool) -> None:
        with turn(run, holder):
            if taken_over:
                (run / ".lease" / "000002").mkdir()
            raise MachineError("cannot read 'spool/alice': No such file or directory")

    with pytest.raises(LeaseLostError, match="another server has taken over"):
        fail(tmp_path / "one", taken_over=True)
    with pytest.raises(MachineError, match="cannot read"):
        fail(tmp_path / "two", taken_over=False)


def test_answers_that_had_arrived_are_kept_and_files_that_the_server_before_has_open_are_left_to_it(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    (run / ".inbox" / "ada").mkdir(parents=True)
    (run / ".inbox" / "ada" / "earlier.answer").write_bytes(b"from before it was shared")
    first = _first(run)
    with _by(first, run):
        place = inbox_of(run) / "ada"
    (place / "whole.answer").write_bytes(b"whole")
    with (place / "begun.part").open("wb", buffering=0) as file:
        file.write(b"begun")
        with turn(run, SECOND):
            theirs = inbox_of(run) / "ada"
            file.write(b", and more")
            with pytest.raises(FileNotFoundError):
                (place / "begun.part").replace(place / "begun.answer")
            assert {path.name: path.read_bytes() for path in theirs.iterdir()} == {
                "earlier.answer": b"from before it was shared", "whole.answer": b"whole", "begun.part": b"begun",
            }  # fmt: skip


def test_an_answer_that_arrives_while_the_folder_is_cleared_is_moved_on_and_not_removed_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with _by(_first(run), run):
        place = inbox_of(run) / "ada"
    place.mkdir(parents=True)
    (place / "begun.part").write_bytes(b"begun")
    moved = lease._move_answers

    def one_arrives_after(earlier: Path, turn_folder: Path) -> None:
        moved(earlier, turn_folder)
        if turn_folder.name == "000002" and not (turn_folder / "inbox" / "run" / "ada" / "late.answer").exists():
            place.mkdir(parents=True, exist_ok=True)
            (place / "late.answer").write_bytes(b"acknowledged")

    monkeypatch.setattr(lease, "_move_answers", one_arrives_after)
    with turn(run, SECOND):
        assert {path.name for path in (inbox_of(run) / "ada").iterdir()} == {"begun.part", "late.answer"}


def test_the_folder_of_a_turn_that_is_over_is_not_made_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    first = _first(run)
    with _by(first, run):
        place = inbox_of(run)
    with turn(run, SECOND):
        with _by(first, run):
            with pytest.raises(MachineError, match="No such file"):
                Inbox(place, node_quota_bytes=1)
            with pytest.raises(LeaseLostError):
                inbox_of(run)
            with pytest.raises(FileNotFoundError):
                lease._made_below(first.folder, "inbox", "run")
        assert not first.folder.exists()


def test_a_folder_that_cannot_be_emptied_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, clock = tmp_path / "run", [0.0]
    _first(run)
    slept = SimpleNamespace(sleep=lambda s: clock.__setitem__(0, clock[0] + max(s, 1.0)))

    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    monkeypatch.setattr(lease, "_now", lambda: clock[0])
    monkeypatch.setattr(lease, "time", slept)
    monkeypatch.setattr(lease, "_remove", busy)
    with pytest.raises(MachineError, match=r"cannot remove '.*/000001': Device or resource busy"), turn(run, SECOND):
        pass
    assert clock[0] > lease._CLEARING_AT_MOST_S


def test_what_is_removed_leaves_nothing_in_the_folder_of_the_turn(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "spool").mkdir(parents=True)
    first = _first(run)
    with _by(first, run):
        write_atomically(run / "alice", b"hers")
        remove_file(run / "alice")
        remove_file(run / "alice")
        remove_tree(run / "spool")
        remove_tree(run / "spool")
    assert not (run / "alice").exists()
    assert not (run / "spool").exists()
    assert [path.name for path in first.folder.iterdir()] == ["alive"]


def test_a_directory_that_cannot_be_listed_for_a_moment_does_not_end_the_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _first(tmp_path / "run")

    def unreadable(_: Path) -> list[int]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(lease, "_turns", unreadable)
        with pytest.raises(MachineError, match="Input/output error"):
            first.prove()
    first.prove()


def test_a_stopped_process_comes_back_and_changes_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", _PAUSED, str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "serves\n"
        os.kill(process.pid, signal.SIGSTOP)
        with turn(run, SECOND), closing(Ledger(run / "ledger.jsonl")) as ledger:
            ledger.append(WAITING)
            before = _everything(run)
            os.kill(process.pid, signal.SIGCONT)
            error = process.communicate(timeout=60)[1]
            assert "LeaseLostError: two:2 (two:9440) has taken over" in error
            assert _everything(run) == before
            read_lines(run / "ledger.jsonl")
    finally:
        process.kill()
        process.wait()


def _everything(run: Path) -> dict[str, bytes]:
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and ".lease" not in path.parts
    }


def test_a_run_of_a_shared_federation_is_not_gone_on_with_beside_it(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "run-1"
    run.mkdir(parents=True)
    check_not_shared(run)
    with turn(tmp_path, FIRST):
        check_not_shared(run)
    with pytest.raises(ConfigError, match="is shared by servers, expected `plait server --standby`"):
        check_not_shared(run)
