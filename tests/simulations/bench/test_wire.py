import math
from dataclasses import replace

import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from simulations.bench.baselines import BASELINES
from simulations.bench.deltas import Source, samples
from simulations.bench.wire import DIAL, compare


@pytest.fixture(scope="module")
def comparison():
    source, _ = samples(1 << 12, seed=0)
    return compare(replace(source, trained_s=100.0), repetitions=1)


@pytest.mark.slow
def test_every_way_is_measured(comparison):
    assert [each.name for each in comparison.ours] == list(DIAL)
    assert [each.name for each in comparison.theirs] == list(BASELINES)
    by_name = {each.name: each for each in comparison.ours}
    assert (by_name["fp32"].bits, by_name["fp32"].distortion) == (32, 0)
    assert by_name["bf16"].bits == 16
    assert by_name["1"].bits == pytest.approx(1, rel=0.05)


def test_plait_takes_fewer_bits_for_as_little_distortion(comparison):
    for peer, ours in zip(comparison.theirs, comparison.matched, strict=True):
        assert ours.distortion <= peer.distortion
        # The dial ends at about 1 bit, where top-k of as many bits loses most of a delta. The coder's states are a
        # twentieth of a bit of so few numbers.
        assert ours.bits < max(peer.bits, 1.05)


@pytest.mark.slow
def test_distortion_counts_what_is_lost():
    layout = Layout.of({"a": (64,)})
    delta = AdapterState(layout, np.linspace(1, 2, 64, dtype=np.float32))
    lost = compare(Source("line", delta), repetitions=1).theirs[0].distortion  # top-k keeps one of 64
    energy = float(np.sum(delta.flat.astype(np.float64) ** 2))
    assert math.isclose(lost, 1 - 4 / energy)
