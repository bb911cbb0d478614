from __future__ import annotations

import io
import json
import shutil
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from plait.errors import ConfigError, PeerError
from plait.queue import JOURNAL_FILE, Outcome, RunQueue, State, back_up, backup, read_queue, restore
from plait.queue.acts import RunSubmitted
from plait.rounds.checkpoint import _digest
from plait.rounds.events import Event, RoundStarted, RunFinished
from plait.rounds.ledger import Ledger, read_lines

CONFIG = {"base": "tiny", "rounds": 1, "dp": "off"}


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    """One run that is over, with a key and things that are nobody's; one that has begun; one that waits."""
    directory = tmp_path / "federation"
    queue = RunQueue(directory)
    for name in ("over", "going", "waiting"):
        queue.submit({**CONFIG, "dp": "client" if name == "going" else "off"}, by="olga", number=7, name=name)
    queue.begin_next(wait_s=1)
    run = queue.folder("over")
    (run / "adapter").mkdir(parents=True)
    _told(run, RunFinished())
    for name in ("noise.key", "adapter/adapter_model.safetensors", "server.log", ".inbox"):
        (run / name).write_bytes(name.encode())
    (run / "link").symlink_to("/etc/hostname")
    queue.end("over", Outcome.FINISHED)
    queue.begin_next(wait_s=1)
    queue.close()
    return directory


def _told(run: Path, *events: Event) -> None:
    ledger = Ledger(run / "ledger.jsonl")
    for event in events:
        ledger.append(event)
    ledger.close()


def _checkpoint(run: Path, number: int) -> None:
    folder = run / "checkpoints" / f"round-{number:06d}"
    folder.mkdir(parents=True)
    scalars = {"round": number, "files": {}}
    (folder / "state.json").write_text(json.dumps({**scalars, "digest": _digest(scalars)}))


@pytest.mark.parametrize("later", [RoundStarted(round=2, cohort=()), RunFinished()], ids=["another round", "the end"])
def test_of_a_run_in_progress_the_adapter_is_taken_and_nothing_after_its_checkpoint_is_told(
    federation: Path, tmp_path: Path, later: Event
) -> None:
    going = federation / "runs" / "going"
    _checkpoint(going, 1)
    (going / "adapter").mkdir()
    (going / "adapter" / "adapter_model.safetensors").write_bytes(b"the best until now")
    _told(going, RoundStarted(round=1, cohort=()), later)
    taken = back_up(federation, tmp_path / "a.tar")
    assert (taken.running, taken.round) == ("going", 1)
    restore(tmp_path / "a.tar", tmp_path / "new")
    new = tmp_path / "new" / "runs" / "going"
    assert (new / "adapter" / "adapter_model.safetensors").read_bytes() == b"the best until now"
    assert [line["event"] for line in read_lines(new / "ledger.jsonl")] == ["round_started"]


