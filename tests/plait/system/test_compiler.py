import ctypes
import hashlib
import os
import platform
from pathlib import Path

import pytest

from plait.system import compiler
from plait.training.fused import kernels as native
from plait.wire.codecs import compiled


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiler, "cache_directory", lambda: tmp_path)


def build() -> ctypes.CDLL | None:
    return compiler.built_library('extern "C" void nothing() {}\n')


@pytest.mark.parametrize("user", [native, compiled], ids=["kernels", "codecs"])
def test_a_bundle_without_the_files_builds_the_same_source(user, tmp_path):
    folder = Path(str(user.__file__)).parent
    (tmp_path / compiler.PACKED).write_text((folder / compiler.PACKED).read_text())
    assert compiler.source_in(tmp_path, user.SOURCES) == compiler.source_in(folder, user.SOURCES), "run `make kernels`"


def test_a_machine_without_a_compiler_has_no_library_and_says_so_once(monkeypatch, tmp_path, logged):
    monkeypatch.setattr(compiler.shutil, "which", lambda _name: None)
    compiler._warn_no_compiler.cache_clear()
    assert build() is None
    assert build() is None
    assert [record.getMessage() for record in logged] == [
        "no C++ compiler works here, so plait computes the same without compiled code, slower; install g++"
    ]
    assert not list(tmp_path.iterdir())


def test_what_a_wheel_brings_along_serves_where_nothing_compiles(monkeypatch, tmp_path, logged):
    if build() is None:
        pytest.skip("no C++ compiler here")
    (built,) = (tmp_path / "kernels").glob("*.so")
    digest = hashlib.sha256(b'extern "C" void nothing() {}\n').hexdigest()
    (tmp_path / "built").mkdir()
    built.rename(tmp_path / "built" / f"{digest}.so")
    monkeypatch.setattr(compiler.shutil, "which", lambda _name: None)
    monkeypatch.setattr(compiler, "__file__", str(tmp_path / "compiler.py"))
    monkeypatch.setattr(compiler, "cpu_features", lambda: compiler._SHIPPED_NEED)
    compiler._warn_no_compiler.cache_clear()
    assert build() is not None
    monkeypatch.setattr(compiler, "cpu_features", frozenset)
    if platform.machine() == "x86_64":
        assert build() is None
        assert len(logged) == 1


def test_a_compiler_that_fails_leaves_no_library(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler.shutil, "which", lambda _name: "/bin/false")
    assert build() is None
    assert not list((tmp_path / "kernels").iterdir())


def test_what_was_built_once_is_not_built_again(monkeypatch, tmp_path):
    if build() is None:
        pytest.skip("no C++ compiler here")
    (built,) = (tmp_path / "kernels").glob("*.so")
    before = built.stat().st_mtime_ns
    monkeypatch.setattr(compiler.subprocess, "run", lambda *_a, **_k: pytest.fail("built again"))
    assert build() is not None
    assert built.stat().st_mtime_ns == before


@pytest.mark.parametrize("how", ["writable file", "writable folder", "symbolic link", "foreign file"])
def test_a_library_that_others_can_change_is_not_loaded_but_built_anew(tmp_path, how):
    if build() is None:
        pytest.skip("no C++ compiler here")
    (built,) = (tmp_path / "kernels").glob("*.so")
    built.unlink()
    planted = tmp_path / "planted.so"
    planted.write_bytes(b"not what was built")
    if how == "symbolic link":
        built.symlink_to(planted)
    else:
        planted.rename(built)
    if how == "writable file":
        built.chmod(0o666)
    elif how == "writable folder":
        built.parent.chmod(0o777)
    elif how == "foreign file":
        if os.geteuid():
            pytest.skip("only root can give a file away")
        os.chown(built, 65534, 65534)
    loaded: list[bytes] = []
    genuine = ctypes.CDLL
    compiler.ctypes.CDLL = lambda path: loaded.append(Path(path).read_bytes()) or genuine(path)
    try:
        build()
    finally:
        compiler.ctypes.CDLL = genuine
    assert b"not what was built" not in loaded


def test_no_program_of_the_current_directory_is_run(tmp_path, monkeypatch):
    planted = tmp_path / "planted"
    planted.mkdir()
    for name in ("c++", "g++", "cc1plus", "as", "ld"):
        (planted / name).write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\nexit 1\n")
        (planted / name).chmod(0o755)
    monkeypatch.chdir(planted)
    # An empty entry is the current directory.
    monkeypatch.setenv("PATH", os.pathsep.join(("", os.environ["PATH"])))
    build()
    assert not (tmp_path / "ran").exists()
