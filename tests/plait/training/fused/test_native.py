from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from plait.training.fused import native


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "cache_directory", lambda: tmp_path)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another source, for the compiler takes seconds over the kernels."""
    monkeypatch.setattr(native, "kernel_source", lambda: 'extern "C" void nothing() {}\n')


def build() -> ctypes.CDLL | None:
    return native.native_library.__wrapped__()


def test_a_bundle_without_the_files_builds_the_same_source(tmp_path: Path) -> None:
    packed = Path(native.__file__).with_name(native.PACKED).read_text()
    (tmp_path / native.PACKED).write_text(packed)
    assert native.kernel_source(tmp_path) == native.kernel_source(), "run `make kernels`"


def test_a_machine_without_a_compiler_has_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native.shutil, "which", lambda _name: None)
    assert build() is None
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails_leaves_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native.shutil, "which", lambda _name: "/bin/false")
    assert build() is None
    assert not list((tmp_path / "kernels").iterdir())


def test_what_is_no_library_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho nonsense > "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setattr(native.shutil, "which", lambda _name: str(compiler))
    assert build() is None


@pytest.mark.usefixtures("short")
def test_what_was_built_once_is_not_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if build() is None:
        pytest.skip("no C++ compiler here")
    (built,) = (tmp_path / "kernels").glob("*.so")
    before = built.stat().st_mtime_ns
    monkeypatch.setattr(native.subprocess, "run", lambda *_a, **_k: pytest.fail("built again"))
    assert build() is not None
    assert built.stat().st_mtime_ns == before


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("how", ["writable file", "writable folder", "symbolic link", "foreign file"])
def test_a_library_that_others_can_change_is_not_loaded_but_built_anew(tmp_path: Path, how: str) -> None:
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
    native.ctypes.CDLL = lambda path: loaded.append(Path(path).read_bytes()) or genuine(path)
    try:
        build()
    finally:
        native.ctypes.CDLL = genuine
    assert b"not what was built" not in loaded


def test_importing_compiles_nothing(tmp_path: Path) -> None:
    import importlib

    from plait.training.fused import kernels

    importlib.reload(kernels)
    assert not list(tmp_path.iterdir())
