import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from plait.adapters import AdapterState
from plait.aggregation import Contribution, RoundContext
from plait.aggregation.fedavg import FEDAVG
from plait.aggregation.geometry import geometry_of


def combined(lab, updates):
    geometry = geometry_of(lab.spec())
    zero = AdapterState.zeros(geometry.layout)
    accumulator = FEDAVG.begin(RoundContext(round=1, master=zero, geometry=geometry, initial=zero))
    for index, (flat, weight) in enumerate(updates):
        delta = AdapterState(geometry.layout, flat)
        accumulator.add(Contribution(f"client-{index}", zero, delta, float(weight), geometry))
    return accumulator.finish().step.flat


def updates(lab):
    size = geometry_of(lab.spec()).layout.size
    flats = npst.arrays(np.float32, size, elements=st.floats(-1e6, 1e6, width=32))
    return st.lists(st.tuples(flats, st.integers(1, 10**9)), min_size=1, max_size=5)


@pytest.mark.slow
@given(data=st.data())
def test_the_result_is_the_weighted_mean(lab, data):
    given_updates = data.draw(updates(lab))
    flats = np.array([flat for flat, _ in given_updates], np.float64)
    weights = np.array([weight for _, weight in given_updates], np.float64)

    # One rounding to float32, and float64's own where large numbers cancel.
    expected = np.average(flats, axis=0, weights=weights)
    np.testing.assert_allclose(combined(lab, given_updates), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.slow
@given(data=st.data())
def test_the_mean_lies_between_the_updates(lab, data):
    given_updates = data.draw(updates(lab))
    flats = np.array([flat for flat, _ in given_updates])

    mean = combined(lab, given_updates)

    slack = 1e-6 * np.abs(flats).max()
    assert (mean >= flats.min(axis=0) - slack).all()
    assert (mean <= flats.max(axis=0) + slack).all()


def test_what_is_left_out_is_the_covariance_of_the_factors(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(FEDAVG, context, generator, weights=(1.0, 2.0, 4.0))
    exact, result = lab.exact_mean(cohort), lab.result(context, lab.run(FEDAVG, context, cohort))
    shares = lab.shares(cohort)
    for pair in context.geometry.pairs:
        bs, as_ = ([of(lab.trained(c)) for c in cohort] for of in (pair.b_of, pair.a_of))
        mean_b = sum(p * b for p, b in zip(shares, bs, strict=True))
        mean_a = sum(p * a for p, a in zip(shares, as_, strict=True))
        covariance = sum(p * (b - mean_b) @ (a - mean_a) for p, b, a in zip(shares, bs, as_, strict=True))

        np.testing.assert_allclose(exact[pair.module] - result[pair.module], pair.scale * covariance, atol=1e-5)
