import math
from dataclasses import replace

import numpy as np
import pytest

from plait.adapters import AdapterState, add
from plait.aggregation import geometry_of
from plait.rounds import fold
from plait.rounds.spool import Weighting
from plait.rounds.validate import (
    FIGURES,
    Expected,
    NormBound,
    NormPolicy,
    RefusedUpdateError,
    beyond,
    bounded,
    check_evaluation,
    clipped,
    max_update_bytes,
    measure,
    open_update,
    remembered,
)
from plait.trust.keys import NodeKey
from plait.wire.codecs import codec_for
from plait.wire.encoding import encode_delta
from plait.wire.envelope import MAX_HEADER_BYTES, Direction, Header, join_frame, seal, split_frame, with_signature
from plait.wire.messages import ClientCard, Evaluation
from tests.killing import different_stories


@pytest.fixture
def received(spec_and_state):
    return spec_and_state[1]


@pytest.fixture
def expected(spec_and_state, received):
    return Expected(
        run_id=b"r" * 16,
        round=3,
        client="bob",
        base_fingerprint=b"b" * 32,
        spec_digest=spec_and_state[0].digest,
        received=received,
        examples=7,
    )


def update(expected, values=0.5, **changes):
    header = Header(
        direction=Direction.UPDATE,
        run_id=expected.run_id,
        round=expected.round,
        client=expected.client,
        base_fingerprint=expected.base_fingerprint,
        spec_digest=expected.spec_digest,
        relative_to=expected.received.digest(),
        examples=expected.examples,
    )
    layout = expected.received.layout
    delta = AdapterState(layout, np.full(layout.size, values, np.float32))
    return seal(replace(header, **changes), encode_delta(delta, codec_for("fp32"))).data


def test_an_update_that_says_what_it_must_is_opened(expected):
    opened = open_update(update(expected), expected)
    assert (opened.delta.flat == 0.5).all()
    assert opened.header.examples == 7


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"client": "eve"}, "wrong-client", "client of the update is 'eve', expected 'bob'"),
        ({"round": 2}, "wrong-round", "round of the update is 2, expected 3"),
        ({"run_id": b"x" * 16}, "wrong-run", "run is 7878787878787878, expected 7272727272727272"),
        ({"base_fingerprint": b"x" * 32}, "wrong-base", "base is 7878787878787878, expected 6262626262626262"),
        ({"spec_digest": b"x" * 32}, "wrong-spec", ""),
        ({"direction": Direction.BROADCAST, "result_digest": b"d" * 32, "examples": 0}, "direction", ""),
        ({"relative_to": b""}, "wrong-reference", "starting adapter is , expected "),
        ({"examples": 8}, "weight", "number of examples is 8, expected 7"),
        ({"metrics": {"train_tokens": -1.0}}, "figure", "train_tokens is -1, expected 0 to 9.0072e"),
        ({"metrics": {"own": -1e300}}, "figure", "own is -1e+300, expected -9.0072e"),
        ({"values": 3e38}, "overflow", "largest element is 3e"),
        ({"values": -3e38}, "overflow", "largest element is 3e"),
    ],
)
def test_a_refusal_says_what_it_got_and_expected(expected, changes, reason, detail):
    with pytest.raises(RefusedUpdateError) as refused:
        open_update(update(expected, **changes), expected)
    assert refused.value.reason == reason
    assert str(refused.value).startswith(detail)


def test_a_signature_covers_every_bit_of_an_update(expected):
    key = NodeKey.generate()
    signed, keyed = with_signature(update(expected), key.sign), replace(expected, public_key=key.public_bytes)
    assert (open_update(signed, keyed).delta.flat == 0.5).all()
    for bit in range(8 * len(signed)):
        changed = bytearray(signed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RefusedUpdateError):
            open_update(bytes(changed), keyed)
    # Another payload, with a digest that fits.
    other = split_frame(update(expected, 0.25))
    with pytest.raises(RefusedUpdateError, match="is not its key's"):
        open_update(join_frame(bytes(other.header), other.payload, bytes(split_frame(signed).signature)), keyed)


def test_an_update_that_would_fill_the_memory_is_refused_unread(expected):
    layout = expected.received.layout
    most = max_update_bytes(layout)
    assert 4 * layout.size < most < 4 * layout.size + MAX_HEADER_BYTES
    with pytest.raises(RefusedUpdateError, match=f"envelope has {most + 1} bytes, expected at most {most}"):
        open_update(bytes(most + 1), expected)


