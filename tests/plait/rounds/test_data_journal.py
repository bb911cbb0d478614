"""The file of a journal: what kills, other copies and other certificates do to it."""

import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plait.errors import MachineError, PolicyError
from plait.rounds.data_journal import DataJournal
from plait.trust.kit import ClientKit
from plait.trust.provision import provision

DATA = "d" * 64


@pytest.fixture
def kit(tmp_path: Path) -> ClientKit:
    provision(tmp_path / "fed", ["ada"], ["localhost"], now=datetime.now(UTC))
    return ClientKit.load(tmp_path / "fed" / "clients" / "ada")


@pytest.fixture
def file(tmp_path: Path, kit: ClientKit) -> DataJournal:
    return client_of(kit, tmp_path / "state")


def client_of(kit: ClientKit, state: Path) -> DataJournal:
    home = kit.directory.parents[2] / "home"
    return DataJournal.of(state, authority=kit.tls.authority, data=DATA, kit=kit.directory, home=home)


def test_lines_are_there_for_the_next_process_and_for_the_owner_alone(file, kit):
    assert list(file.read()) == []
    for line in ("one", "two"):
        file.append(line)
    assert list(DataJournal(file.path, file.notes).read()) == ["one", "two"]
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    ClientKit.load(kit.directory)


def test_what_was_killed_in_the_middle_of_a_line_does_not_count(file):
    file.append("one")
    with file.path.open("ab") as torn:
        torn.write(b'{"half')
    assert list(file.read()) == ["one"]
    file.append("two")
    assert list(file.read()) == ["one", "two"]


def test_federations_and_data_have_journals_of_their_own(file, tmp_path, kit):
    provision(tmp_path / "other", ["ada"], ["localhost"], now=datetime.now(UTC))
    other = ClientKit.load(tmp_path / "other" / "clients" / "ada")
    state = tmp_path / "state"
    names = {
        file.path,
        DataJournal.of(state, authority=other.tls.authority, data=DATA).path,
        DataJournal.of(state, authority=kit.tls.authority, data="e" * 64).path,
        DataJournal.of(state, authority=b"", data=DATA).path,
    }
    assert len(names) == 4


def test_a_state_directory_that_was_restored_from_an_older_copy_is_noticed(file):
    file.append("one")
    shutil.copytree(file.path.parent.parent, older := file.path.parent.parent.with_name("older"))
    file.append("two")
    shutil.rmtree(file.path.parent.parent)
    with pytest.raises(PolicyError, match=r"has 0 entries, but '.*' knows of 2"):
        file.read()
    older.rename(file.path.parent.parent)
    with pytest.raises(PolicyError, match=r"has 1 entries, but '.*' knows of 2"):
        file.read()
    with pytest.raises(PolicyError, match=r"has 1 entries, but '.*' knows of 2"):
        file.append("another")


def test_clients_of_one_user_with_the_same_data_share_a_journal_or_are_refused(file, kit, tmp_path):
    provision(tmp_path / "fed", ["bob"], [], now=datetime.now(UTC))
    bobs = ClientKit.load(tmp_path / "fed" / "clients" / "bob")
    file.append("one")
    with pytest.raises(PolicyError, match="give all clients of these data one --state"):
        client_of(bobs, tmp_path / "another").read()
    assert list(client_of(bobs, tmp_path / "state").read()) == ["one"]


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"lines": "x", "digest": ""}', b"\xff", b"[" * 100_000])
def test_a_damaged_note_lets_nothing_through(file, place, damage):
    file.append("one")
    file.notes[place].write_bytes(damage)
    for use in (file.read, lambda: file.append("two")):
        with pytest.raises(PolicyError, match=r"is damaged, so it is unknown whether the journal .* is the newest"):
            use()


def test_other_lines_of_the_same_number_are_noticed(file):
    file.append("one")
    file.path.write_text("two\n")
    with pytest.raises(PolicyError, match="restored from an older copy"):
        file.read()


def test_a_newer_journal_than_the_kit_knows_of_is_taken(file):
    """As after a kill between the two."""
    file.append("one")
    with file.path.open("ab") as newer:
        newer.write(b"two\n")
    assert list(file.read()) == ["one", "two"]


def test_a_journal_that_cannot_be_written_says_so(file):
    file.path.parent.parent.mkdir()
    file.path.parent.write_text("a file")
    with pytest.raises(MachineError, match="cannot write"):
        file.append("one")
