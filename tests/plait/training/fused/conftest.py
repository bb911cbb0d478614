"""Run the fused code with the compiled kernels, with those of a lesser processor, and with torch alone."""

import ctypes
import platform

import pytest

from plait.system import compiler
from plait.training.fused import kernels as native

# x86 processors since 2013 have this much: no wide vectors, no products of bfloat16.
OLDER = tuple("-march=x86-64-v3" if flag == "-march=native" else flag for flag in compiler.FLAGS)


def nothing_compiled(_symbol: str, _arguments: tuple[type, ...]) -> None:
    """Stands in for `native.compiled`."""


@pytest.fixture(scope="session")
def older_library() -> ctypes.CDLL | None:
    """The kernels as that processor has them."""
    if platform.machine() not in ("x86_64", "AMD64") or native.native_library() is None:
        return None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "FLAGS", OLDER)
        patch.setattr(compiler, "_WIDE", ())
        return native.native_library.__wrapped__()


@pytest.fixture(params=["compiled", "older", "torch"])
def computed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, older_library: ctypes.CDLL | None) -> str:
    """How."""
    if request.param == "torch":
        monkeypatch.setattr(native, "compiled", nothing_compiled)
    elif native.native_library() is None:
        pytest.skip("no C++ compiler here")
    elif request.param == "older":
        if older_library is None:
            pytest.skip("another kind of processor")
        monkeypatch.setattr(native, "native_library", lambda: older_library)
        monkeypatch.setattr(native, "compiled", native.compiled.__wrapped__)
    return request.param
