"""Bases in few bits: NF4 and GGUF's blocks on a CPU by plait's own kernels, NF4 on a GPU by bitsandbytes."""

from plait.feature import Feature

FEATURE = Feature(
    name="few_bits",
    help="bases in four or eight bits",
    values={"method": ("qlora",), "dtype": ("int8",)},
    holding="plait.features.few_bits.holding:HOLDING",
)