def test_a_checkpoint_that_is_followed_by_another_meanwhile_is_not_taken_with_a_later_adapter(
    federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = federation / "runs" / "going"
    _checkpoint(going, 1)
    _told(going, RoundStarted(round=1, cohort=()))
    link = backup._link_tree

    def link_and_go_on(source: Path, target: Path) -> None:
        link(source, target)
        if source.name == "round-000001":
            _checkpoint(going, 2)

    monkeypatch.setattr(backup, "_link_tree", link_and_go_on)
    assert back_up(federation, tmp_path / "a.tar").round == 2


def test_files_that_go_from_a_run_that_is_over_do_not_end_the_backup(
    federation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = federation / "runs" / "over" / "spool"
    spool.mkdir()
    (spool / "x").write_bytes(b"x")
    link = backup._link

    def link_too_late(source: Path, target: Path) -> None:
        if source.parent == spool:
            shutil.rmtree(spool)
        link(source, target)

    monkeypatch.setattr(backup, "_link", link_too_late)
    taken = back_up(federation, tmp_path / "a.tar")
    assert (taken.runs, taken.files) == (2, 4)


def test_what_is_restored_is_what_was_backed_up_and_private(federation: Path, tmp_path: Path) -> None:
    before = {entry.run: entry for entry in read_queue(federation)}
    taken = back_up(federation, tmp_path / "a.tar")
    assert stat.S_IMODE((tmp_path / "a.tar").stat().st_mode) == 0o600
    assert (taken.runs, taken.running, taken.round) == (2, "going", 0)
    assert not list(federation.glob(".backup.*"))
    new = tmp_path / "new"
    restored = restore(tmp_path / "a.tar", new, private_too=True)
    assert {entry.run: entry for entry in read_queue(new)} == before
    assert not restored.cancelled
    found = {path.relative_to(new).as_posix(): path for path in new.rglob("*") if path.is_file()}
    run = "runs/over/"
    assert set(found) == {JOURNAL_FILE} | {
        run + name for name in ("ledger.jsonl", "noise.key", "adapter/adapter_model.safetensors")
    }
    assert found[run + "noise.key"].read_bytes() == b"noise.key"
    assert {stat.S_IMODE(path.stat().st_mode) for path in found.values() if path.name != JOURNAL_FILE} == {0o600}
    assert stat.S_IMODE((new / "runs").stat().st_mode) == 0o700


def test_a_private_run_does_not_go_on_by_itself_since_its_noise_could_be_released_twice(
    federation: Path, tmp_path: Path
) -> None:
    back_up(federation, tmp_path / "a.tar.gz")
    assert restore(tmp_path / "a.tar.gz", tmp_path / "new").cancelled
    states = {entry.run: (entry.state, entry.detail) for entry in read_queue(tmp_path / "new")}
    assert states["going"] == (State.CANCELLED, "cancelled by restore: its noise could be released twice")
    assert states["waiting"][0] is State.QUEUED


def test_a_directory_that_is_no_federation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no federation"):
        back_up(tmp_path, tmp_path / "a.tar")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(federation: Path, tmp_path: Path) -> None:
    back_up(federation, tmp_path / "a.tar")
    with pytest.raises(ConfigError, match="is there already, expected a new file"):
        back_up(federation, tmp_path / "a.tar")
    with pytest.raises(ConfigError, match="new or empty directory"):
        restore(tmp_path / "a.tar", federation)
    with pytest.raises(ConfigError, match=r"ends in \.tar or \.tar\.gz"):
        back_up(federation, tmp_path / "a.zip")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _member(name: str, data: bytes = b"x", **changes: object) -> Callable[[tarfile.TarFile, dict], None]:
    def add(tar: tarfile.TarFile, files: dict) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        for key, value in changes.items():
            setattr(member, key, value)
        tar.addfile(member, io.BytesIO(data))

    return add


def _listed(name: str, size: object = 1) -> Callable[[tarfile.TarFile, dict], None]:
    return lambda _, files: files.update({name: [size, "0" * 64]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([_listed("../evil"), _member("../evil")], r"lists '\.\./evil'"),
        ([_listed("/etc/evil"), _member("/etc/evil")], "lists '/etc/evil'"),
        ([_listed("a/b/c/d/e/f/g"), _member("a/b/c/d/e/f/g")], "expected a file of a federation"),
        ([_member("unlisted")], "holds 'unlisted', expected what it lists"),
        ([_listed("link"), _member("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "no links"),
        ([_listed("hard"), _member("hard", b"", type=tarfile.LNKTYPE, linkname=JOURNAL_FILE)], "no links"),
        ([_listed("fifo", 0), _member("fifo", b"", type=tarfile.FIFOTYPE)], "no links"),
        ([_listed("bomb"), _member("bomb", b"x" * 99)], "holds 'bomb'"),
        ([_listed("other"), _member("other")], "digest of 'other' is 2d711642b726b044, expected 0000"),
        ([_listed("lost")], "archive lacks 'lost'"),
        ([_listed("size", -1)], "without its size and digest"),
        ([_listed("twice"), _member(JOURNAL_FILE)], f"holds '{JOURNAL_FILE}'"),
    ],
)
def test_an_archive_that_is_none_leaves_nothing(federation: Path, tmp_path: Path, changes: list, message: str) -> None:
    back_up(federation, tmp_path / "a.tar")
    with (
        tarfile.open(tmp_path / "a.tar") as good,
        tarfile.open(tmp_path / "b.tar", "w") as bad,
        tarfile.open(fileobj=io.BytesIO(), mode="w") as spare,
    ):
        told = json.loads(good.extractfile("plait-backup.json").read())
        for change in changes:
            change(spare, told["files"])
        _member("plait-backup.json", json.dumps(told).encode())(bad, {})
        for member in good.getmembers()[1:]:
            bad.addfile(member, good.extractfile(member))
        for change in changes:
            change(bad, {})
    with pytest.raises(PeerError, match=message):
        restore(tmp_path / "b.tar", tmp_path / "new")
    assert _names(tmp_path) == ["a.tar", "b.tar", "federation"]


@pytest.mark.parametrize("told", [{"round": -1}, {"taken": float("nan")}, {"round": 1.5}, None], ids=str)
def test_a_list_of_files_that_is_none_is_refused_in_one_line(federation: Path, tmp_path: Path, told: dict) -> None:
    good = {"format": 1, "taken": 1.0, "running": "", "round": 0, "files": {}}
    with tarfile.open(tmp_path / "a.tar", "w") as bad:
        _member("plait-backup.json", b"[" * 200_000 if told is None else json.dumps({**good, **told}).encode())(bad, {})
    with pytest.raises(PeerError, match=r"plait-backup\.json has|damaged or no archive"):
        restore(tmp_path / "a.tar", tmp_path / "new")
    assert _names(tmp_path) == ["a.tar", "federation"]


def test_a_journal_that_names_a_run_elsewhere_is_refused(tmp_path: Path) -> None:
    queue = RunQueue(tmp_path / "elsewhere")
    queue.record(RunSubmitted(run="../../evil", by="olga", number=1, config={}))
    queue.close()
    back_up(tmp_path / "elsewhere", tmp_path / "a.tar")
    with pytest.raises(PeerError, match=r"journal has a run '\.\./\.\./evil', expected the name of a directory"):
        restore(tmp_path / "a.tar", tmp_path / "new")


@pytest.mark.parametrize("spoil", ["cut", "no archive", "journal"])
def test_a_damaged_archive_leaves_nothing(federation: Path, tmp_path: Path, spoil: str) -> None:
    if spoil == "journal":  # before the backup
        journal = federation / JOURNAL_FILE
        journal.write_bytes(journal.read_bytes().replace(b"olga", b"otto", 1))
        with pytest.raises(PeerError):
            back_up(federation, tmp_path / "a.tar")
        assert _names(tmp_path) == ["federation"]
        return
    back_up(federation, tmp_path / "a.tar.gz")
    data = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(data[: len(data) // 2] if spoil == "cut" else b"no archive")
    with pytest.raises(PeerError, match=r"damaged or no archive|lacks"):
        restore(tmp_path / "a.tar.gz", tmp_path / "new")
    assert _names(tmp_path) == ["a.tar.gz", "federation"]
