from __future__ import annotations

import os
import stat

import pytest

from plait.errors import ConfigError, MachineError
from plait.trust.secret_file import MAX_FILE_BYTES, read_secret, read_small, write_secret


def test_a_secret_is_never_open_to_others_not_even_while_it_is_written(tmp_path, monkeypatch):
    modes: list[int] = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    before = os.umask(0)
    try:
        write_secret(tmp_path / "key", b"secret")
    finally:
        os.umask(before)
    assert modes[0] == 0o600
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert read_secret(tmp_path / "key") == b"secret"


def test_a_secret_is_never_written_over(tmp_path):
    write_secret(tmp_path / "key", b"first")
    with pytest.raises(ConfigError, match="never overwritten"):
        write_secret(tmp_path / "key", b"second")
    assert read_secret(tmp_path / "key") == b"first"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610, 0o602])
def test_a_secret_that_others_can_reach_is_refused_with_the_command_that_closes_it(tmp_path, mode):
    path = tmp_path / "my key"
    write_secret(path, b"secret")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:04o}.*expected 0600: chmod 600 '.*/my key'$"):
        read_secret(path)
    path.chmod(0o400)
    assert read_secret(path) == b"secret"


def test_a_missing_or_huge_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is missing"):
        read_small(tmp_path / "none")
    (tmp_path / "huge").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 65536 bytes"):
        read_small(tmp_path / "huge")
    with pytest.raises(MachineError, match="cannot read"):
        read_small(tmp_path)
