"""DoRA with rsLoRA's scale (arXiv 2402.09353, 2312.03732)."""

from dataclasses import replace

from plait.adapters.methods import METHODS

RSDORA = replace(
    METHODS["lora"],
    name="rsdora",
    title="DoRA with rsLoRA's scale (arXiv 2402.09353, 2312.03732)",
    fixed={"use_dora": True, "use_rslora": True},
    averages="A, B and magnitudes, each by itself; never exact, for weights are divided by their own norm",
)
