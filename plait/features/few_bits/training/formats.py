"""Weights of few bits: NF4 (QLoRA, arXiv 2305.14314) as bitsandbytes rounds to it, and the blocks of GGUF files.

On a CPU the values are computed by compiled kernels (`native`), elsewhere, and if nothing could be compiled, by torch.
Knows no layers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from plait.training.fused import block_size
from plait.training.fused.native import kernel

Tensor = torch.Tensor

_BLOCK, _OUTER_BLOCK = 64, 256
_NORMAL = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_TINY = 1e-38  # a scale that is no zero
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64


@dataclass(frozen=True)
class NormalFloat:
    """A matrix in NF4: blocks of 64 values with a scale each, which are in eight bits themselves, in blocks of 256.

    Attributes:
        codes: (blocks * 32,) uint8, two values a byte.
        scales: (blocks,) uint8.
        outer: (blocks / 256, rounded up) float32, the scales of scales.
        shape: (d_out, d_in)
    """

    codes: Tensor
    scales: Tensor
    outer: Tensor
    offset: float
    shape: torch.Size
    dtype: torch.dtype

    @classmethod
    def of(cls, parts: Iterable[Tensor], shape: Sequence[int], dtype: torch.dtype) -> NormalFloat:
        """Round a matrix of any floating type.

        Args:
            parts: its values in order, in pieces of which all but the last are a multiple of 64.
            shape: (d_out, d_in)
        """
        found = [_rounded(part) for part in parts]
        codes, largest = (torch.cat(each) for each in zip(*found, strict=True))
        offset = largest.mean()
        scales, outer = _rounded_scales(largest - offset)
        return cls(codes, scales, outer, float(offset), torch.Size(shape), dtype)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that it holds."""
        return self.codes, self.scales, self.outer

    def unpacked(self) -> Tensor:
        """All values, (d_out, d_in)."""
        blocks, device = len(self.scales), self.codes.device
        values = _dynamic_map(device)
        out = torch.empty(blocks * _BLOCK, dtype=self.dtype, device=device)
        arguments = (_POINTER, _POINTER, _POINTER, _POINTER, ctypes.c_float, _POINTER, _INT)
        if native := kernel("unpack_normal", arguments, out, self.codes, self.scales, self.outer):
            pointers = (tensor.data_ptr() for tensor in (self.codes, self.scales, self.outer, values))
            native(*pointers, self.offset, out.data_ptr(), blocks)
        else:
            outer = self.outer.repeat_interleave(_OUTER_BLOCK)[:blocks]
            scales = values[self.scales.int()] * outer + self.offset
            codes = torch.stack((self.codes >> 4, self.codes & 15), dim=1).int()
            found = torch.tensor(_NORMAL, device=device)[codes].view(blocks, _BLOCK)
            out = (found * scales[:, None]).to(self.dtype).flatten()
        return out[: self.shape.numel()].view(self.shape)


