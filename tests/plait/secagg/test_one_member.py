"""One member of a masked sum that departs from the protocol: what it can do to the model, and to the others' run."""

import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from plait.adapters import Layout, norm, subtract
from plait.errors import PeerError, RunInterrupted
from plait.rounds.channel import Clock, Purpose
from plait.rounds.run_state import initial_state
from plait.secagg import client as masking
from plait.secagg.sums import TRAINING, GroupSum, Summed, encode_figures
from plait.trust.masks import SHARE_BYTES
from plait.wire.masked_messages import (
    Delivery,
    MaskedReply,
    MaskingTask,
    ParcelKey,
    Parcels,
    Ready,
    Revealed,
    Unmasking,
    UnopenedParcel,
)
from plait.wire.messages import decode_reply, decode_task, encode_reply
from tests.plait.secagg.test_masked_rounds import stage_of

pytestmark = pytest.mark.slow

MALLORY = "mallory"
NAMES = ["alice", "bob", "carol", "dave", MALLORY]
WIDE = Layout.of({"layer.lora_A.weight": [2, 2_000], "layer.lora_B.weight": [3, 2]})
SQUARE = list(TRAINING).index("square")
ROUNDS = 5


def begin(federate, fake_model, monkeypatch, change=None, **more):
    """Five clients that agree on where to go, of whom mallory changes what it hides."""
    models = {name: fake_model(4.0 + place / 10, 3 + place, layout=WIDE) for place, name in enumerate(NAMES)}
    monkeypatch.setattr(sys.modules[fake_model.__module__], "layout_of", lambda _rank: WIDE)
    return lying(federate(models, masked=True, rounds=ROUNDS, **more), change)


def lying(federation, change, about="train"):
    """The same, with what mallory changes, if anything."""
    if change:
        sender = federation.channel.participants[federation.node(MALLORY)].way.sender
        masked = sender.masked

        def lie(session, numbers, figures, **more):
            if session.purpose == about:
                numbers, figures = change(np.array(numbers), np.array(figures), session.round)
            return masked(session, numbers, figures, **more)

        sender.masked = lie
    return federation


def steps(federation):
    """How far each round moved the published adapter."""
    states = federation.published
    before = [federation.initial, *(state.adapter for state in states)]
    return [norm(subtract(after.adapter, was)) for was, after in zip(before, states, strict=False)]


def square_is(value):
    def change(numbers, figures, number):
        figures[SQUARE] = np.array([value], np.int64).astype(np.uint64)[0]
        return numbers, figures

    return change


@pytest.mark.parametrize("value", [1 << 48, (1 << 62), -(1 << 48), -(1 << 62)], ids=["long", "longest", "none", "less"])
def test_a_lie_about_lengths_changes_no_round_much(federate, fake_model, monkeypatch, value):
    honest = begin(federate, fake_model, monkeypatch)
    expected = honest.run()
    lied = begin(federate, fake_model, monkeypatch, square_is(value))
    state = lied.run()
    assert max(steps(lied)) < 1.5 * max(steps(honest))
    assert norm(subtract(state.adapter, expected.adapter)) < 0.2 * norm(subtract(expected.adapter, honest.initial))


def full(numbers, figures, number):
    """Numbers anywhere in the ring, from round 2 on."""
    if number > 1:
        numbers = np.random.default_rng(number).integers(-32, 32, numbers.size)
    return numbers, figures


def far(numbers, figures, number):
    """The other way, forty times as far, from round 2 on."""
    return (numbers * -40, figures) if number > 1 else (numbers, figures)


@pytest.mark.parametrize("change", [full, far])
def test_a_sum_that_the_ring_does_not_hold_ends_the_run_with_the_last_good_adapter(
    federate, fake_model, monkeypatch, change
):
    federation = begin(federate, fake_model, monkeypatch, change)
    for _ in range(2):
        with pytest.raises(PeerError, match=r"round 2 .*departs from the protocol.*adapter of round 1"):
            federation.run()
        assert federation.published[-1].round == 1


