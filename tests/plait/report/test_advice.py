from plait.report.answers import advice
from plait.report.summary import summarise
from tests.plait.conftest import evaluated, finished, numbered, round_finished, run_started, view_of


def watched(*events, kept_round):
    rounds = [round_finished(number, 2) for number in (1, 2, 3)]
    losses = [evaluated(number, loss, {"ann": loss}) for number, loss in enumerate((4.0, 3.5, 3.8, 3.6))]
    end = {**finished(3), "kept_round": kept_round}
    return view_of(numbered([run_started(), *rounds, *losses, *events, end]))


def test_a_step_that_was_taken_back_is_told_with_what_would_avoid_it():
    event = {"event": "step_taken_back", "round": 2, "worse": 0.3, "accepted": 1, "scale": 0.5}
    rose = "After round 2 the held-out loss was 0.300 above the best evaluation"
    half = tuple(advice(watched({**event, "taken_back": "half", "adapter": "ab" * 32}, kept_round=3)))
    assert half[:2] == (
        f"{rose}: half of the step since round 1 was taken back, and later steps count 0.5 times.",
        "A lower --learning-rate, or lr of --server-optimizer, would avoid that.",
    )
    (whole, *_) = advice(watched({**event, "taken_back": "all"}, kept_round=3))
    assert whole == f"{rose}: the step since round 1 was taken back."


def test_a_run_that_ended_early_and_kept_an_earlier_round_says_both():
    refused = {"event": "not_published", "round": 3, "kept": 1, "risen": 0.1, "above": 1}
    view = watched(
        {"event": "ended_early", "round": 3, "reason": "callback Enough asked for it"}, refused, kept_round=1
    )
    why = "its held-out loss is 0.100 above that of round 1"
    assert tuple(advice(view))[:2] == (
        "The run ended after round 3: callback Enough asked for it.",
        f"The adapter of round 3 is not published, because {why}; that of round 1 stays.",
    )
    assert view.final_evaluation is not None
    assert view.final_evaluation.loss == 3.5
    assert summarise(view)["final_held_out_loss"] == 3.5
    assert summarise(view)["kept_round"] == 1
