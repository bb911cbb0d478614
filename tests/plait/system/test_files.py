import errno
import os
import stat
import sys
from pathlib import Path

import pytest

from plait.errors import MachineError
from plait.system.files import (
    directory_written_aside,
    is_ours,
    leads_elsewhere,
    make_private_directory,
    map_file,
    open_plain,
    others_can_change,
    write_atomically,
)


def no_space(*_args):
    raise OSError(errno.ENOSPC, "No space left on device")


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def test_a_file_is_written_and_written_over(tmp_path):
    for data in (b"one", b"", b"three"):
        write_atomically(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
    assert names(tmp_path) == ["file"]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def interrupted(*_args):
    raise KeyboardInterrupt


@pytest.mark.parametrize("failing", [(os, "fsync", no_space), (Path, "replace", no_space), (os, "fsync", interrupted)])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, failing):
    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(*failing)
    with pytest.raises((MachineError, KeyboardInterrupt), match=r"^$|cannot write '.*file': No space left on device"):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_the_bytes_are_durable_before_the_name_is_and_the_name_before_it_returns(tmp_path, monkeypatch):
    steps = []
    replace = Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: steps.append("dir" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"))
    monkeypatch.setattr(Path, "replace", lambda self, target: (steps.append("rename"), replace(self, target)))
    write_atomically(tmp_path / "file", b"data")
    assert steps == ["file", "rename", "dir"]
    steps.clear()
    with directory_written_aside(tmp_path / "folder") as aside:
        (aside / "a").write_bytes(b"a")
    assert steps == ["file", "dir", "rename", "dir"]


def write_folder(path, content):
    with directory_written_aside(path) as aside:
        assert aside.parent == path.parent
        (aside / content).write_text(content)


def test_a_directory_takes_the_place_of_the_one_before(tmp_path):
    for content in ("one", "two"):
        write_folder(tmp_path / "folder", content)
        assert names(tmp_path / "folder") == [content]
        assert names(tmp_path) == ["folder"]
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700


def test_what_is_exported_can_be_read_by_all(tmp_path):
    write_atomically(tmp_path / "file", b"data", exported=True)
    with directory_written_aside(tmp_path / "folder", exported=True) as aside:
        (aside / "in").mkdir()
        write_atomically(aside / "in/file", b"data")
    modes = [
        stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder", "folder/in", "folder/in/file")
    ]
    assert modes == [0o644, 0o755, 0o755, 0o644]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_the_old_directory_and_nothing_else(tmp_path, error):
    write_folder(tmp_path / "folder", "old")
    with pytest.raises(type(error)), directory_written_aside(tmp_path / "folder") as aside:  # noqa: PT012
        (aside / "new").touch()
        raise error
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["old"]


@pytest.mark.parametrize("failing_call", [1, 2])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_swap_that_fails_half_way_puts_the_old_directory_back(tmp_path, monkeypatch, failing_call, error):
    write_folder(tmp_path / "folder", "old")
    calls = []
    replace = Path.replace

    def fail_once(self, target):
        calls.append(target)
        if len(calls) == failing_call:
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_once)
    with pytest.raises((MachineError, KeyboardInterrupt)):
        write_folder(tmp_path / "folder", "new")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["old"]


@pytest.mark.skipif(sys.platform != "linux", reason="maps files on Linux only")
def test_a_mapped_file_outlives_its_name(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"data" * 100_000)
    with path.open("rb") as file:
        view = map_file(file.fileno())
    path.unlink()

    assert view.readonly
    assert bytes(view) == b"data" * 100_000


def test_what_we_made_in_a_sticky_directory_is_ours(tmp_path):
    tmp_path.chmod(0o1777)
    (tmp_path / "file").write_bytes(b"")
    assert is_ours(tmp_path / "file")


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o775])
def test_what_lies_below_a_directory_that_others_can_write_is_not_ours(tmp_path, mode):
    (tmp_path / "open" / "below").mkdir(parents=True)
    (tmp_path / "open" / "below" / "file").write_bytes(b"")
    assert is_ours(tmp_path / "open" / "below" / "file")
    (tmp_path / "open").chmod(mode)
    if mode == 0o775:
        os.chown(tmp_path / "open", -1, 2 if os.geteuid() == 0 else os.getegid())
        if os.geteuid():
            pytest.skip("only root can give a file to a group that others are in")
    assert not is_ours(tmp_path / "open" / "below" / "file")
    assert f"'{tmp_path / 'open'}' can be written by others" in others_can_change(tmp_path / "open" / "below" / "file")


def test_a_directory_is_ours_only_with_all_that_lies_in_it(tmp_path):
    (tmp_path / "base" / "deep").mkdir(parents=True)
    (tmp_path / "base" / "deep" / "weights").write_bytes(b"")
    assert is_ours(tmp_path / "base")
    (tmp_path / "base" / "deep" / "weights").chmod(0o666)
    assert not is_ours(tmp_path / "base")
    assert not others_can_change(tmp_path / "base", depth=1)


def test_a_symbolic_link_is_not_ours_but_one_of_ours_may_lead_there(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert not is_ours(tmp_path / "link")
    assert is_ours(tmp_path / "link" / "file")
    (tmp_path / "real").chmod(0o777)
    assert not is_ours(tmp_path / "link" / "file")


def test_what_is_not_there_is_not_ours(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert not is_ours(tmp_path / "missing")
    assert not is_ours(tmp_path / "a" / "file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_somebody_else_is_not_ours(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_bytes(b"")
    os.chown(tmp_path / "theirs", 65534, -1)
    assert not is_ours(tmp_path / "theirs" / "file")
    os.chown(tmp_path / "theirs", 0, -1)
    os.chown(tmp_path / "theirs" / "file", 65534, -1)
    assert not is_ours(tmp_path / "theirs" / "file")


def test_directories_are_made_for_their_owner_alone_also_below_one_that_is_open(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        make_private_directory(tmp_path / "open" / "a" / "b")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / "open" / name).stat().st_mode) for name in (".", "a", "a/b")]
    assert modes == [0o755, 0o700, 0o700]
    make_private_directory(tmp_path / "open" / "a")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        make_private_directory(tmp_path / "file")


@pytest.mark.parametrize("in_the_way", ["file", "link", "dangling link"])
def test_a_directory_takes_the_place_of_whatever_is_there(tmp_path, in_the_way):
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "folder"
    if in_the_way == "file":
        path.write_bytes(b"")
    else:
        path.symlink_to(tmp_path / ("elsewhere" if in_the_way == "link" else "missing"))
    with directory_written_aside(path) as aside:
        (aside / "file").write_bytes(b"new")
    assert (path / "file").read_bytes() == b"new"
    assert not path.is_symlink()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["elsewhere", "folder"]


def test_what_leads_out_of_a_directory_is_found_at_any_depth(tmp_path):
    root = tmp_path / "run"
    (root / "a" / "b").mkdir(parents=True)
    (root / "file").write_text("")
    (root / "a" / "inside").symlink_to(root / "file")
    (tmp_path / "link").symlink_to(root)
    assert leads_elsewhere(root) == leads_elsewhere(tmp_path / "link") == ""
    (root / "a" / "b" / "out").symlink_to("../../../../etc")
    assert leads_elsewhere(root).endswith("out' is a link that leads out of it")
    (root / "a" / "b" / "out").unlink()
    os.mkfifo(root / "a" / "pipe")
    assert leads_elsewhere(root).endswith("pipe' is neither a file nor a folder")
    with pytest.raises(OSError, match="not a regular file"):
        open_plain(root / "a" / "pipe")
