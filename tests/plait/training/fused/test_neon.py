"""The kernels for few bits as an ARM processor computes them, in an emulator; skipped where its tools are missing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from plait.training.fused import few_bits, native
from plait.training.fused.few_bits import FORMATS, NormalFloat, Rows

BLOCKS = 300
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
FLAGS = ("-std=c++17", "-O1", "-ffinite-math-only", "-fno-math-errno", "-static")

# Reads everything from its standard input, in the order in which the test writes it.
MAIN = """
#include <cstdio>
template <typename T> std::vector<T> taken(size_t many) {
    std::vector<T> held(many);
    if (std::fread(held.data(), sizeof(T), many, stdin) != many) std::abort();
    return held;
}
template <typename T> void given(const std::vector<T> &held) {
    std::fwrite(held.data(), sizeof(T), held.size(), stdout);
}

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


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which(COMPILER) and shutil.which(EMULATOR)), reason=f"no {COMPILER} or {EMULATOR}")
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
    (tmp_path / "main.cpp").write_text("#include <cstdlib>\n" + native.kernel_source() + MAIN % (BLOCKS, formats))
    subprocess.run([COMPILER, *FLAGS, "main.cpp", "-o", "main"], cwd=tmp_path, check=True)

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
    ran = subprocess.run(
        [EMULATOR, "./main"], cwd=tmp_path, check=True, capture_output=True, input=b"".join(x.tobytes() for x in given)
    )

    left = ran.stdout

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
