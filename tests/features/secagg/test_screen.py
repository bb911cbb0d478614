from plait.features.secagg.run import KEPT_MASKED
from plait.rounds import events
from plait.rounds.withheld import KEPT, screened


def test_under_masks_the_mean_is_kept_and_no_client_s_own():
    mean = events.Evaluated(round=1, loss=2.0, by_client={"a": events.ClientScore(loss=3.0)})
    assert screened(mean, update_bytes=1) is None
    assert screened(mean, kept=KEPT_MASKED) == mean.model_copy(update={"by_client": {}})
    update = events.UpdateReceived(round=1, client="a", uplink_bytes=1017, codec="ring", train_loss=2.0, examples=9)
    kept = screened(update, kept=KEPT_MASKED)
    assert kept == events.UpdateReceived(round=1, client="a", uplink_bytes=1017, codec="ring")
    assert KEPT_MASKED.keys() == KEPT.keys()
