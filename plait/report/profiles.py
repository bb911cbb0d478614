"""Kinds of devices that estimates and simulated fleets know by name: their figures are assumed, not measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Of a frozen base of N parameters: 2 N forward, and 2 N backward for the gradients of activations (arXiv 2001.08361,
# appendix B, without the gradients of weights).
_FLOPS_PER_TOKEN_AND_PARAMETER = 4.0


@dataclass(frozen=True)
class Profile:
    """Figures of a kind of device: assumed, not measured.

    Attributes:
        peak_flops: operations per second, dense, in 16 bits unless `source` says otherwise.
        utilisation: the part of the peak that fine-tuning reaches: a guess.
        up_mbps: uplink in megabits per second.
        down_mbps: downlink in megabits per second.
        source: where the figures that are no guesses are from.
    """

    peak_flops: float
    utilisation: float
    up_mbps: float
    down_mbps: float
    watts: float
    source: str

    def tokens_per_s(self, base_parameters: int) -> float:
        """Training speed of adapters on a base of so many parameters."""
        return self.peak_flops * self.utilisation / (_FLOPS_PER_TOKEN_AND_PARAMETER * base_parameters)


_MOBILE = "network: Speedtest Global Index, September 2020, mean of mobile"
_FIXED = "network: Speedtest Global Index, September 2020, mean of fixed broadband"

PROFILES: Mapping[str, Profile] = {
    "phone": Profile(
        15.8e12, 0.05, 11.22, 35.96, 4.0,
        f"Apple A15 Neural Engine, 15.8 TOPS (Apple, 14 September 2021); 4 W assumed; {_MOBILE}",
    ),
    "orin": Profile(
        42.5e12, 0.2, 45.74, 85.73, 60.0,
        "Jetson AGX Orin 64GB, 60 W; a quarter of the GPU's 170 sparse INT8 TOPS (NVIDIA technical brief, 2022); "
        f"{_FIXED}",
    ),
    "laptop": Profile(
        3.6e12, 0.3, 45.74, 85.73, 30.0,
        f"Apple M2, 10-core GPU, 3.6 TFLOPS in float32 (Apple, 6 June 2022); 30 W of its adapter; {_FIXED}",
    ),
    "4090": Profile(
        165.2e12, 0.3, 45.74, 85.73, 450.0,
        f"GeForce RTX 4090, FP16 with FP32 sums, 450 W (NVIDIA Ada whitepaper, 2022); {_FIXED}",
    ),
    "H100": Profile(
        989.4e12, 0.3, 10_000.0, 10_000.0, 700.0,
        "H100 SXM, BF16 without sparsity, 700 W (NVIDIA data sheet, 2023); network of 10 Gbit/s assumed",
    ),
}  # fmt: skip
"""The built-in profiles: assumed, not measured."""