@dataclass(frozen=True)
class Rows:
    """A matrix in blocks of a GGUF format, none of which crosses a row's end.

    Attributes:
        held: (d_out, bytes of a row) uint8.
    """

    held: Tensor
    form: Format
    dtype: torch.dtype

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that it holds."""
        return (self.held,)

    @property
    def shape(self) -> torch.Size:
        """Of the matrix, (d_out, d_in)."""
        return torch.Size((len(self.held), self.held.shape[1] // self.form.nbytes * self.form.values))

    def unpacked(self) -> Tensor:
        """All values, (d_out, d_in)."""
        return self.chosen(None)

    def between(self, first: int, last: int) -> Rows:
        """Neighbouring rows; nothing is copied."""
        return Rows(self.held[first:last], self.form, self.dtype)

    def chosen(self, rows: Tensor | None) -> Tensor:
        """(chosen, d_in): the rows of these numbers, int64; None for all.

        Raises:
            IndexError: there is no such row.
        """
        blocks = self.held.shape[1] // self.form.nbytes
        count = len(self.held) if rows is None else len(rows)
        out = torch.empty(count, self.shape[1], dtype=self.dtype, device=self.held.device)
        arguments = (_POINTER, _POINTER, _POINTER, _INT, _INT)
        if native := kernel(f"unpack_{self.form.name}", arguments, out, self.held):
            if rows is None:
                native(self.held.data_ptr(), None, out.data_ptr(), count, blocks)
                return out
            rows = rows.long().contiguous()
            # The kernel reads whatever it is told to.
            if count and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.held):
                raise IndexError(f"row {int(rows.min())} or {int(rows.max())} of {len(self.held)} is chosen")
            native(self.held.data_ptr(), rows.data_ptr(), out.data_ptr(), count, blocks)
            return out
        held = self.held if rows is None else self.held.index_select(0, rows)
        return out.copy_(self.form.unpacked(held.reshape(-1, self.form.nbytes)).view(out.shape))


@dataclass(frozen=True)
class Format:
    """A GGUF format.

    Attributes:
        unpacked: (blocks, values) float32 of (blocks, nbytes) uint8.
    """

    name: str
    values: int
    nbytes: int
    unpacked: Callable[[Tensor], Tensor]


def eight_bits(parts: Iterable[Tensor], shape: Sequence[int], dtype: torch.dtype) -> Rows:
    """A matrix in Q8_0; its parameters are those of `five_bits`."""

    def packed(blocks: Tensor) -> Tensor:
        scales = blocks.abs().amax(dim=1, keepdim=True) / 127
        numbers = (blocks / scales.clamp(min=_TINY)).round_().to(torch.int8)
        return torch.cat((scales.half().view(torch.uint8), numbers.view(torch.uint8)), dim=1)

    return _in_rows(parts, shape, Q8_0, dtype, packed)


def five_bits(parts: Iterable[Tensor], shape: Sequence[int], dtype: torch.dtype) -> Rows:
    """A matrix in Q5_0.

    Args:
        parts: its values in order, in pieces that are a multiple of 32.
        shape: (d_out, d_in), d_in a multiple of 32.
    """

    def packed(blocks: Tensor) -> Tensor:
        largest = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))
        scales = largest / -16  # the largest value is the least number
        numbers = (blocks / torch.where(scales.abs() < _TINY, _TINY, scales)).round_().add_(16).clamp_(0, 31).byte()
        low = numbers & 15
        fifths = ((numbers >> 4).view(-1, 4, 8) << torch.arange(8, dtype=torch.uint8)).sum(dim=2, dtype=torch.uint8)
        return torch.cat((scales.half().view(torch.uint8), fifths, low[:, :16] | low[:, 16:] << 4), dim=1)

    return _in_rows(parts, shape, Q5_0, dtype, packed)


def _in_rows(
    parts: Iterable[Tensor], shape: Sequence[int], form: Format, dtype: torch.dtype, packed: Callable[[Tensor], Tensor]
) -> Rows:
    """A matrix in this format, of which `packed` makes (blocks, bytes) uint8 of (blocks, values) float32."""
    held = torch.empty(shape[0] * shape[1] // form.values, form.nbytes, dtype=torch.uint8)
    first = 0
    for part in parts:
        blocks = packed(part.reshape(-1, form.values).float())
        held[first : first + len(blocks)] = blocks
        first += len(blocks)
    return Rows(held.view(shape[0], -1), form, dtype)


def _rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scales, (blocks,) float32."""
    flat = values.flatten()
    if left := -flat.numel() % _BLOCK:
        flat = torch.cat((flat, flat.new_zeros(left)))
    blocks = flat.numel() // _BLOCK
    scales = torch.empty(blocks, device=flat.device)
    if native := kernel("pack_normal", (_POINTER, _POINTER, _POINTER, _INT), flat, scales):
        codes = torch.empty(blocks * _BLOCK // 2, dtype=torch.uint8)
        native(flat.data_ptr(), codes.data_ptr(), scales.data_ptr(), blocks)
        return codes, scales
    flat = flat.float()
    scales = flat.view(blocks, _BLOCK).abs().amax(dim=1)
    scaled = flat.view(blocks, _BLOCK) * (1 / scales.clamp(min=_TINY))[:, None]
    codes = torch.bucketize(scaled, _bounds(torch.tensor(_NORMAL, device=flat.device)), out_int32=True).byte().flatten()
    return codes[::2] << 4 | codes[1::2], scales


def _rounded_scales(scales: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers in the dynamic map, and the scale of every 256 of them."""
    padded = torch.cat((scales, scales.new_zeros(-len(scales) % _OUTER_BLOCK))).view(-1, _OUTER_BLOCK)
    outer = padded.abs().amax(dim=1)
    scaled = padded * (1 / outer.clamp(min=_TINY))[:, None]
    numbers = torch.bucketize(scaled, _bounds(_dynamic_map(scales.device)), out_int32=True).byte()
    return numbers.flatten()[: len(scales)].clone(), outer


def _bounds(values: Tensor) -> Tensor:
    return (values[:-1] + values[1:]) / 2


@cache
def _dynamic_map(device: torch.device) -> Tensor:
    """256 values from -1 to 1, denser towards zero (8-bit optimizers, arXiv 2110.02861, section 2.2)."""
    found = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        means = 10.0 ** (exponent - 6) * ((edges[:-1] + edges[1:]) / 2)
        found += [*means.tolist(), *(-means).tolist()]
    return torch.tensor(sorted(found), device=device)


def _half(blocks: Tensor, at: int) -> Tensor:
    """(blocks, 1) float32, of a float16 in each block."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _low_then_high(held: Tensor) -> Tensor:
    """(…, 2 n) halves of (…, n) bytes: all low ones, then all high ones."""
    return torch.cat((held & 15, held >> 4), dim=-1)


def _q8_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * blocks[:, 2:].view(torch.int8).float()


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_low_then_high(blocks[:, 2:]).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _low_then_high(blocks[:, 4:]).float() + _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    bits = blocks[:, 2:6, None] >> torch.arange(8, dtype=torch.uint8, device=blocks.device) & 1
    numbers = _low_then_high(blocks[:, 6:]) | bits.flatten(1) << 4
    return _half(blocks, 0) * (numbers.float() - 16)


def _q4_k(blocks: Tensor) -> Tensor:
    low, middle, high = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat((low & 63, high & 15 | low >> 6 << 4), dim=1).float()
    minima = torch.cat((middle & 63, high >> 4 | middle >> 6 << 4), dim=1).float()
    codes = _low_then_high(blocks[:, 16:].view(-1, 4, 32)).view(-1, 8, 32).float()
    steps, shifts = _half(blocks, 0) * scales, _half(blocks, 2) * minima
    return (steps[:, :, None] * codes - shifts[:, :, None]).flatten(1)


def _q6_k(blocks: Tensor) -> Tensor:
    four = _low_then_high(blocks[:, :128].view(-1, 2, 64)).view(-1, 2, 4, 32)
    twos = torch.arange(0, 8, 2, dtype=torch.uint8, device=blocks.device)[:, None]
    two = blocks[:, 128:192].view(-1, 2, 1, 32) >> twos & 3
    numbers = ((four | two << 4).float() - 32).view(-1, 16, 16)
    scales = _half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    return (scales[:, :, None] * numbers).flatten(1)


Q5_0 = Format("q5_0", *block_size.Q5_0, _q5_0)
Q8_0 = Format("q8_0", *block_size.Q8_0, _q8_0)
FORMATS: Mapping[str, Format] = {
    form.name.upper(): form
    for form in (
        Q5_0,
        Q8_0,
        Format("q4_0", 32, 18, _q4_0),
        Format("q4_1", 32, 20, _q4_1),
        Format("q4_k", 256, 144, _q4_k),
        Format("q6_k", 256, 210, _q6_k),
    )
}
"""By GGUF's name."""
