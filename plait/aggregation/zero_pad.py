"""Averaging clients of different ranks by padding their factors with zeros.

The baseline of Cho et al. (arXiv 2401.06432): with one rank and scale for all it is FedAvg. Padding dilutes: a slice
that few clients have shrinks towards zero each round (see `raflora` and `rbla`).
"""

from __future__ import annotations

from functools import partial

from plait.aggregation.contribution import UP_TO_SERVER
from plait.aggregation.hetlora import PaddedMean
from plait.aggregation.rule import Rule

ZEROPAD = Rule(
    name="zeropad",
    title="zero padding, the baseline of HetLoRA (arXiv 2401.06432)",
    computes="weighted mean of zero-padded B and A; slices that few clients have are diluted",
    algorithm=partial(PaddedMean, by_norm=False),
    linear=True,
    ranks=UP_TO_SERVER,
)
