"""``plait bench wire``: bytes, error and time of each codec, compared with alternatives.

Rates count all bytes of payload and parameters. The bound is that of a Gaussian source, R(D) = max(0, ½ log2(1/D)) bits
per number at relative distortion D; other distributions may be below it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from plait.adapters import AdapterState
from plait.adapters.state import Float32
from plait.report.table import Table
from plait.wire.codec import Codec
from plait.wire.codecs import codec_for
from simulations.bench.baselines import BASELINES, Baseline
from simulations.bench.deltas import LOCAL_STEPS, Source
from simulations.bench.row import Row

DIAL = ("fp32", "bf16", "8", "4", "2", "1")
_MATCHES = 4  # attempts to meet a distortion


@dataclass(frozen=True)
class Timing:
    """Megabytes of float32 per second, of several repetitions."""

    rates: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.rates)

    def __str__(self) -> str:
        off = max(max(self.rates) / self.median - 1, 1 - min(self.rates) / self.median)
        return f"{self.median:,.{0 if self.median >= 10 else 1}f} ±{100 * off:.0f}%"


@dataclass(frozen=True)
class Measured:
    """The result of packing one delta in one way.

    Attributes:
        name: of the way: as in `--bits`, or a baseline's.
        bits: per parameter, all bytes counted.
        distortion: ||x - x̂||² / ||x||².
        encode: its speed.
        decode: its speed.
    """

    name: str
    bits: float
    distortion: float
    encode: Timing
    decode: Timing

    @property
    def bound(self) -> float | None:
        """The minimum bits of a Gaussian source at this distortion; None for no distortion."""
        return max(0.0, 0.5 * math.log2(1 / self.distortion)) if self.distortion else None

    @property
    def excess(self) -> float | None:
        """How far the bits are from the bound."""
        return None if self.bound is None else self.bits - self.bound


@dataclass(frozen=True)
class Comparison:
    """All ways of packing one delta.

    Attributes:
        source: description of the delta.
        parameters: its number of values.
        ours: by codecs of the wire format, as `DIAL` lists them.
        theirs: by baselines.
        matched: for each baseline, ours at no more than its distortion.
        trained_s: seconds of the local steps that made it; None if it was drawn.
    """

    source: str
    parameters: int
    ours: Sequence[Measured]
    theirs: Sequence[Measured]
    matched: Sequence[Measured]
    trained_s: float | None = None

    def of_training(self, measured: Measured) -> float | None:
        """Seconds of packing and unpacking it this way, as a fraction of those of training it."""
        if self.trained_s is None:
            return None
        return 4e-6 * self.parameters * (1 / measured.encode.median + 1 / measured.decode.median) / self.trained_s

    def rows(self) -> Iterator[Row]:
        """All rows."""
        for each in self.ours:
            what = f"{self.source}, wire {each.name}"
            yield Row(f"{what}: rate", each.bits, "bit/parameter", limit=each.bound)
            yield Row(f"{what}: distortion", each.distortion, "1", limit=4.0**-each.bits)
            if each.excess is not None:
                peers = {peer.name: peer.excess for peer in self.theirs if peer.excess is not None}
                yield Row(f"{what}: distance to Gaussian bound", each.excess, "bit/parameter", peers)
            for verb in ("encode", "decode"):
                speed: Callable[[Measured], float] = lambda measured, verb=verb: getattr(measured, verb).median  # noqa: E731
                peers = {peer.name: speed(peer) for peer in self.theirs}
                yield Row(f"{what}: {verb}", speed(each), "MB/s", peers, more_is_better=True)
            if (part := self.of_training(each)) is not None:
                yield Row(f"{what}: encode and decode, of {LOCAL_STEPS} local steps", part, "1")
        for peer, each in zip(self.theirs, self.matched, strict=True):
            what = f"{self.source}, at the distortion of {peer.name}: rate"
            yield Row(what, each.bits, "bit/parameter", {peer.name: peer.bits}, limit=peer.bound)

    def table(self) -> Table:
        """A table for people."""
        headings = ("", "bits", "distortion", "over bound", "encode MB/s", "decode MB/s", "of local steps")
        rows = tuple(
            (
                prefix + each.name,
                f"{each.bits:.3f}",
                f"{each.distortion:.2g}",
                "" if each.excess is None else f"{each.excess:+.3f}",
                str(each.encode),
                str(each.decode),
                "" if (part := self.of_training(each)) is None else f"{100 * part:.1f}%",
            )
            for prefix, group in (("--bits ", self.ours), ("", self.theirs))
            for each in group
        )
        matches = ", ".join(
            f"{each.bits:.2f} for {peer.name}" for peer, each in zip(self.theirs, self.matched, strict=True)
        )
        note = f"Bits that plait takes for as little distortion: {matches}. Speeds: median and largest deviation."
        if self.trained_s is not None:
            note += (
                f" Last column: encoding and decoding, as a part of {LOCAL_STEPS} local steps ({self.trained_s:.1f} s)."
            )
        return Table(f"{self.source}: {self.parameters:,} parameters", headings, rows, note)


def compare(source: Source, *, repetitions: int) -> Comparison:
    """Pack a delta in every way, `repetitions` times each; the order changes between repetitions."""
    delta = source.delta
    ways: dict[str, _Way] = {wire: _codec_way(codec_for(wire)) for wire in DIAL}
    ways |= {name: _baseline_way(baseline) for name, baseline in BASELINES.items()}
    measured = _measure(ways, delta, repetitions)
    ours = [measured[wire] for wire in DIAL]
    theirs = [measured[name] for name in BASELINES]
    matched = [_match(peer, ours, delta) for peer in theirs]
    return Comparison(source.name, delta.layout.size, ours, theirs, matched, source.trained_s)


# Packs and unpacks a delta once: bytes sent, values received, seconds of both.
_Way = Callable[[AdapterState], tuple[int, Float32, float, float]]


def _codec_way(codec: Codec) -> _Way:
    def way(delta: AdapterState) -> tuple[int, Float32, float, float]:
        started = time.perf_counter()
        packed = codec.encode(delta)
        encoded = time.perf_counter()
        arrived = codec.decode(packed.parameters, packed.payload, delta.layout)
        return packed.size_bytes, arrived, encoded - started, time.perf_counter() - encoded

    return way


def _baseline_way(baseline: Baseline) -> _Way:
    def way(delta: AdapterState) -> tuple[int, Float32, float, float]:
        started = time.perf_counter()
        data = baseline.pack(delta)
        encoded = time.perf_counter()
        arrived = baseline.unpack(data, delta.layout)
        return len(data), arrived, encoded - started, time.perf_counter() - encoded

    return way


def _measure(ways: dict[str, _Way], delta: AdapterState, repetitions: int) -> dict[str, Measured]:
    megabytes = delta.flat.nbytes / 1e6
    outcome: dict[str, tuple[float, float]] = {}
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for repetition in range(repetitions):
        names = list(ways) if repetition % 2 == 0 else list(reversed(ways))
        for name in names:
            size_bytes, arrived, encode_s, decode_s = ways[name](delta)
            outcome[name] = 8 * size_bytes / delta.layout.size, _distortion(delta.flat, arrived)
            speeds[name].append((megabytes / encode_s, megabytes / decode_s))
    return {
        name: Measured(name, bits, distortion, *(Timing(rates) for rates in zip(*speeds[name], strict=True)))
        for name, (bits, distortion) in outcome.items()
    }


def _match(peer: Measured, ours: Sequence[Measured], delta: AdapterState) -> Measured:
    """Ours at no more than a peer's distortion, close to it: interpolated, then measured, then corrected."""
    dial = sorted((each for each in ours if each.name not in ("fp32", "bf16")), key=lambda each: each.bits)
    bits = float(np.interp(-math.log(peer.distortion), [-math.log(e.distortion) for e in dial], [e.bits for e in dial]))
    for attempt in range(1, _MATCHES + 1):
        wire = f"{min(8.0, max(0.1, bits)):.4f}"
        found = _measure({wire: _codec_way(codec_for(wire))}, delta, 1)[wire]
        if found.distortion <= peer.distortion:
            return found
        bits += 0.5 * math.log2(found.distortion / peer.distortion) + 0.01 * attempt
    return ours[DIAL.index("8")]


def _distortion(sent: Float32, arrived: Float32) -> float:
    error, wide = np.subtract(sent, arrived, dtype=np.float64), sent.astype(np.float64)
    return float(np.square(error).sum() / np.square(wide).sum())