def test_a_member_that_sends_ever_more_makes_a_grid_half_again_as_coarse_at_most(federate, fake_model, monkeypatch):
    """It is three times as long as it may be in every round, and claims to be as long as can be."""

    def change(numbers, figures, number):
        return square_is(1 << 62)(numbers * (3 if number > 1 else 1), figures, number)

    federation = begin(federate, fake_model, monkeypatch, change)
    federation.run()
    units = [event["unit"] for event in federation.of_kind("sum_unmasked") if event["purpose"] == "train"]
    assert len(units) == ROUNDS
    assert all(after <= 1.5001 * before for before, after in pairwise(units))


def test_no_round_s_grid_is_coarser_than_the_plan_allows(federate, fake_model):
    federation = begin_small(federate, fake_model)
    masked, parts = federation.masked, (slice(0, 16),)
    state = initial_state(b"r" * 16, federation.ranks)
    first = masked.wanted(state, parts)
    for length in (1e-30, 1.0, 1e30):
        state = replace(state, update_length=length)
        for numbers in (np.zeros(64, np.int32), np.full(64, 12, np.int32)):
            figures = encode_figures({"square": 1e30}, TRAINING)
            summed = Summed.of(
                [GroupSum(numbers, figures, tuple(NAMES))], replace(first, unit=length, size=64), invited=5
            )
            assert 1e-4 < masked.length(state, parts, summed) / (0.2 * 4 / 2) <= 32


class Disturbing:
    """What mallory answers to a stage of a masked sum, from round 2 on: `change(task, answer)`, if not None."""

    def __init__(self, change, *, rounds=(2, 3, 4, 5)):
        self.change, self.rounds = change, rounds

    def __call__(self, asked, raw):
        if asked.client != MALLORY or asked.purpose is not Purpose.MASK or asked.round not in self.rounds:
            return raw
        task, reply = decode_task(asked.task, max_bytes=len(asked.task)), decode_reply(raw, max_bytes=len(raw))
        assert isinstance(task, MaskingTask)
        answer = reply.answer if isinstance(reply, MaskedReply) else None
        changed = self.change(task, answer)
        return raw if changed is None else encode_reply(MaskedReply(MALLORY, changed))


def rubbish_for(*victims):
    def change(task, answer):
        if isinstance(answer, Parcels):
            spoilt = {place: bytes(len(parcel)) for place, parcel in answer.parts.items() if NAMES[place] in victims}
            return Parcels({**answer.parts, **spoilt})
        return None

    return change


def flipped(at):
    """One bit of every parcel, at a place."""

    def change(task, answer):
        if isinstance(answer, Parcels):
            spoil = lambda parcel: parcel[:at] + bytes([parcel[at] ^ 1]) + parcel[at + 1 :]  # noqa: E731
            return Parcels({place: spoil(parcel) for place, parcel in answer.parts.items()})
        return None

    return change


def silent_when_accused(task, answer):
    return Ready() if isinstance(task.stage, UnopenedParcel) else rubbish_for("alice")(task, answer)


def wrong_keys(task, answer):
    if isinstance(task.stage, UnopenedParcel):
        return ParcelKey(b"k" * 32)
    return rubbish_for("alice", "bob")(task, answer)


def complains_of(*accused):
    def change(task, answer):
        if isinstance(task.stage, Delivery):
            return Ready(tuple(place for place, name in enumerate(NAMES) if name in accused))
        return None

    return change


def refusals(federation):
    return {(event["client"], event["reason"], event["stage"]) for event in federation.of_kind("update_refused")}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (rubbish_for("alice"), "shares"),
        (rubbish_for(*NAMES[:4]), "shares"),
        (flipped(0), "shares"),
        (flipped(40), "shares"),
        (flipped(150), "shares"),
        (wrong_keys, "shares"),
        (complains_of("alice"), "complaint"),
        (complains_of(*NAMES[:4]), "complaint"),
    ],
    ids=["one", "all", "key", "digest", "text", "wrong keys", "false complaint", "of all"],
)
def test_a_member_that_disturbs_the_sharing_is_named_and_the_others_go_on(federate, fake_model, change, reason):
    federation = begin_small(federate, fake_model)
    federation.channel.tamper = Disturbing(change)
    state = federation.run()
    assert state.round == ROUNDS
    assert refusals(federation) == {(MALLORY, reason, "delivery")}
    (refused,) = federation.of_kind("update_refused")
    assert refused["detail"]
    assert [(event["round"], event["attempt"]) for event in federation.of_kind("round_missed")] == [(2, 1)]
    assert [len(event["cohort"]) for event in federation.of_kind("round_started")] == [5, 5, 4, 4, 4, 4]


