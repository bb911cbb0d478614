import json
import math

import pytest

from plait.errors import PeerError
from plait.ledger import events
from plait.ledger.events import (
    EVENTS,
    Adapter,
    Base,
    ClientScore,
    Evaluated,
    Event,
    Reference,
    RoundStarted,
    RunStarted,
    parse_event,
)

STARTED = RunStarted(
    seed=1, config={"rank": 8}, base=Base(name="tiny"), adapter=Adapter(trainable_parameters=9), full_model_bytes=36
)


def test_every_event_has_a_name_of_its_own_and_is_in_the_table():
    assert len({model.event for model in EVENTS}) == len(EVENTS)
    models = {model for model in vars(events).values() if isinstance(model, type) and issubclass(model, Event)}
    assert set(EVENTS) == models - {Event}


@pytest.mark.parametrize(
    "event",
    [
        STARTED,
        RoundStarted(round=1, cohort=("ann", "bob")),
        Evaluated(round=0, loss=2.5, accuracy_interval=(0.5, 0.75), by_client={"ann": ClientScore(loss=2.5)}),
        Reference(kind="central", held_out_loss=2.0, held_out_loss_by_round=(2.5, None, 2.0)),
    ],
    ids=lambda event: event.event,
)
def test_an_event_survives_json(event):
    line = json.loads(json.dumps({"event": event.event, **event.fields()}))
    assert parse_event(line) == event


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"loss": 1, "round": True}, r"'round' is True, expected a valid integer"),
        ({"loss": 1}, r"'round' is missing"),
        ({"round": 1, "loss": math.nan}, r"'loss' is nan, expected a finite number"),
        ({"round": 1, "loss": 1, "by_client": {"ann": {"loss": "x"}}}, r"'by_client.ann.loss' is 'x', expected"),
        ({"round": 1, "loss": 1, "accuracy_interval": [0.5]}, r"'accuracy_interval.1' is missing"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_place(line, says):
    with pytest.raises(PeerError, match=rf"event 3 \(evaluated\): {says}"):
        parse_event({"seq": 3, "event": "evaluated", **line})


def test_fields_and_kinds_of_a_newer_version_are_passed_over():
    assert parse_event({"event": "round_started", "round": 1, "weather": "fine"}) == RoundStarted(round=1)
    newer = parse_event({"event": "from_the_future", "seq": 4, "time": 2.5, "hash": "ab", "round": "x"})
    assert newer == Event(seq=4, time=2.5, hash="ab")