CARD = ClientCard("bob", b"b" * 32, b"s" * 32, 7, 70, 4, 40, {})
EVALUATION = Evaluation("bob", 3, 2.5, 39, None, 4)


def test_an_evaluation_of_what_the_client_has_counts():
    own = {"own_loss": 2.0, "own_loss_error": 0.5, "own_change": 1.0, "own_change_error": 0.5}
    for more in ({}, {"correct": 3, "own_loss": 2.0, "own_correct": 0}, {"change": -1.0, "change_error": 0.0}, own):
        check_evaluation(replace(EVALUATION, **more), CARD, 3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"client": "eve"}, "wrong-client"),
        ({"round": 2}, "wrong-round"),
        ({"examples": 3}, "weight"),
        ({"tokens": 0}, "weight"),
        ({"tokens": 41}, "weight"),
        ({"loss": 1e300}, "figure"),
        ({"change": -1e300, "change_error": 0.0}, "figure"),
        ({"correct": 1, "own_loss": 2.0}, "figure"),
        ({"own_change": 1.0}, "figure"),
        ({"own_loss": 2.0, "own_change_error": 0.5}, "figure"),
        ({"reward_margin": 1.0}, "figure"),
        ({"loss_error": 1e300}, "figure"),
    ],
)
def test_an_evaluation_of_anything_else_does_not(changes, reason):
    with pytest.raises(RefusedUpdateError) as refused:
        check_evaluation(replace(EVALUATION, **changes), CARD, 3)
    assert refused.value.reason == reason


@pytest.fixture
def geometry(spec_and_state):
    return geometry_of(spec_and_state[0])


def delta_of(received, seed=0, size=0.1):
    values = np.random.default_rng(seed).normal(size=received.layout.size) * size
    return AdapterState(received.layout, values.astype(np.float32))


def turned(received, geometry, c):
    """The delta to (B / c)(c A)."""
    after = received.flat.copy()
    for pair in geometry.pairs:
        pair.a_of(after)[:] *= c
        pair.b_of(after)[:] /= c
    return AdapterState(received.layout, after - received.flat)


def test_figures_are_those_of_dense_matrices(received, geometry):
    delta = delta_of(received)
    (pair,) = geometry.pairs
    a, b = (of(received.flat).astype(np.float64) for of in (pair.a_of, pair.b_of))
    da, db = (of(delta.flat).astype(np.float64) for of in (pair.a_of, pair.b_of))
    norms = measure(delta, received, geometry)
    assert norms["A"] == pytest.approx(np.sqrt(np.mean(da**2)))
    assert norms["B"] == pytest.approx(np.sqrt(np.mean(db**2)))
    assert norms["product"] == pytest.approx(pair.scale * np.linalg.norm((b + db) @ (a + da) - b @ a))
    assert norms["other"] == 0


def test_a_gauge_leaves_the_product_as_it_is_and_is_caught_by_its_factors(received, geometry):
    limits = NormBound().limits([measure(delta_of(received, seed), received, geometry) for seed in range(4)], [])
    for c in (1000.0, 0.001):
        norms = measure(turned(received, geometry, c), received, geometry)
        assert norms["product"] < 1e-3 * limits["product"]
        assert beyond(norms, limits).startswith("norm of A is " if c > 1 else "norm of B is ")


def test_factors_within_their_bounds_that_conspire_are_caught_by_their_product(received, geometry):
    (pair,) = geometry.pairs
    still = AdapterState.zeros(received.layout)
    honest = [measure(delta_of(received, seed), still, geometry) for seed in range(4)]
    limits = NormBound(factor=3).limits(honest, [])
    # All of both factors on one direction, each no larger than an honest one may be.
    flat = np.zeros(received.layout.size, np.float32)
    pair.a_of(flat)[0] = 0.99 * limits["A"] * math.sqrt(pair.rank)
    pair.b_of(flat)[:, 0] = 0.99 * limits["B"] * math.sqrt(pair.rank)
    norms = measure(AdapterState(received.layout, flat), still, geometry)
    assert norms["A"] < limits["A"]
    assert norms["B"] < limits["B"]
    assert beyond(norms, limits).startswith("norm of product is ")