def test_honest_clients_of_a_member_that_is_silent_when_accused_are_not_blamed(federate, fake_model):
    federation = begin_small(federate, fake_model)
    federation.channel.tamper = Disturbing(silent_when_accused)
    assert federation.run().round == ROUNDS
    assert {event["client"] for event in federation.of_kind("update_refused")} == {MALLORY}
    assert all(event["reason"] and event["detail"] for event in federation.of_kind("update_refused"))


def begin_in_groups(federate, fake_model, monkeypatch, change=None):
    """24 clients, three groups of eight, each of which agrees on where to go with a little of its own."""
    names = [MALLORY, *(f"client-{number:02}" for number in range(23))]
    models = {name: fake_model(4.0 + place / 100, 3 + place, layout=WIDE) for place, name in enumerate(names)}
    monkeypatch.setattr(sys.modules[fake_model.__module__], "layout_of", lambda _rank: WIDE)
    return lying(federate(models, masked=True, rounds=2), change)


def away(numbers, figures, number):
    """Against the others, three times as far as a client may be: within the ring."""
    return numbers * -6, figures


def far_off(numbers, figures, number):
    """Wherever in the ring."""
    return np.random.default_rng(number).integers(-32, 32, numbers.size), figures


@pytest.mark.parametrize("change", [away, far_off])
def test_in_groups_a_member_moves_no_round_and_its_group_is_named(federate, fake_model, monkeypatch, change):
    honest, federation = (begin_in_groups(federate, fake_model, monkeypatch, each) for each in (None, change))
    expected, state = honest.run(), federation.run()
    assert not honest.of_kind("group_left_out")
    sums = [(event["purpose"], event["clients"]) for event in honest.of_kind("sum_unmasked")]
    assert sums == [("evaluate", 24), *[*[("train", 8)] * 3, ("evaluate", 24)] * 2]
    left_out = federation.of_kind("group_left_out")
    assert [event["round"] for event in left_out] == [1, 2]
    assert all(MALLORY in event["clients"] and len(event["clients"]) == 8 for event in left_out)
    assert [event["received"] for event in federation.of_kind("round_finished")] == [16, 16]
    way = subtract(expected.adapter, honest.initial)
    assert norm(subtract(state.adapter, expected.adapter)) < 0.15 * norm(way)


def begin_small(federate, fake_model, **more):
    models = {name: fake_model(float(place), 3 + place) for place, name in enumerate(NAMES)}
    return federate(models, masked=True, rounds=ROUNDS, **more)


def test_a_server_that_goes_on_leaves_out_whom_it_has_found_guilty(federate, fake_model):
    federation = begin_small(federate, fake_model)
    federation.channel.tamper = Disturbing(rubbish_for("alice"))

    def stop(asked):
        if asked.round == 4:
            raise RunInterrupted("stopped")

    federation.channel.before = stop
    with pytest.raises(RunInterrupted):
        federation.run()
    federation.channel.before = lambda asked: None
    federation.run()
    assert len(federation.of_kind("round_missed")) == 1
    assert refusals(federation) == {(MALLORY, "shares", "delivery")}


def test_a_member_that_gives_others_wrong_shares_of_theirs_is_named_and_the_sum_is_right(federate, fake_model):
    def change(task, answer):
        return Revealed(dict.fromkeys(answer.parts, b"\x00" * SHARE_BYTES)) if isinstance(answer, Revealed) else None

    federation, honest = begin_small(federate, fake_model), begin_small(federate, fake_model)
    federation.channel.tamper = Disturbing(change)
    assert federation.run().adapter.digest() == honest.run().adapter.digest()
    assert {(who, stage) for who, _, stage in refusals(federation)} == {(MALLORY, "unmasking")}


