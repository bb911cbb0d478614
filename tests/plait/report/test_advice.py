from plait.aggregation import RULES
from plait.federation import rule_recorded
from plait.report.advice import advice
from plait.report.summary import summarise
from tests.plait.conftest import evaluated, finished, numbered, round_finished, run_started, view_of


def told(rule="fedavg", rounds=2, drift=None, **figures):
    drift = drift or {"ann": 1.0, "bob": 1.1, "cyd": 0.9, "dan": 1.0}
    diagnostics = {"error": 0.0, "covariance": 0.0, "effective_rank": 4.0, "agreement": 0.9} | figures
    diagnostics |= {"drift": drift, "update_norms": drift, "modules": 8, "exact_norm": 1.0}
    events = [
        round_finished(number + 1, len(drift)) | {"rule": rule, "diagnostics": diagnostics} for number in range(rounds)
    ]
    started = run_started()
    started |= {"rule": rule_recorded(RULES[rule]).model_dump(mode="json")}
    return " ".join(advice(view_of(numbered([started, *events, finished(rounds)]))))


def test_the_learning_rates_that_clients_found_are_told(small_run):
    def said(given, **figures):
        first, *rest = small_run
        first = first | {"config": first["config"] | {"learning-rate": given}}
        rest = [event | figures if event["event"] == "update_received" else event for event in rest]
        return " ".join(advice(view_of(numbered([first, *rest]))))

    assert "Learning rate found by each client: 0.0028." in said(0.0, learning_rate=0.00281)
    assert "too high: 90% of the local steps" in said(0.03, learning_rate=0.03, shortened=0.9)
    assert "earning rate" not in said(0.03, learning_rate=0.03, shortened=0.4)
    assert "earning rate" not in said(0.03)


def test_a_large_covariance_names_rules_without_it():
    assert "loses up to 12.0 %" in told(covariance=0.12, error=0.12)
    named = "--rule fedex is exact, but moves the base; --rule product_mean keeps the best adapter"
    assert named in told(covariance=0.12, error=0.12)


def test_a_small_covariance_says_that_an_exact_rule_gains_little():
    assert "would gain little over fedavg" in told(covariance=0.01, error=0.01)


def test_a_rule_that_is_exact_is_told_nothing_of_covariance():
    assert told(rule="fedex", covariance=0.3) == ""


def test_a_truncated_product_asks_for_a_larger_rank():
    assert "a larger --rank" in told(rule="product_mean", covariance=0.3, error=0.2)


def test_clients_at_right_angles_are_named_only_where_they_are():
    assert "nearly orthogonal" in told(agreement=0.5)
    assert "nearly orthogonal" not in told(agreement=0.9)
    assert "nearly orthogonal" not in told(rule="fedsa", agreement=0.5)


def test_a_client_far_beyond_the_others_is_named():
    assert "eve moves 9.0 times" in told(drift={"ann": 1.0, "bob": 1.0, "eve": 9.0, "dan": 1.0})
    assert "moves" not in told(drift={"ann": 1.0, "bob": 2.0, "eve": 1.5, "dan": 1.0})


def test_a_federation_that_loses_to_its_clients_is_told_so(small_run, run_with_own):
    alone = {"event": "reference", "kind": "local", "held_out_loss": 2.5, "by_client": {"ann": 2.4, "bob": 2.6}}

    def said(run):
        return " ".join(advice(view_of(numbered([*run[:-1], alone, run[-1]]))))

    assert "The local-only baseline reaches 2.500" in said(small_run)
    assert "the federation 3.000: a shared adapter" in said(small_run)
    assert "the federation 2.750: clients have too little" in said(run_with_own(2.75, {"ann": 2.75}))
    assert "alone" not in said(run_with_own(2.25, {"ann": 2.25}))
    assert "alone" not in " ".join(advice(view_of(small_run)))


def test_own_adapters_that_are_no_better_are_advised_against(run_with_own):
    assert "--own-share 0 would spend" in " ".join(advice(view_of(run_with_own(3.25, {"ann": 3.25}))))
    assert "--own-share 0 would spend" not in " ".join(advice(view_of(run_with_own(2.75, {"ann": 2.75}))))


def test_a_difference_within_chance_is_no_reason_for_advice(small_run, run_with_own):
    run = run_with_own(3.25, {"ann": 3.25})
    alone = {"event": "reference", "kind": "local", "held_out_loss": 2.9, "by_client": {"ann": 2.9, "bob": 2.9}}
    alone |= {"change": -1.1, "change_margin": 0.3}

    def said(margin):
        changed = []
        for event in run:
            if event["event"] == "evaluated" and "own" in event:
                sure = {"change": -1.0, "change_margin": margin}
                event = event | sure | {"own": event["own"] | sure}
            changed.append(event)
        return " ".join(advice(view_of(numbered([*changed[:-1], alone, changed[-1]]))))

    assert "--own-share 0 would spend" in said(0.1)
    assert "--own-share 0 would spend" not in said(0.2)
    assert "local-only baseline" not in said(0.01)


def watched(*events, kept_round):
    rounds = [round_finished(number, 2) for number in (1, 2, 3)]
    losses = [evaluated(number, loss, {"ann": loss}) for number, loss in enumerate((4.0, 3.5, 3.8, 3.6))]
    end = {**finished(3), "kept_round": kept_round}
    return view_of(numbered([run_started(), *rounds, *losses, *events, end]))


def test_a_step_that_was_taken_back_is_told_with_what_would_avoid_it():
    event = {"event": "step_taken_back", "round": 2, "worse": 0.3, "accepted": 1, "scale": 0.5}
    rose = "After round 2 the held-out loss was 0.300 above the best evaluation"
    half = advice(watched({**event, "taken_back": "half", "adapter": "ab" * 32}, kept_round=3))
    assert half[:2] == (
        f"{rose}: half of the step since round 1 was taken back, and later steps count 0.5 times.",
        "A lower --learning-rate, or lr of --server-optimizer, would avoid that.",
    )
    (stays, *_) = advice(watched({**event, "taken_back": "nothing"}, kept_round=3))
    assert stays.endswith("the step since round 1 stays, because this rule moves the base.")


def test_a_run_that_ended_early_and_kept_an_earlier_round_says_both():
    view = watched({"event": "ended_early", "round": 3, "idle": 2}, kept_round=1)
    assert advice(view)[:2] == (
        "The run ended after round 3: its last 2 evaluations brought no lower loss.",
        "The published adapter is that of round 1, the best evaluated one.",
    )
    assert view.final_evaluation is not None
    assert view.final_evaluation.loss == 3.5
    assert summarise(view)["final_held_out_loss"] == 3.5
    assert summarise(view)["kept_round"] == 1


def test_every_rule_that_averages_apart_names_the_alternatives_and_no_other_rule_does():
    for name, rule in RULES.items():
        assert ("Averaging B and A separately" in told(rule=name, covariance=0.12, error=0.12)) == rule.separate


def test_a_ledger_that_records_no_rule_gets_no_advice_on_it():
    events = [run_started(), *(round_finished(number, 2) for number in (1, 2)), finished(2)]
    assert "Averaging" not in " ".join(advice(view_of(numbered(events))))
