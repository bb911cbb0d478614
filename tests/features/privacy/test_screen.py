from plait.features.privacy.run import KEPT_OF_RECORDS
from plait.rounds import events
from plait.rounds.withheld import KEPT, screened


def test_where_records_are_private_an_update_keeps_what_its_noise_covers():
    measured = {"tokens", "examples", "train_loss", "first_loss", "train_s", "took_s", "codec_s", "distortion"}
    left_out = measured | {"learning_rate", "shortened"}
    update = events.UpdateReceived(
        round=1, client="a", uplink_bytes=1017, payload_bytes=900, envelope_bytes=100, codec="trellis", digest="ab",
        bits_per_parameter=1.0, norms={"product": 2.0}, signed="cd", signature="ef", epsilon=0.5, tokens=9, examples=3,
        train_loss=2.0, first_loss=2.5, train_s=1.0, took_s=2.0, codec_s=0.1, distortion=0.3, learning_rate=0.01,
        shortened=0.5,
    )  # fmt: skip
    kept = screened(update, kept=KEPT_OF_RECORDS)
    assert kept is not None
    assert {name for name, value in update.fields().items() if kept.fields().get(name) != value} == left_out
    assert screened(events.Evaluated(round=1, loss=2.0), kept=KEPT_OF_RECORDS) is None
    assert KEPT_OF_RECORDS.keys() == KEPT.keys()