def test_shares_of_another_secret_cost_a_round_and_not_the_run(federate, fake_model, monkeypatch):
    """They can be opened, so no one sees it before the unmasking; then its own seed is missing too."""
    split = masking.split
    federation = begin_small(federate, fake_model)

    def before(asked):
        is_it = (asked.client, asked.purpose, asked.round) == (MALLORY, Purpose.MASK, 2)
        is_it = is_it and decode_task(asked.task, max_bytes=len(asked.task)).session.purpose == "train"
        wrong = lambda secret, **more: split(b"?" * 32, **more)  # noqa: E731
        monkeypatch.setattr(masking, "split", wrong if is_it else split)

    federation.channel.before = before
    own = NAMES.index(MALLORY)

    def change(task, answer):
        if isinstance(task.stage, Unmasking) and task.session.purpose == "train":
            return Revealed({**answer.parts, own: bytes(SHARE_BYTES)})
        return None

    federation.channel.tamper = Disturbing(change)
    state = federation.run()
    assert state.round == ROUNDS
    assert refusals(federation) == {(MALLORY, "shares", "unmasking")}
    finished = {event["round"]: event["received"] for event in federation.of_kind("round_finished")}
    assert finished == {1: 5, 2: 0, 3: 4, 4: 4, 5: 4}
    adapters = [state.adapter.digest() for state in federation.published]
    assert adapters[0] == adapters[1] != adapters[2]


def test_figures_that_no_clients_have_cost_an_evaluation_and_not_the_run(federate, fake_model):
    federation = begin_small(federate, fake_model)
    lying(federation, lambda numbers, figures, number: (numbers, figures - np.uint64(1 << 40)), about="evaluate")
    assert federation.run().round == ROUNDS
    missed = federation.of_kind("evaluation_missed")
    assert [event["round"] for event in missed] == list(range(ROUNDS + 1))
    assert all("impossible figures" in event["detail"] for event in missed)


class Ticking(Clock):
    """A second passes whenever somebody looks."""

    def __init__(self):
        self.at = 0.0

    def now(self):
        self.at += 1.0
        return self.at


@pytest.mark.parametrize("stage", ["keys", "shares", "delivery", "signatures", "unmasking"])
def test_a_member_that_only_reports_progress_holds_a_stage_for_two_minutes_and_the_run_once(
    federate, fake_model, stage
):
    federation = begin_small(federate, fake_model)
    channel = federation.channel
    channel.open_ended, channel.clock = True, Ticking()
    times = {}

    def silent(asked):
        times.setdefault((asked.round, asked.client, stage_of(asked)), []).append(channel.clock.at)
        return asked.client == MALLORY and asked.round == 2 and stage_of(asked) == stage

    channel.silent = silent
    assert federation.run().round == ROUNDS
    late = [event for event in federation.of_kind("update_refused") if event["reason"] == "late"]
    assert [(event["client"], event["stage"]) for event in late] == [(MALLORY, stage)]
    assert late[0]["detail"]
    waited = times[2, MALLORY, stage]
    assert waited[-1] - waited[0] < 200


def test_a_server_that_is_stopped_in_each_stage_of_a_round_of_groups_goes_on_to_the_same_bits(
    federate, fake_model, monkeypatch
):
    whole, stopped = (begin_in_groups(federate, fake_model, monkeypatch, away) for _ in range(2))
    expected, left, asked = whole.run(), ["shares", "train", "signatures", "unmasking"], 0

    def stop(task):
        nonlocal asked
        asked += bool(left) and (task.round, stage_of(task)) == (1, left[0])
        if asked == 10:
            asked = 0
            del left[0]
            raise RunInterrupted("stopped")

    stopped.channel.before = stop
    for _ in range(4):
        with pytest.raises(RunInterrupted):
            stopped.run()
    assert stopped.run().adapter.digest() == expected.adapter.digest()
    sums = [(event["round"], event["purpose"]) for event in stopped.of_kind("sum_unmasked")]
    assert sums.count((1, "train")) == sums.count((2, "train")) == 3
