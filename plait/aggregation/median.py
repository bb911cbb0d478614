"""The coordinate-wise median of the deltas.

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", arXiv 1803.01498, definition 1.
Up to half of the clients, less one, can move no coordinate beyond the values of honest ones. Weights are ignored: a
liar would state a large one.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from plait.adapters import Subject
from plait.aggregation.round import Outcome
from plait.aggregation.rule import Rule
from plait.aggregation.stacked import Stacked


def _combine(stacked: Stacked) -> Outcome:
    flat = np.empty(stacked.context.geometry.layout.size)
    for part, values in stacked.blocks():
        flat[part] = np.median(values, axis=0)
    return stacked.outcome(flat)


MEDIAN = Rule(
    name="median",
    title="coordinate-wise median (arXiv 1803.01498)",
    computes="median of every element of B and A separately; weights are ignored; robust below half of bad clients",
    algorithm=partial(Stacked, combine=_combine),
    subject=Subject.TENSORS,
    needs_all=True,
    least_clients=3,
)
