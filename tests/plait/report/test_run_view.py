from __future__ import annotations

from dataclasses import replace

from plait.report.fold import fold_events


def test_training_speed_is_all_tokens_over_all_training_time(small_run) -> None:
    # Two rounds of ann (100 tokens in 2 s) and bob (300 tokens in 2 s).
    assert fold_events(small_run).train_tokens_per_s == (100 + 300) * 2 / (2.0 * 4)


def test_the_base_alone_is_no_final_evaluation(small_run) -> None:
    view = fold_events(small_run)
    only_base = replace(view, evaluations=view.evaluations[:1])
    assert only_base.base_evaluation is not None
    assert only_base.final_evaluation is None


def test_a_stranger_whose_update_was_refused_is_no_client(small_run) -> None:
    stranger = {"event": "update_refused", "round": 1, "client": "mallory", "reason": "unknown", "uplink_bytes": 9}
    view = fold_events([*small_run, stranger])
    assert view.client_names == ("ann", "bob")
    assert view.sent.uplink_bytes == fold_events(small_run).sent.uplink_bytes + 9
