import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plait.errors import ConfigError, MachineError
from plait.ledger.events import EndedEarly
from plait.rounds.run_directory import RunDirectory
from tests.plait.conftest import recorded


def test_a_run_is_never_overwritten(tmp_path):
    run = RunDirectory.create(tmp_path / "run", config_toml="")
    run.ledger.write_text("an event\n")
    with pytest.raises(ConfigError, match="already holds a run; `plait resume"):
        RunDirectory.create(tmp_path / "run", config_toml="")


def test_a_directory_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="is not empty, expected a new directory for the run"):
        RunDirectory.create(tmp_path, config_toml="")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("below", ["", "run"])
def test_a_place_that_cannot_be_written_is_the_machines_fault(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="cannot make the run directory"):
        RunDirectory.create(tmp_path / "file" / below, config_toml="")


def test_a_run_that_was_killed_in_its_first_event_is_none_and_begins_anew(tmp_path):
    run = RunDirectory.create(tmp_path, config_toml="")
    (run.checkpoints / "round-0005").mkdir()
    run.ledger.write_bytes(b'{"event":"run_sta')
    with pytest.raises(ConfigError, match="holds no run"):
        RunDirectory.find(tmp_path)
    again = RunDirectory.create(tmp_path, config_toml="")
    assert list(again.checkpoints.iterdir()) == []
    recorded(again.ledger, [EndedEarly(round=0, reason="")])
    assert again.has_started


@pytest.mark.parametrize("name", ["checkpoints", "config.toml", ".inbox"])
def test_a_run_is_not_begun_in_a_directory_that_leads_out(tmp_path, name):
    outside, run = tmp_path / "outside", tmp_path / "run"
    for folder in (outside, run):
        folder.mkdir()
    (run / name).symlink_to(outside)
    with pytest.raises(ConfigError, match="leads out of it, where plait would write"):
        RunDirectory.create(run, config_toml="")
    assert list(outside.iterdir()) == []


def test_stored_updates_are_found_again_until_they_are_cleared(tmp_path):
    run = RunDirectory(tmp_path)
    run.store_update(1, "bob", b"one")
    run.store_update(1, "bob", b"two")
    run.store_update(2, "bob", b"three")
    assert [run.load_update(number, "bob") for number in (1, 2, 3)] == [b"two", b"three", None]
    assert run.load_update(1, "alice") is None
    run.clear_updates()
    assert run.load_update(1, "bob") is None
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=30)
@given(names=st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=4, unique=True))
@example(names=["../../etc/passwd", "..", "/etc/passwd", "a/b"])
@example(names=["Bob", "bob", "BOB", "bob.envelope"])
@example(names=["\0", "a\0", "-rf", "~"])
def test_whatever_clients_call_themselves_their_updates_stay_apart_and_in_the_spool(tmp_path_factory, names):
    outside = tmp_path_factory.mktemp("outside")
    path = outside / "a" / "run"
    path.mkdir(parents=True)
    run = RunDirectory(path)
    for name in names:
        run.store_update(1, name, name.encode())
    assert [run.load_update(1, name) for name in names] == [name.encode() for name in names]
    files = [file for file in outside.rglob("*") if file.is_file()]
    assert {file.parent for file in files} == {path / "spool" / "round-000001"}
    # Some file systems take upper and lower case for one.
    assert len({file.name.lower() for file in files}) == len(names)
