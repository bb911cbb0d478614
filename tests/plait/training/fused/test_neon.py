"""Kernels as an ARM processor computes them, in an emulator; skipped where its tools are missing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from plait.compiler import source_in
from plait.features.few_bits.training import formats as few_bits
from plait.features.few_bits.training.formats import FORMATS, NormalFloat, Rows
from plait.training.fused import native
from plait.wire.codecs import compiled
from plait.wire.codecs.trellis import GREATEST_COST, Trellis

BLOCKS = 300
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
MAIN = """
int main() {
    const int64_t blocks = %d;
    const auto values = taken<float>(blocks * 64);
    std::vector<uint8_t> codes(blocks * 32);
    std::vector<float> largest(blocks), whole(blocks * 64);
    std::vector<bf16> half(blocks * 64);
    pack_normal_f32(values.data(), codes.data(), largest.data(), blocks);
    given(codes);
    given(largest);
    const auto scales = taken<uint8_t>(blocks);
    const auto outer = taken<float>((blocks + 255) / 256), map = taken<float>(256), offset = taken<float>(1);
    unpack_normal_f32(codes.data(), scales.data(), outer.data(), map.data(), offset[0], whole.data(), blocks);
    unpack_normal_bf16(codes.data(), scales.data(), outer.data(), map.data(), offset[0], half.data(), blocks);
    given(whole);
    given(half);
    %s
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


def test_an_arm_processor_finds_the_same_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "search", lambda *_: None)
    size, lanes, state_bits, cells = 1283, 150, 4, 30
    chance = np.random.default_rng(0)
    costs = chance.integers(0, GREATEST_COST + 1, (4, cells), np.int16)
    cell = chance.integers(0, cells, size, np.int32)
    searched = Trellis(state_bits)
    code = _source(compiled) + READING + SEARCH % (size, lanes, 1 << state_bits, cells)
    found = ran_on_arm(tmp_path, code, [cell, costs.T, searched._before.astype(np.int64)])
    np.testing.assert_array_equal(np.frombuffer(found, np.uint8), searched.cheapest(cell, costs, lanes))


def test_an_arm_processor_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    formats = "".join(
        f"""{{
            const auto held = taken<uint8_t>(8 * {form.nbytes});
            std::vector<float> out(8 * {form.values});
            unpack_{form.name}_f32(held.data(), nullptr, out.data(), 4, 2);
            given(out);
        }}"""
        for form in FORMATS.values()
    )
    generator = np.random.default_rng(0)
    values = torch.from_numpy(generator.normal(0, 0.02, (BLOCKS, 64)).astype(np.float32))
    monkeypatch.setattr(few_bits, "kernel", lambda *_: None)  # torch's own operations are the reference
    ours = NormalFloat.of([values], values.shape, torch.float32)
    raw = {name: generator.integers(0, 120, (4, 2 * form.nbytes), dtype=np.uint8) for name, form in FORMATS.items()}
    given = (
        values.numpy(),
        ours.scales.numpy(),
        ours.outer.numpy(),
        few_bits._dynamic_map(torch.device("cpu")).numpy(),
        np.float32(ours.offset),
        *raw.values(),
    )
    left = ran_on_arm(tmp_path, _source(native) + READING + MAIN % (BLOCKS, formats), given)

    def next_of(dtype: torch.dtype, many: int) -> torch.Tensor:
        nonlocal left
        part, left = left[: many * dtype.itemsize], left[many * dtype.itemsize :]
        return torch.frombuffer(bytearray(part), dtype=dtype)

    assert torch.equal(next_of(torch.uint8, BLOCKS * 32), ours.codes)
    assert torch.equal(next_of(torch.float32, BLOCKS), values.abs().amax(dim=1))
    assert torch.equal(next_of(torch.float32, values.numel()), ours.unpacked().flatten())
    assert torch.equal(next_of(torch.bfloat16, values.numel()), ours.unpacked().to(torch.bfloat16).flatten())
    for name, form in FORMATS.items():
        expected = Rows(torch.from_numpy(raw[name]), form, torch.float32).unpacked().flatten()
        torch.testing.assert_close(next_of(torch.float32, expected.numel()), expected, rtol=1e-6, atol=1e-6, msg=name)
    assert not left
