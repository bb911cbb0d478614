import pandas as pd
import pytest

from plait.api.frames import losses, rounds, updates
from tests.plait.conftest import broadcast, numbered, received, round_finished, run_started, view_of


def test_losses_have_a_row_per_round_client_and_kind_of_adapter(run_with_own) -> None:
    frame = losses(view_of(run_with_own(2.25, {"ann": 2.0, "bob": 2.5})))
    shared = frame[frame.adapter == "shared"].pivot_table(index="round", columns="client", values="loss")
    assert shared.to_dict("list") == {"ann": [3.0, 2.75, 2.5], "bob": [5.0, 4.25, 3.5]}
    personalized = frame[frame.adapter == "personalized"]
    assert personalized[["round", "client", "loss"]].values.tolist() == [[2, "ann", 2.0], [2, "bob", 2.5]]


def test_updates_count_every_byte_of_the_client_in_its_round(small_run) -> None:
    first = updates(view_of(small_run)).set_index(["round", "client"]).loc[(1, "ann")]
    # Training, then an evaluation in the same round.
    assert (first.downlink_bytes, first.uplink_bytes) == (1000 + 100, 3000 + 50)
    assert first.bytes == 1000 + 100 + 3000 + 50
    assert (first.norm, first.drift, first.train_loss, first.tokens) == (0.5, 1.0, 3.0, 100)
    assert pd.isna(first.first_loss)


def test_an_asynchronous_update_is_of_the_round_that_it_is_part_of(small_run) -> None:
    late = received(1, "ann", 3000) | {"fold": 2, "staleness": 1, "weight": 1.0}
    run = numbered([small_run[0], broadcast(1, "ann", 500), late, round_finished(1, 0), round_finished(2, 1)])
    (update,) = updates(view_of(run)).to_dict("records")
    assert (update["round"], update["client"], update["uplink_bytes"], update["norm"]) == (2, "ann", 3000, 0.5)


def test_rounds_state_the_bytes_before_each_evaluation(small_run) -> None:
    before_round_1 = 2 * (10 + 20)
    before_round_2 = before_round_1 + 1000 + 2000 + 3000 + 4000 + 100 + 50
    frame = rounds(view_of(small_run))
    assert frame["round"].tolist() == [0, 1, 2]
    assert frame.loss.tolist() == [4.0, 3.5, 3.0]
    assert frame.bytes.tolist() == [before_round_1, before_round_2, before_round_2 + 10_000]


@pytest.mark.parametrize("frame_of", [losses, updates, rounds])
def test_columns_and_types_are_the_same_before_anything_has_happened(frame_of, small_run) -> None:
    empty, full = frame_of(view_of([run_started()])), frame_of(view_of(small_run))
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
