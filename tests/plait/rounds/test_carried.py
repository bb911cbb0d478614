from dataclasses import replace

import numpy as np
import pytest

from plait.rounds.hooks import Slope
from plait.rounds.local_model import TrainJob
from plait.rounds.memory import Kept


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


def test_the_movement_is_that_since_the_round_before_for_a_client_that_begins_where_it_ended(federate, fake_model):
    federation = federate({"alice": fake_model(3, 3)}, settings={"measures_slope": True})
    spec, received = federation.models["alice"].prepare(federation.ranks.master.spec.text)
    job = TrainJob(
        federation.models["alice"], spec, replace(federation.plan.settings, round=5), received, start=received
    )
    before = replace(received, flat=received.flat - np.float32(0.5))

    def movement(job, *, kept_in=4):
        _, kept = Slope().after(replace(job, received=before), Kept(), None)
        return Slope().before(job, replace(kept, round=kept_in)).carried.movement

    np.testing.assert_allclose(movement(job), 0.5, rtol=1e-5)
    assert movement(job, kept_in=3) is None
    assert movement(replace(job, start=before)) is None
    assert Slope().before(job, Kept()).carried.movement is None