def test_a_minority_of_liars_moves_no_limit_beyond_honest_figures_nor_do_most_of_one_round():
    honest = [dict.fromkeys(FIGURES, 1.0 + 0.1 * k) for k in range(6)]
    liars = [dict.fromkeys(FIGURES, 1e30)] * 5
    limits = NormBound(factor=2).limits(honest + liars, [])
    assert all(limits[figure] <= 2 * 1.5 for figure in FIGURES)
    # Rounds before count, too.
    ones = dict.fromkeys(FIGURES, 1.0)
    assert NormBound(factor=2).limits(liars[:3], [ones] * 4) == dict.fromkeys(FIGURES, 2.0)


@pytest.mark.parametrize("size", [1.0, 1e30])
def test_what_is_clipped_is_just_within_every_limit_and_points_the_same_way(received, geometry, size):
    limits = dict.fromkeys(FIGURES, 0.01)
    delta = delta_of(received, size=size)
    short = clipped(delta, received, geometry, limits)
    norms = measure(short, received, geometry)
    assert beyond(norms, limits) is None
    assert max(norms[figure] for figure in FIGURES) > 0.009
    here, there = short.flat.astype(np.float64), delta.flat.astype(np.float64)
    assert here @ there / np.linalg.norm(here) / np.linalg.norm(there) == pytest.approx(1, rel=1e-5)


def gauge_attacker(fake_model):
    class Attacker(fake_model):
        def train(self, job):
            trained = super().train(job)
            return replace(trained, state=add(job.start, turned(job.start, geometry_of(job.spec), 1000.0)))

    return Attacker(1, 3)


HONEST = ("alice", "bob", "carol", "dave")


@pytest.mark.slow
@pytest.mark.parametrize("policy", [NormPolicy.REJECT, NormPolicy.CLIP])
def test_a_gauge_attacker_changes_nothing_of_a_run_also_if_it_is_killed_anywhere(
    federate, fake_model, snapshots_of, monkeypatch, policy
):
    models = {name: fake_model(1 + 0.1 * k, 3) for k, name in enumerate(HONEST)}
    models["mallory"] = gauge_attacker(fake_model)
    federation = federate(models, bits="bf16", rounds=3, norm_bound=NormBound(policy))
    snapshots = snapshots_of(federation)
    # Where each round is folded is where the bound decides.
    monkeypatch.setattr(fold, "remembered", lambda *given: (snapshots.take("folded"), remembered(*given))[1])
    federation.channel.before = lambda asked: snapshots.take("before a client works")
    expected = federation.run()
    monkeypatch.undo()
    if policy is NormPolicy.REJECT:
        models.pop("mallory")
        assert expected.adapter.digest() == federate(models, bits="bf16", rounds=3).run().adapter.digest()
    assert len(snapshots.killed) > 15
    for where, killed in snapshots.killed:
        state = killed.run()
        assert (state.adapter.digest(), state.norms) == (expected.adapter.digest(), expected.norms), where
        assert not different_stories(killed.events, federation.events), where
        refused = [(event["round"], event["client"], event["reason"]) for event in killed.of_kind("update_refused")]
        every = [(number, "mallory", "norm") for number in (1, 2, 3)]
        assert refused == (every if policy is NormPolicy.REJECT else []), where


HUGE = 1 << 40


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        ({"a": 5, "b": 51}, {"a": 5.0, "b": 50.0}),
        ({"a": 1, "b": 2, "c": 2**63 - 1}, {"a": 1.0, "b": 2.0, "c": 20.0}),
        ({"a": 3, "b": 4, "c": HUGE, "d": HUGE}, {"a": 3.0, "b": 4.0, "c": 40.0, "d": 40.0}),
    ],
)
def test_no_weight_is_more_than_ten_times_the_lower_median(examples, expected):
    assert bounded(examples) == expected


def test_a_client_that_claims_to_have_all_the_data_there_are_is_not_the_mean(federate):
    models = dict(federate().models)
    models["mallory"] = replace(models["mallory"], train_examples=HUGE)
    federation = federate(models, rounds=1, weighting=Weighting.EXAMPLES)
    state = federation.run()
    values = federation.initial.flat.astype(np.float64)
    weights = {"alice": 3.0, "bob": 7.0, "mallory": 70.0}
    deltas = [weights[name] * (federation.train_alone(name, values, 1) - values) for name in weights]
    np.testing.assert_allclose(state.adapter.flat, values + sum(deltas) / sum(weights.values()), rtol=0, atol=1e-6)
    assert federation.of_kind("round_finished")[0]["weight_capped"] == ["mallory"]
