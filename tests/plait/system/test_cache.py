import stat

import pytest

from plait.data import cache_directory
from plait.errors import MachineError


def test_a_file_in_the_way_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(MachineError, match=r"cannot make the cache directory '.*file': .*; set PLAIT_CACHE"):
        cache_directory()


@pytest.mark.parametrize("where", ["shared", "shared/kernels", "."])
def test_one_that_others_can_write_is_left_alone_and_a_private_one_serves(tmp_path, monkeypatch, logged, where):
    (tmp_path / "shared" / "kernels").mkdir(parents=True)
    (tmp_path / where).chmod(0o777)
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path / "shared"))
    found = cache_directory()
    assert tmp_path not in found.parents
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    assert cache_directory() == found
    (said,) = (record.getMessage() for record in logged)
    assert said.startswith(f"cache not used: '{(tmp_path / where).resolve()}' can be written by others (mode 0777)")


def test_a_link_to_a_directory_of_our_own_is_followed_once(tmp_path, monkeypatch):
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large-disk")
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path / "link"))
    assert cache_directory() == tmp_path / "large-disk"
