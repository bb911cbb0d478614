from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from client.state_directory import RUNS_KEPT, EarlierRuns, locked, memory_folder, prune
from plait.errors import ConfigError, MachineError
from plait.rounds.disk_memory import DiskMemory
from plait.rounds.memory import IRREPLACEABLE
from tests.commands import Command, killed_after


def keep_something(state: Path, run_id: int, name: str, *, age_s: int) -> Path:
    folder = memory_folder(state, run_id, name)
    folder.mkdir(parents=True)
    (folder / "adapter").write_bytes(b"sent again when lost")
    os.utime(folder, (1_000_000 - age_s, 1_000_000 - age_s))
    return folder


def test_runs_and_names_are_kept_apart(tmp_path: Path) -> None:
    folders = {memory_folder(tmp_path, run, name) for run in (1, 2) for name in ("ada", "bob")}
    assert len(folders) == 4


def test_the_newest_runs_are_kept_whole_and_others_nodes_left_alone(tmp_path: Path) -> None:
    folders = [keep_something(tmp_path, run, "ada", age_s=run) for run in range(7)]
    bob = keep_something(tmp_path, 6, "bob", age_s=99)
    prune(tmp_path, "ada", keep=folders[5])
    # The run under way is kept though it is old, and with it the three newest.
    assert [(folder / "adapter").exists() for folder in folders] == [True, True, True, False, False, True, False]
    assert sum((folder / "adapter").exists() for folder in folders) == RUNS_KEPT
    assert (bob / "adapter").exists()


def test_the_only_copy_is_never_removed(tmp_path: Path) -> None:
    keys = sorted(IRREPLACEABLE)
    kept = [keep_something(tmp_path, run, "ada", age_s=run) for run in range(5 + len(keys))]
    old = dict(zip(keys, kept[4:-1], strict=True))
    for key, folder in old.items():
        (folder / key).write_bytes(key.encode() * 100)
        os.utime(folder, (1000, 1000))
    left = prune(tmp_path, "ada", keep=kept[0])
    for key, folder in old.items():
        assert (folder / key).read_bytes() == key.encode() * 100
    # An own adapter is exported with the shared one that it stands on.
    assert sorted(file.name for file in old["own"].iterdir()) == ["adapter", "own"]
    assert sorted(file.name for file in old["moments"].iterdir()) == ["moments"]
    assert not kept[-1].parent.exists()
    there = [folder for folder in kept[1:] if folder.exists()]
    assert left == EarlierRuns(len(there), sum(file.stat().st_size for folder in there for file in folder.iterdir()))


@pytest.mark.parametrize("open_before", [False, True])
def test_everything_is_for_its_owner_alone_also_below_a_directory_that_is_open(
    tmp_path: Path, open_before: bool
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    folder = memory_folder(state, 1, "ada")
    if open_before:
        folder.mkdir(parents=True)
    before = os.umask(0o022)
    try:
        with locked(state, "ada"):
            for key in ("adapter", "own"):
                DiskMemory(folder).save(key, b"bytes")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.rglob("*") if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.rglob("*") if path.is_file()} == {0o600}
    assert stat.S_IMODE(state.stat().st_mode) == 0o755


def test_two_nodes_do_not_share_a_name_here(tmp_path: Path) -> None:
    with locked(tmp_path, "ada"):
        twice = pytest.raises(ConfigError, match=f"in use by process {os.getpid()}, expected one node per name")
        with twice, locked(tmp_path, "ada"):
            pass
        with locked(tmp_path, "bob"):
            pass
    with locked(tmp_path, "ada"):
        pass


@pytest.mark.slow
def test_a_killed_node_leaves_no_lock_behind(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from client.state_directory import locked\n"
        "with locked(Path(sys.argv[1]), 'ada'):\n    print('held', flush=True); time.sleep(60)\n"
    )

    def is_held(process: Command) -> None:
        with pytest.raises(ConfigError, match=f"process {process.pid},"), locked(tmp_path, "ada"):
            pass

    killed_after(1, code, tmp_path, before=is_held)
    with locked(tmp_path, "ada"):
        pass


def test_a_state_directory_that_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MachineError, match="give another --state"), locked(tmp_path / "file" / "state", "ada"):
        pass
