from dataclasses import dataclass, replace

import numpy as np
import pytest

from plait.adapters import AdapterState, subtract
from plait.aggregation import Side
from plait.rounds.client_pipeline import (
    ErrorFeedback,
    Outgoing,
    Slope,
    after_training,
    before_training,
    kept_side,
    with_own,
)
from plait.rounds.local_model import StepReport, Trained, TrainJob
from plait.rounds.memory import Kept
from plait.wire.envelope import Direction, Header
from tests.plait.rounds.conftest import LAYOUT


@dataclass(frozen=True)
class Count:
    """A hook that keeps how many rounds it saw, and moves the start by it."""

    key: str
    seen: list

    def applies(self, settings):
        return settings.seed != 99

    def before(self, job):
        self.seen.append(f"before {self.key}")
        count = int(job.kept[self.key].tags.get("count", "0"))
        return replace(job, start=AdapterState(job.start.layout, job.start.flat + np.float32(count)))

    def after(self, job, outgoing):
        self.seen.append(f"after {self.key}")
        return outgoing, Kept(tags={"count": str(int(job.kept[self.key].tags.get("count", "0")) + 1)})


@pytest.fixture
def job(federate):
    federation = federate()
    model, spec = federation.models["bob"], federation.ranks.master.spec
    header = Header(Direction.BROADCAST, b"r" * 16, 0, "", model.base_fingerprint, spec.digest, result_digest=b"d" * 32)
    settings = replace(federation.plan.settings, round=1)
    return TrainJob(model, spec, settings, federation.initial, federation.initial, header=header)


def moved(job, amount):
    return Trained(AdapterState(job.start.layout, job.start.flat + np.float32(amount)), StepReport(1.0, 8, 0.1))


def test_hooks_run_forward_and_backward_and_get_what_they_left_in_a_repeated_round_the_same_again(job, federate):
    memory, seen = federate().memories["bob"], []
    hooks = (Count("one", seen), Count("two", seen))
    for number, starts in ((1, 0), (2, 2), (2, 2), (3, 4)):
        seen.clear()
        begun = before_training(hooks, replace(job, settings=replace(job.settings, round=number)), memory)
        assert subtract(begun.start, job.start).flat == pytest.approx(starts)
        after_training(hooks, begun, moved(begun, 1), memory)
        assert seen == ["before one", "before two", "after two", "after one"]


def test_every_client_ends_with_its_own_and_is_judged_by_both(federate):
    federation = federate(rounds=4, settings={"personalize": 0.5, "total_steps": 8})
    after = federation.run().adapter.flat
    plan, shared = federation.plan, federation.initial.flat.astype(np.float64)
    names = sorted(federation.models)
    apart = dict.fromkeys(names, np.zeros(shared.size))
    sizes = np.array([federation.models[name].train_examples for name in names], np.float64)

    for number in range(1, plan.rounds + 1):
        share = 0.5 / 7 if number == plan.rounds else 0.0
        starts = {name: shared + share * apart[name] for name in names}
        left = {name: federation.train_alone(name, starts[name], number) for name in names}
        led = {name: left[name] + (0.7 - share) * apart[name] for name in names}
        shared = shared + sizes @ np.array([left[name] - starts[name] for name in names]) / sizes.sum()
        apart = {name: led[name] - shared for name in names}
    np.testing.assert_allclose(after, shared, rtol=0, atol=1e-6)

    evaluated = federation.of_kind("evaluated")
    assert [event["round"] for event in evaluated if "own" in event] == [plan.rounds]
    last = evaluated[-1]
    for name in names:
        target = federation.models[name].target
        for found, adapter in ((last, shared), (last["own"], shared + 0.5 * apart[name])):
            assert found["by_client"][name]["loss"] == pytest.approx(np.mean((adapter - target) ** 2), rel=1e-4)


def test_a_side_stays_with_its_client_and_the_other_follows_the_server(ranks):
    geometry, mine = ranks.master.geometry, ranks.master.initial
    (pair,) = geometry.pairs
    broadcast = AdapterState(mine.layout, mine.flat + np.float32(1))

    state = with_own(broadcast, kept_side(mine, geometry, Side.B), geometry, Side.B)

    np.testing.assert_array_equal(pair.b_of(state.flat), pair.b_of(mine.flat))
    np.testing.assert_array_equal(pair.a_of(state.flat), pair.a_of(broadcast.flat))


def test_the_server_takes_longer_steps_where_the_slope_at_the_end_of_the_last_is_below_zero(federate, fake_model):
    steps = {}
    for optimizer in ("none", "line_search"):
        federation = federate(
            {"alice": fake_model(3, 3), "bob": fake_model(3, 3)},
            rounds=2,
            optimizer=optimizer,
            settings={"measures_slope": True, "batch_size": 4},
        )
        federation.run()
        steps[optimizer] = [event["update_norm"] for event in federation.of_kind("round_finished")]
    assert steps["line_search"] == pytest.approx([steps["none"][0], 1.5 * steps["none"][1]])


def test_the_movement_is_that_since_the_round_before_for_a_client_that_begins_where_it_ended(job):
    job, received = replace(job, settings=replace(job.settings, round=5)), job.received
    before = replace(received, flat=received.flat - np.float32(0.5))

    def movement(job, *, kept_in=4):
        _, kept = Slope().after(replace(job, received=before), None)
        return Slope().before(replace(job, kept={"slope": replace(kept, round=kept_in)})).carried.movement

    np.testing.assert_allclose(movement(job), 0.5, rtol=1e-5)
    assert movement(job, kept_in=3) is None
    assert movement(replace(job, start=before)) is None
    assert Slope().before(replace(job, kept={"slope": Kept()})).carried.movement is None


@pytest.mark.parametrize(("kept_in", "counts"), [(4, True), (3, False), (0, False)])
def test_a_client_that_was_away_for_a_round_begins_without_a_residual(job, kept_in, counts):
    owed, delta = (AdapterState(LAYOUT, np.linspace(*ends, LAYOUT.size, dtype=np.float32)) for ends in ((1, 2), (0, 1)))
    kept = {"residual": Kept(kept_in, {"owed": owed.flat})}
    job = replace(job, settings=replace(job.settings, round=5), kept=kept)
    sent, _ = ErrorFeedback().after(job, Outgoing(None, delta))
    np.testing.assert_array_equal(sent.encoded.delta.flat, delta.flat + owed.flat if counts else delta.flat)
