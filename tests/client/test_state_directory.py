from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.state_directory import RUNS_KEPT, locked, memory_folder, prune
from plait.errors import ConfigError, MachineError


def keep_something(state: Path, run_id: int, name: str, *, age_s: int) -> Path:
    folder = memory_folder(state, run_id, name)
    folder.mkdir(parents=True)
    (folder / "residual").write_bytes(b"owed")
    os.utime(folder, (1_000_000 - age_s, 1_000_000 - age_s))
    return folder


def test_runs_and_names_are_kept_apart(tmp_path: Path) -> None:
    folders = {memory_folder(tmp_path, run, name) for run in (1, 2) for name in ("ada", "bob")}
    assert len(folders) == 4


def test_the_newest_runs_are_kept_and_others_nodes_left_alone(tmp_path: Path) -> None:
    folders = [keep_something(tmp_path, run, "ada", age_s=run) for run in range(7)]
    bob = keep_something(tmp_path, 6, "bob", age_s=99)
    prune(tmp_path, "ada", keep=folders[5])
    # The run under way is kept though it is old, and with it the three newest.
    assert [folder.exists() for folder in folders] == [True, True, True, False, False, True, False]
    assert sum(folder.exists() for folder in folders) == RUNS_KEPT
    assert bob.exists()
    assert not folders[4].parent.exists()


def test_two_nodes_do_not_share_a_name_here(tmp_path: Path) -> None:
    with locked(tmp_path, "ada"):
        twice = pytest.raises(ConfigError, match=f"in use by process {os.getpid()}, expected one node a name")
        with twice, locked(tmp_path, "ada"):
            pass
        with locked(tmp_path, "bob"):
            pass
    with locked(tmp_path, "ada"):
        pass


def test_a_killed_node_leaves_no_lock_behind(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from client.state_directory import locked\n"
        "with locked(Path(sys.argv[1]), 'ada'):\n    print('held', flush=True); time.sleep(60)\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(ConfigError, match=f"process {process.pid},"), locked(tmp_path, "ada"):
            pass
        process.send_signal(signal.SIGKILL)
    with locked(tmp_path, "ada"):
        pass


def test_a_state_directory_that_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MachineError, match="give another --state"), locked(tmp_path / "file" / "state", "ada"):
        pass
