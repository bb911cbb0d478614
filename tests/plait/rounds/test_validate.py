from dataclasses import replace

import numpy as np
import pytest

from plait.adapters import AdapterState
from plait.rounds.validate import Expected, UpdateRefused, check_evaluation, max_update_bytes, open_update
from plait.wire.codecs import codec_for
from plait.wire.envelope import MAX_HEADER_BYTES, Direction, Header, encode_delta, seal
from plait.wire.messages import ClientCard, Evaluation


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
        ({"client": "eve"}, "wrong-client", "update is signed by 'eve', expected 'bob'"),
        ({"round": 2}, "wrong-round", "update is for round 2, expected 3"),
        ({"run_id": b"x" * 16}, "wrong-run", "run is 7878787878787878, expected 7272727272727272"),
        ({"base_fingerprint": b"x" * 32}, "wrong-base", "base is 7878787878787878, expected 6262626262626262"),
        ({"spec_digest": b"x" * 32}, "wrong-spec", ""),
        ({"direction": Direction.BROADCAST, "result_digest": b"d" * 32, "examples": 0}, "direction", ""),
        ({"relative_to": b""}, "wrong-reference", "adapter that the delta is relative to is , expected "),
        ({"examples": 8}, "weight", "update counts 8 examples, expected 7"),
        ({"metrics": {"train_tokens": -1.0}}, "figure", "train_tokens is -1, expected 0 to 9.0072e"),
        ({"values": 3e38}, "overflow", "largest element is 3e"),
    ],
)
def test_a_refusal_says_what_it_got_and_expected(expected, changes, reason, detail):
    with pytest.raises(UpdateRefused) as refused:
        open_update(update(expected, **changes), expected)
    assert refused.value.reason == reason
    assert str(refused.value).startswith(detail)


def test_an_update_that_would_fill_the_memory_is_refused_unread(expected):
    layout = expected.received.layout
    most = max_update_bytes(layout)
    assert 4 * layout.size < most < 4 * layout.size + MAX_HEADER_BYTES
    with pytest.raises(UpdateRefused, match=f"envelope has {most + 1} bytes, expected at most {most}"):
        open_update(bytes(most + 1), expected)


def test_whatever_was_accepted_once_can_be_added_up(expected):
    largest = open_update(update(expected, values=2.0**119), expected).delta
    # The mean of any number of them is no larger, and a hundred rounds of it stay within float32.
    with np.errstate(over="raise"):
        assert np.isfinite(np.float32(100) * largest.flat).all()


CARD = ClientCard("bob", b"b" * 32, b"s" * 32, 7, 70, 4, 40, {})
EVALUATION = Evaluation("bob", 3, 2.5, 39, None, 4)


def test_an_evaluation_of_what_the_client_has_counts():
    check_evaluation(EVALUATION, CARD, 3)
    check_evaluation(replace(EVALUATION, own_loss=2.0), CARD, 3)
    check_evaluation(replace(EVALUATION, correct=3, own_loss=2.0, own_correct=0), CARD, 3)
    check_evaluation(replace(EVALUATION, loss_error=0.5, change=-1.0), CARD, 3)
    check_evaluation(replace(EVALUATION, change=-1.0, change_error=0.0), CARD, 3)
    own = {"own_loss": 2.0, "own_loss_error": 0.5, "own_change": 1.0, "own_change_error": 0.5}
    check_evaluation(replace(EVALUATION, **own), CARD, 3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"client": "eve"}, "wrong-client"),
        ({"round": 2}, "wrong-round"),
        ({"examples": 3}, "weight"),
        ({"tokens": 0}, "weight"),
        ({"loss": 1e300}, "figure"),
        ({"correct": 1, "own_loss": 2.0}, "figure"),
        ({"loss_error": 1e300}, "figure"),
    ],
)
def test_an_evaluation_of_anything_else_does_not(changes, reason):
    with pytest.raises(UpdateRefused) as refused:
        check_evaluation(replace(EVALUATION, **changes), CARD, 3)
    assert refused.value.reason == reason
