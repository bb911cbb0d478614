"""Kernels as an ARM processor computes them, in an emulator; skipped where its tools are missing."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from plait.system.compiler import source_in
from plait.wire.codecs import compiled
from plait.wire.codecs.trellis import GREATEST_COST, Trellis

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
FLAGS = ("-std=c++17", "-O1", "-ffinite-math-only", "-fno-math-errno", "-static")

# Programs read everything from their standard input, in the order the test writes it.
READING = """
#include <cstdio>
#include <cstdlib>
#include <vector>
template <typename T> std::vector<T> taken(size_t many) {
    std::vector<T> held(many);
    if (std::fread(held.data(), sizeof(T), many, stdin) != many) std::abort();
    return held;
}
template <typename T> void given(const std::vector<T> &held) {
    std::fwrite(held.data(), sizeof(T), held.size(), stdout);
}
"""
SEARCH = """
int main() {
    const int64_t size = %d, lanes = %d, states = %d;
    const auto cell = taken<int32_t>(size);
    const auto costs = taken<int16_t>(4 * %d);
    const auto before = taken<int64_t>(2 * states);
    std::vector<uint8_t> branches(size);
    trellis_search(cell.data(), costs.data(), before.data(), size, lanes, states, branches.data());
    given(branches);
}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which(COMPILER) and shutil.which(EMULATOR)), reason=f"no {COMPILER} or {EMULATOR}"),
]


def _source(user: ModuleType) -> str:
    """The C++ of a module that has some compiled."""
    return source_in(Path(str(user.__file__)).parent, user.SOURCES)


def ran_on_arm(folder: Path, code: str, given: Sequence[NDArray[np.generic] | np.generic]) -> bytes:
    """What a program writes."""
    (folder / "main.cpp").write_text(code)
    subprocess.run([COMPILER, *FLAGS, "main.cpp", "-o", "main"], cwd=folder, check=True)
    read = b"".join(each.tobytes() for each in given)
    return subprocess.run([EMULATOR, "./main"], cwd=folder, check=True, capture_output=True, input=read).stdout


def test_an_arm_processor_finds_the_same_paths(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "library", lambda: None)
    size, lanes, state_bits, cells = 1283, 150, 4, 30
    chance = np.random.default_rng(0)
    costs = chance.integers(0, GREATEST_COST + 1, (4, cells), np.int16)
    cell = chance.integers(0, cells, size, np.int32)
    searched = Trellis(state_bits)
    code = _source(compiled) + READING + SEARCH % (size, lanes, 1 << state_bits, cells)
    found = ran_on_arm(tmp_path, code, [cell, costs.T, searched.before.astype(np.int64)])
    np.testing.assert_array_equal(np.frombuffer(found, np.uint8), searched.cheapest(cell, costs, lanes))
