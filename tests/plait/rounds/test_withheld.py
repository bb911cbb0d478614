import pytest

from plait.rounds import events
from plait.rounds.events import EVENTS, Event
from plait.rounds.ledger import KEPT, screened

# What a client computes from its data, by event; somebody has decided for every other field that it may be read.
LEFT_OUT = {
    "run_started": {"data"},
    "update_received": {
        "payload_bytes", "envelope_bytes", "bits_per_parameter", "distortion", "codec_s", "examples", "tokens",
        "train_loss", "first_loss", "train_s", "took_s", "digest", "norms", "signed", "signature", "uplink_bytes",
        "learning_rate", "shortened", "reward", "refused_completions", "epsilon",
        "fold", "staleness", "weight",  # of asynchronous runs, which are not private
    },
    "update_refused": {"detail", "uplink_bytes"},
    "client_turned_away": {"detail"},
    "reply_received": {"uplink_bytes"},
    "round_finished": {"clipped", "weight_capped", "diagnostics"},
}  # fmt: skip
AS_A_WHOLE = {"evaluated", "step_taken_back", "reference"}


@pytest.mark.parametrize("model", EVENTS, ids=lambda model: model.event)
def test_somebody_has_decided_on_every_field_of_every_event(model):
    assert model in KEPT
    kept = KEPT[model]
    fields = set(model.model_fields) - {"seq", "time", "hash"}
    left_out = set() if kept == {"*"} else fields - kept
    assert left_out == (fields if model.event in AS_A_WHOLE else LEFT_OUT.get(model.event, set()))


def test_an_event_without_a_decision_is_left_out():
    class New(Event):
        event = "new"
        loss: float = 1.0

    assert screened(New(), update_bytes=1) is None


def test_of_the_run_s_beginning_only_the_data_are_left_out():
    data = events.DataUsed(name="notes.jsonl", fingerprint="ab" * 32, records=70)
    adapter = events.Adapter(trainable_parameters=9)
    began = events.RunStarted(
        seed=1, config={"rounds": 2}, base=events.Base(name="tiny"), adapter=adapter, full_model_bytes=8,
        rule=events.CombiningRule(name="fedavg"), parents=({"name": "a"},), data=data,
        plugins=(events.Plugin(kind="rule", name="mine:rule"),),
    )  # fmt: skip
    assert screened(began, update_bytes=1) == began.model_copy(update={"data": None})


def test_of_a_client_only_name_rank_and_key_are_kept():
    card = events.DescribedClient(
        client="a", train_examples=7, train_tokens=70, histogram={"x": 7}, rank=8, public_key="ab"
    )
    (kept,) = screened(events.ClientsDescribed(clients=(card,)), update_bytes=1).clients
    assert kept == events.DescribedClient(client="a", rank=8, public_key="ab")


def test_an_update_has_the_size_that_its_encoding_aims_at():
    update = events.UpdateReceived(round=1, client="a", uplink_bytes=1017, codec="trellis", train_loss=2.0, tokens=9)
    kept = screened(update, update_bytes=1000)
    assert kept == events.UpdateReceived(round=1, client="a", uplink_bytes=1000, codec="trellis")


def test_an_event_of_a_feature_that_says_nothing_of_clients_is_kept():
    class Told(Event):
        event = "told"
        is_public = True
        sums: int = 3

    assert screened(Told(), update_bytes=1) == Told()
